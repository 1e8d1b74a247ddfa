"""Which relays a client had got when it got a ``seq``."""

import pytest

from services.gateway.clients.registry import LEFT_MAX, Registry, Socket
from services.gateway.clients.relay_positions import KEPT_MAX, SENDERS_MAX, RelayPositions


@pytest.fixture
def positions() -> RelayPositions:
    """Relays 5 to 7 of ``s`` and 90 of ``t``, written with the ``seq`` 10 to 13 after a ``user:joined`` of 9."""
    positions = RelayPositions()
    positions.begin({}, since=0, upto=9)
    for sender, number, seq in (("s", 5, 10), ("s", 6, 11), ("t", 90, 12), ("s", 7, 13)):
        positions.note(sender, number, seq)
    return positions


@pytest.mark.parametrize(
    ("seq", "heard"),
    [
        (9, {}),
        (10, {"s": 5}),
        (11, {"s": 6}),
        (12, {"s": 6, "t": 90}),
        (13, {"s": 7, "t": 90}),
        (20, {"s": 7, "t": 90}),
        (21, None),
    ],
)
def test_relays_written_up_to_a_seq_are_received(
    positions: RelayPositions, seq: int, heard: dict[str, int] | None
) -> None:
    assert positions.at(seq, written=20) == heard


def test_relays_received_on_other_sockets_count() -> None:
    positions = RelayPositions()
    positions.begin({"s": 5}, since=100, upto=101)
    positions.note("s", 6, 110)
    assert positions.at(99, 110) is None, "that was written elsewhere"
    assert positions.at(100, 110) == positions.at(101, 110) == {"s": 5}
    assert positions.at(110, 110) == {"s": 6}


def test_a_client_that_is_lost_before_user_joined_may_resume() -> None:
    positions = RelayPositions()
    positions.begin({"s": 5}, since=100, upto=101)
    assert positions.at(100, written=0) == {"s": 5}


def test_positions_of_old_seqs_are_unknown() -> None:
    positions = RelayPositions()
    positions.begin({}, since=0, upto=1)
    for n in range(10 * KEPT_MAX):
        positions.note("s", n, 1_000 + n)
        assert len(positions.senders["s"]) <= 4 * KEPT_MAX
    last = 10 * KEPT_MAX - 1
    assert positions.at(1_000, 1_000 + last) is None
    for ago in range(KEPT_MAX):
        assert positions.at(1_000 + last - ago, 1_000 + last) == {"s": last - ago}


def test_senders_are_bounded() -> None:
    positions = RelayPositions()
    for n in range(SENDERS_MAX + 3):
        positions.note(f"s{n}", 1, n + 1)
    assert len(positions.senders) == SENDERS_MAX and f"s{SENDERS_MAX + 2}" in positions.senders


def _joined(registry: Registry, sid: str, session: str) -> Socket:
    socket = registry.add(sid, f"eio-{sid}")
    registry.bind(socket, "bob", session)
    return socket


def test_a_registry_knows_the_client_of_a_socket_that_is_gone_or_replaced() -> None:
    registry = Registry()
    first = _joined(registry, "1", "b")
    first.positions.note("s", 5, 10)
    first.seq = 10
    assert registry.relays_received("b", 10) == {"s": 5}
    assert registry.relays_received("b", 11) is None and registry.relays_received("other", 10) is None
    second = registry.add("2", "eio-2")
    second.positions.begin({"s": 5}, since=10, upto=11)
    registry.bind(second, "bob", "b")
    second.positions.note("s", 6, 20)
    second.seq = 20
    registry.remove("1")
    assert registry.relays_received("b", 10) == {"s": 5} and registry.relays_received("b", 20) == {"s": 6}
    registry.remove("2")
    assert registry.relays_received("b", 20) == {"s": 6}


def test_positions_of_gone_sessions_are_bounded() -> None:
    registry = Registry()
    for n in range(LEFT_MAX + 1):
        _joined(registry, str(n), f"b{n}")
        registry.remove(str(n))
    assert registry.relays_received("b0", 0) is None
    assert registry.relays_received("b1", 0) == registry.relays_received(f"b{LEFT_MAX}", 0) == {}
