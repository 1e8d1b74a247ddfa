"""Compute what one user and one address can cost all others, from the defaults of the settings and fixed limits."""

from collections.abc import Iterator
from typing import NamedTuple

from services.callcore.calls.ring_limiter import RingLimits
from services.callcore.relay.delivery import EARLY_MAX, EARLY_MAX_BYTES
from services.callcore.settings import Settings as CallcoreSettings
from services.gateway.settings import Settings as GatewaySettings
from services.presence.join_limiter import FREE
from services.presence.settings import Settings as PresenceSettings
from shared.nats.streams import EVENTS_PER_SUBJECT, MAILBOX_MAX
from shared.token_bucket import Rate

HOUR = 3600


class Bound(NamedTuple):
    """Describes a row of the table. ``cost``: the most that ``who`` can use. ``source``: the settings behind it."""

    who: str
    what: str
    cost: str
    source: str


def most(rate: Rate, seconds: int) -> int:
    """Return how many events ``rate`` lets through in the first ``seconds``: all at once, and what is refilled."""
    return rate.events + refilled(rate, seconds)


def refilled(rate: Rate, seconds: int) -> int:
    """Return how many events ``rate`` lets through in ``seconds`` once the burst is spent."""
    return rate.events * seconds // rate.seconds


def rings(limits: RingLimits, ring_seconds: float, begin: float, end: float) -> int:
    """Count the unanswered rings that one caller begins at one callee from ``begin`` to ``end`` (seconds)."""
    at, unanswered, found = 0.0, 0, 0
    while at < end:
        found += at >= begin
        unanswered += 1
        at += ring_seconds + max(limits.backoff(unanswered), 0.001)
    return found


def bounds() -> Iterator[Bound]:
    """Compute each row from the defaults."""
    # Without a look at the environment or `.env`.
    gateway, callcore = GatewaySettings.model_construct(), CallcoreSettings.model_construct()
    presence = PresenceSettings.model_construct()
    age = callcore.deliver_max_age_seconds or max(60, 2 * callcore.resume_window_seconds)
    user_kb, call_kb = most(gateway.rate_user_kb, age), most(callcore.rate_call_kb, age)
    pairs = callcore.deliver_max_mb * 1024 // (2 * call_kb)
    limits = RingLimits(
        callcore.rings_per_caller,
        callcore.rings_per_callee,
        callcore.ring_backoff_seconds,
        callcore.ring_backoff_max_seconds,
    )
    joins, caller, callee = presence.joins_per_user, callcore.rings_per_caller, callcore.rings_per_callee

    yield Bound(
        "user",
        "joins in the first hour; in each later one",
        f"{most(joins, HOUR):,}; {refilled(joins, HOUR):,}; "
        f"or {most(FREE, HOUR)}; {refilled(FREE, HOUR)} at each instance of presence, where that is more",
        "`JOINS_PER_USER`, fixed (`FREE`)",
    )
    yield Bound(
        "user",
        "sessions; sockets at a gateway",
        f"{presence.sessions_per_user}; {gateway.connections_per_user}",
        "`SESSIONS_PER_USER`, `CONNECTIONS_PER_USER`",
    )
    yield Bound(
        "user",
        "memory of a gateway for what the user's sockets do not read",
        f"{_mib(gateway.connections_per_user * gateway.unread_max_kb)}; all clients together "
        f"{gateway.unread_total_mb} MiB",
        "`CONNECTIONS_PER_USER`, `UNREAD_MAX_KB`, `UNREAD_TOTAL_MB`",
    )
    yield Bound(
        "user",
        f"memory of `DELIVER` ({callcore.deliver_max_mb} MiB for all), which keeps {age} s, by one gateway",
        f"{_mib(user_kb)}, {_percent(user_kb, callcore.deliver_max_mb * 1024)}",
        "`RATE_USER_KB`, `DELIVER_MAX_MB`",
    )
    yield Bound(
        "one side of a call",
        "the same, by all gateways, by offers and answers",
        f"{_mib(call_kb)}; {pairs} calls fill it",
        "`RATE_CALL_KB`, `DELIVER_MAX_MB`",
    )
    yield Bound(
        "session", "messages of one event in its mailbox", f"{MAILBOX_MAX:,}", "fixed (`MAILBOX_MAX`)"
    )
    yield Bound(
        "call",
        "early media in memory of a callcore",
        f"{EARLY_MAX} messages, {EARLY_MAX_BYTES // 1024} KiB",
        "fixed (`EARLY_MAX`)",
    )
    yield Bound(
        "user or call",
        f"records of one kind in `EVENTS` ({callcore.events_max_mb} MiB of disk, {callcore.events_max_age_hours} h)",
        f"{EVENTS_PER_SUBJECT:,}",
        "fixed (`EVENTS_PER_SUBJECT`), `EVENTS_MAX_MB`, `EVENTS_MAX_AGE_HOURS`",
    )
    yield Bound(
        "caller",
        "rings of all users in the first hour; in each later one",
        f"{most(caller, HOUR):,}; {refilled(caller, HOUR):,}",
        "`RINGS_PER_CALLER`",
    )
    for seconds, how in (
        (callcore.ring_timeout_seconds, "that ring to the end"),
        (0.0, "that are cancelled at once"),
    ):
        first, later = (rings(limits, seconds, n * HOUR, (n + 1) * HOUR) for n in range(2))
        yield Bound(
            "caller and callee",
            f"rings {how}, in the first hour; in each later one",
            f"{first}; {later}",
            "`RING_BACKOFF_SECONDS`, `RING_BACKOFF_MAX_SECONDS`, `RING_TIMEOUT_SECONDS`",
        )
    yield Bound(
        "callee",
        "rings by callers who were not answered, in the first hour; in each later one",
        f"{most(callee, HOUR):,}; {refilled(callee, HOUR):,}; and one by each caller who never rang before",
        "`RINGS_PER_CALLEE`",
    )
    address, unjoined = gateway.connections_per_address, gateway.unjoined_max
    yield Bound(
        "address",
        "connections at a gateway; TCP connections that ask for nothing",
        f"{address:,}; {4 * address:,}",
        "`CONNECTIONS_PER_ADDRESS`",
    )
    yield Bound(
        "address",
        f"places of connections that have not joined ({unjoined:,} a gateway)",
        f"{min(address, unjoined):,}, {_percent(address, unjoined)}; each for {gateway.join_timeout_seconds:g} s",
        "`CONNECTIONS_PER_ADDRESS`, `UNJOINED_MAX`, `JOIN_TIMEOUT_SECONDS`",
    )
    yield Bound(
        "address",
        "memory of a gateway for frames that are never complete",
        _mib(address * gateway.max_frame_kb),
        "`CONNECTIONS_PER_ADDRESS`, `MAX_FRAME_KB`",
    )


def table() -> str:
    """Return the table in Markdown."""
    lines = [("who", "what", "at most", "from"), ("---",) * 4, *bounds()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _mib(kib: int) -> str:
    return f"{kib / 1024:,.4g} MiB"


def _percent(part: int, whole: int) -> str:
    return f"{min(100.0, 100 * part / whole):.2g} %"
