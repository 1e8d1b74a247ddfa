"""Rates, strikes and addresses, without processes."""

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.gateway.limits import connection_limits, rate_limiter
from services.gateway.limits.rate_limiter import RateLimiter, TooManyCandidates
from services.gateway.limits.strike_counter import STRIKE_WINDOW_SECONDS, StrikeCounter
from services.gateway.protocol import packets
from services.gateway.protocol.event_class import EventClass, class_of
from services.gateway.protocol.packets import Malformed
from services.gateway.settings import Settings
from shared.errors import RateLimited
from shared.observability.limit_hits import LimitHits
from shared.token_bucket import Rate


class Clock:
    """Seconds, as the test wants them."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limiter.time, "monotonic", clock)
    return clock


@pytest.fixture
def make(clock: Clock) -> Callable[..., RateLimiter]:
    return lambda **settings: RateLimiter(Settings(_env_file=None, **settings), LimitHits(), clock)  # type: ignore[call-arg]


def test_a_rate_is_read_and_written() -> None:
    assert Settings(_env_file=None, rate_status="7/3").rate_status == Rate(7, 3)  # type: ignore[call-arg,arg-type]
    assert str(Rate(7, 3)) == "7/3"
    for wrong in ("7", "0/3", "7/0", "-1/3", "7/3/1", "a/b", ""):
        with pytest.raises(ValidationError):
            Settings(_env_file=None, rate_status=wrong or "x")  # type: ignore[call-arg,arg-type]


def test_burst_and_refill(make: Callable[..., RateLimiter], clock: Clock) -> None:
    socket = make(rate_status="10/5").socket()
    assert socket is not None
    assert [socket.take(EventClass.STATUS) for _ in range(12)] == [True] * 10 + [False] * 2
    assert socket.retry_after_ms(EventClass.STATUS) == 500
    clock.now += 0.49
    assert not socket.take(EventClass.STATUS)
    clock.now += 0.02
    assert socket.take(EventClass.STATUS) and not socket.take(EventClass.STATUS)
    assert socket.take(EventClass.OTHERS), "each kind has its own"
    clock.now += 3600
    assert [socket.take(EventClass.STATUS) for _ in range(11)] == [True] * 10 + [False], (
        "no more than a full bucket"
    )


async def test_bytes_are_charged_to_the_user_also_after_a_reconnect(
    make: Callable[..., RateLimiter], clock: Clock
) -> None:
    gateway = make(rate_user_kb="10/5")
    for allowed in (7, 3, 0):
        socket = gateway.socket()
        assert socket is not None
        gateway.joined(socket, "ann")
        for _ in range(allowed):
            socket.charge_bytes(1024, clock.now)
        if allowed == 7:
            gateway.left(socket)
            continue
        with pytest.raises(RateLimited) as refused:
            socket.charge_bytes(1024, clock.now)
        assert refused.value.retry_after_ms == 500
        gateway.left(socket)
    other = gateway.socket()
    assert other is not None
    gateway.joined(other, "bob")
    other.charge_bytes(10 * 1024, clock.now)
    with pytest.raises(RateLimited):
        other.charge_bytes(1, clock.now)
    clock.now += 2.5
    other.charge_bytes(5 * 1024, clock.now)
    with pytest.raises(RateLimited):
        other.charge_bytes(1024, clock.now)
    gateway.hits.stop()


def test_sockets_of_a_user_share_a_rate_also_after_a_reconnect(
    make: Callable[..., RateLimiter], clock: Clock
) -> None:
    gateway = make(rate_status="10/5", rate_user_factor="2")
    for allowed in (10, 10, 0):
        socket = gateway.socket()
        assert socket is not None
        gateway.joined(socket, "ann")
        assert sum(socket.take(EventClass.STATUS) for _ in range(11)) == allowed
        gateway.left(socket)
    other = gateway.socket()
    assert other is not None
    gateway.joined(other, "bob")
    assert other.take(EventClass.STATUS)
    clock.now += 3600
    gateway.joined(gateway.socket(), "cem")
    assert set(gateway._users) == {"bob", "cem"}, "who has been away for long is forgotten"


async def test_sockets_of_a_user_are_counted(make: Callable[..., RateLimiter]) -> None:
    gateway = make(connections_per_user="2")
    first, second, third = (gateway.socket() for _ in range(3))
    for socket in (first, second):
        gateway.joined(socket, "ann")
        gateway.joined(socket, "ann")  # again, on the same socket
    with pytest.raises(RateLimited):
        gateway.joined(third, "ann")
    assert gateway.hits.counts == {"connections_per_user": 1}
    gateway.left(first)
    gateway.left(first)
    gateway.joined(third, "ann")


async def test_candidates_of_a_call(make: Callable[..., RateLimiter]) -> None:
    gateway = make(candidates_per_call="4")
    socket = gateway.socket()
    assert socket is not None
    gateway.joined(socket, "ann")
    socket.count_candidates("c", b'{"candidates":[{"candidate":"x"},{"candidate":"y"}],"from":"ann"}')
    socket.count_candidates("c", b'{"candidate":{"candidate":"z"},"from":"ann"}')
    socket.count_candidates("c", b'{"candidate":null,"from":"ann"}')
    with pytest.raises(TooManyCandidates) as told:
        socket.count_candidates("c", b'{"candidate":{"candidate":"z"},"from":"ann"}')
    assert not told.value.to_wire()["retryable"]
    socket.count_candidates("d", b'{"candidate":{"candidate":"z"},"from":"ann"}')
    for n in range(1000):
        socket.count_candidates(f"other-{n}", b'{"candidate":{"candidate":"z"},"from":"ann"}')
    assert socket.user is not None and len(socket.user.candidates) == rate_limiter.CALLS_COUNTED


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        (b'{"candidate":null,"from":"ann"}', 1),
        (b'{"candidates":[null],"from":"ann"}', 1),
        (b'{"candidates":[null,null,{"candidate":"x","sdpMid":null},null],"from":"ann"}', 4),
        (b'{"candidate":{"candidate":"x","sdpMid":null,"usernameFragment":null},"from":"ann"}', 1),
        (b'{"candidates":[{"candidate":"x","sdpMid":null},{"candidate":"y"},null],"from":"ann"}', 3),
    ],
)
async def test_each_null_is_a_candidate(make: Callable[..., RateLimiter], payload: bytes, count: int) -> None:
    gateway = make(candidates_per_call="100")
    socket = gateway.socket()
    assert socket is not None
    gateway.joined(socket, "ann")
    fit = 100 // count
    for _ in range(fit):
        socket.count_candidates("c", payload)
    assert socket.user is not None and socket.user.candidates == {"c": fit * count}
    with pytest.raises(TooManyCandidates):
        socket.count_candidates("c", payload)


def test_off(make: Callable[..., RateLimiter]) -> None:
    gateway = make(rate_limit="off", connections_per_user="1")
    assert gateway.socket() is None
    for _ in range(3):
        gateway.joined(None, "ann")
        gateway.left(None)


def test_every_event_has_a_class() -> None:
    assert class_of("call:answer") is class_of("call:offer") is EventClass.OFFERS
    assert class_of("user:join") is class_of("no:such") is EventClass.OTHERS


def test_strikes_delay_longer_each_time() -> None:
    clock = Clock()
    strikes = StrikeCounter(5, clock, step=0.1, longest=0.25, free=1)
    waits = []
    for _ in range(4):
        assert not strikes.strike("c")
        waits.append(round(strikes.delay("c"), 2))
    assert waits == [0.0, 0.1, 0.2, 0.25]
    clock.now += STRIKE_WINDOW_SECONDS + 1
    assert not strikes.strike("c") and strikes.delay("c") == 0.0
    assert strikes.delay("another") == 0.0


TRUSTED = tuple(ipaddress.ip_network(text) for text in ("10.0.0.0/8", "fd00::/8"))


@pytest.mark.parametrize(
    ("remote", "forwarded", "expected"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.9", "10.0.0.9"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, nonsense, 10.0.0.2", "10.0.0.2"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("", "198.51.100.1", ""),
        ("10.0.0.1", ",".join(["10.0.0.2"] * 100_000), "10.0.0.2"),
    ],
)
def test_the_address_of_a_client(remote: str, forwarded: str, expected: str) -> None:
    assert connection_limits.key(remote, forwarded, TRUSTED) == expected


@given(st.text(), st.text() | st.text(alphabet="0123456789abf.:,%/ "))
def test_every_forwarded_header_yields_a_counted_address(remote: str, forwarded: str) -> None:
    for trusted in (TRUSTED, (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))):
        for who in (remote, "10.0.0.1", "fd00::1"):
            assert isinstance(connection_limits.key(who, forwarded, trusted), str)


def test_depth() -> None:
    def packet(text: str) -> str:
        return f'2["x",{text}]'

    within = packets.DEPTH_MAX - 1
    packets.parse(packet("[" * within + "]" * within))
    packets.parse(packet('{"a":' * within + "1" + "}" * within))
    packets.parse(packet("[" + ",".join(['["x",{"y":"z"}]'] * 500) + "]"))
    packets.parse(packet('"' + r"[{\"" * 500 + '"'))
    packets.parse(packet('"' + "[" * 500 + r"\\" + '"'))
    for deep in (within + 1, 500, 20_000):
        for text in ("[" * deep + "]" * deep, "[" * deep, '"\\"",' + "[" * deep + "]" * deep):
            with pytest.raises(Malformed, match="deep"):
                packets.parse(packet(text))


async def test_usage_is_kept_for_a_user_that_reconnects(
    make: Callable[..., RateLimiter], clock: Clock
) -> None:
    """Neither when its time away would have been over, nor by the sockets that come then."""
    gateway = make(rate_status="10/5", rate_user_factor="1", connections_per_user=2)
    first, second, third = gateway.socket(), gateway.socket(), gateway.socket()
    assert first is not None and second is not None and third is not None
    gateway.joined(first, "ann")
    gateway.left(first)
    gateway.joined(first, "ann")
    clock.now += 3600
    assert sum(first.take(EventClass.STATUS) for _ in range(10)) == 10
    stranger = gateway.socket()
    gateway.joined(stranger, "bob")  # by which users who are away are looked through
    gateway.joined(second, "ann")
    assert not second.take(EventClass.STATUS), "both count into the same"
    with pytest.raises(RateLimited):
        gateway.joined(third, "ann")
    gateway.left(first)
    gateway.left(second)
    clock.now += 3600
    gateway.joined(third, "cem")
    gateway.left(third)
    gateway.joined(third, "ann")
    assert third.take(EventClass.STATUS)


def test_usage_of_a_user_that_is_away_is_discarded(make: Callable[..., RateLimiter], clock: Clock) -> None:
    gateway = make(rate_others="10/5", rate_status="10/5")
    socket = gateway.socket()
    for n in range(50):
        gateway.joined(socket, f"user{n}")
        gateway.left(socket)
    clock.now += 3600
    gateway.joined(socket, "ann")
    assert len(gateway._users) == 1
