"""The bounds in SECURITY.md, counted event by event with the limits themselves instead of by a formula."""

import math
import re
from pathlib import Path

import pytest

from services.callcore.settings import Settings as CallcoreSettings
from services.gateway.settings import Settings as GatewaySettings
from services.presence.join_limiter import FREE
from services.presence.settings import Settings as PresenceSettings
from shared.token_bucket import ByteRate, Rate
from signalling.docgen import bounds

PAGE = (Path(__file__).resolve().parents[3] / "SECURITY.md").read_text()
GATEWAY, CALLCORE = GatewaySettings.model_construct(), CallcoreSettings.model_construct()
PRESENCE = PresenceSettings.model_construct()
HOUR = 3600


def numbers(who: str, what: str) -> list[float]:
    """The numbers in the cell "at most" of a row of the page."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {who} | {what}")]
    return [float(found.replace(",", "")) for found in re.findall(r"[0-9][0-9,.]*", row.split(" | ")[2])]


def admitted(rate: Rate, begin: int, end: int) -> int:
    """How many events get through from ``begin`` on and before ``end``, if a client tries all the time from 0 on."""
    now, allowed_at, count = 0.0, -math.inf, 0
    while now < end - 1e-6:
        allowed_at = rate.after(allowed_at, now)
        count += now >= begin - 1e-6
        now = max(now, allowed_at)
    return count


def kib(rate: Rate, seconds: float) -> int:
    """How many KiB a client gets through in ``seconds``, one at a time."""
    bucket = ByteRate.of_kib(rate)
    full_at, count, now = 0.0, 0, 0.0
    while now < seconds:
        charged = bucket.charge(full_at, now, 1024)
        if (wait := bucket.wait(charged, now)) > 1e-9:
            now += wait
            continue
        full_at, count = charged, count + 1
    return count


@pytest.mark.parametrize(
    ("who", "what", "rate", "first"),
    [
        ("user", "joins", PRESENCE.joins_per_user, 0),
        ("user", "joins", FREE, 2),
        ("caller", "rings of all users", CALLCORE.rings_per_caller, 0),
        ("callee", "rings by callers", CALLCORE.rings_per_callee, 0),
    ],
)
def test_events_an_hour(who: str, what: str, rate: Rate, first: int) -> None:
    found = numbers(who, what)[first : first + 2]
    assert found == pytest.approx([admitted(rate, 0, HOUR), admitted(rate, HOUR, 2 * HOUR)], abs=1)


def test_bytes_in_the_mailboxes() -> None:
    age = max(60, 2 * CALLCORE.resume_window_seconds)
    room = CALLCORE.deliver_max_mb * 1024
    user, side = kib(GATEWAY.rate_user_kb, age), kib(CALLCORE.rate_call_kb, age)
    mib, percent = numbers("user", "memory of `DELIVER`")
    assert (mib, percent) == (
        pytest.approx(user / 1024, rel=0.01),
        pytest.approx(100 * user / room, rel=0.05),
    )
    mib, calls = numbers("one side of a call", "the same")
    assert mib == pytest.approx(side / 1024, rel=0.01)
    assert calls * 2 * side == pytest.approx(room, rel=0.02)


@pytest.mark.parametrize(
    ("how", "seconds"), [("that ring to the end", 45), ("that are cancelled at once", 0)]
)
def test_rings_of_one_caller_at_one_callee(how: str, seconds: int) -> None:
    assert seconds in (0, CALLCORE.ring_timeout_seconds)
    begun: list[float] = []
    at, wait = 0.0, CALLCORE.ring_backoff_seconds
    while at < 2 * HOUR:
        begun.append(at)
        at += seconds
        if len(begun) >= 3:
            at += min(wait, CALLCORE.ring_backoff_max_seconds)
            wait *= 2
    first = sum(at < HOUR for at in begun)
    assert numbers("caller and callee", f"rings {how}") == [first, len(begun) - first]


def test_what_is_one_number_or_a_product() -> None:
    address, sockets = GATEWAY.connections_per_address, GATEWAY.connections_per_user
    assert numbers("user", "sessions") == [PRESENCE.sessions_per_user, sockets]
    unread = sockets * GATEWAY.unread_max_kb / 1024
    assert numbers("user", "memory of a gateway") == [unread, GATEWAY.unread_total_mb]
    assert numbers("address", "connections") == [address, 4 * address]
    places = min(address, GATEWAY.unjoined_max)
    share = round(100 * places / GATEWAY.unjoined_max)
    assert numbers("address", "places") == [places, share, GATEWAY.join_timeout_seconds]
    assert numbers("address", "memory of a gateway") == [address * GATEWAY.max_frame_kb / 1024]


def test_a_default_that_changes_changes_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make lint` and the test of generated pages compare the table with the page."""
    table = bounds.table()
    assert table in PAGE
    for settings, names in (
        (PresenceSettings, ("joins_per_user", "sessions_per_user")),
        (CallcoreSettings, ("rate_call_kb", "rings_per_caller", "rings_per_callee", "ring_backoff_seconds")),
        (
            CallcoreSettings,
            ("ring_backoff_max_seconds", "deliver_max_mb", "events_max_mb", "events_max_age_hours"),
        ),
        (
            GatewaySettings,
            ("rate_user_kb", "connections_per_address", "connections_per_user", "unjoined_max"),
        ),
        (GatewaySettings, ("unread_max_kb", "unread_total_mb", "max_frame_kb", "join_timeout_seconds")),
    ):
        for name in names:
            default = getattr(settings.model_construct(), name)
            other = Rate(default.events * 2, default.seconds) if isinstance(default, Rate) else default * 2
            construct = settings.model_construct
            with monkeypatch.context() as changed:
                changed.setattr(settings, "model_construct", lambda c=construct, n=name, o=other: c(**{n: o}))
                assert bounds.table() != table, name
