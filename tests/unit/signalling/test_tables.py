"""A look as tables: order, filter, units."""

import pytest

from signalling.monitor import tables
from signalling.monitor.history import duration
from signalling.monitor.snapshot import LiveCall, Nats, Snapshot
from signalling.monitor.tables import Order

OLD = LiveCall("c1", "ringing", "alice", "bob", "audio", 30.0)
NEW = LiveCall("c2", "accepted", "carol", "dave", "video", 10.0, 5.0)
VIEW = Snapshot(0.0, (), 4, 4, (NEW, OLD), 0, {"rpc": 1.4}, Nats(1, 7, 2, 70_000, "cc-1"), ())


@pytest.mark.parametrize(
    ("order", "listed"),
    [
        (Order(), [OLD, NEW]),
        (Order(turned=True), [NEW, OLD]),
        (Order(by="state"), [NEW, OLD]),
        (Order(by="caller"), [OLD, NEW]),
        (Order(by="caller", turned=True), [NEW, OLD]),
        (Order(only="dav"), [NEW]),
        (Order(only="c1"), [OLD]),
        (Order(only="nobody"), []),
    ],
)
def test_order_and_filter(order: Order, listed: list[LiveCall]) -> None:
    assert tables.calls(VIEW, order) == listed


def test_a_page() -> None:
    page = list(tables.page(VIEW, Order()))
    assert page[0] == "users 4  sockets 4  calls 2 (1 accepted, 1 ringing)"
    assert page[1] == ("NATS    servers 1  connections 7  slow consumers 2  68.4 KiB pending, most for cc-1")
    assert page[2] == "msgs/s  rpc 1"
    assert "c1    ringing   alice   bob     audio  30s" in page


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.9, "59s"), (245, "4m05s"), (12_000, "3h20m"), (187_200, "2d04h")]
)
def test_spans(seconds: float, text: str) -> None:
    assert tables.span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(17, "17 B"), (3_482, "3.4 KiB"), (256 * 2**20, "256 MiB"), (5 * 2**30, "5.0 GiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert tables.size(count) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(850, "850 ms"), (12_340, "12.3 s"), (245_000, "4 min 5 s"), (3_720_000, "1 h 2 min")]
)
def test_durations(ms: int, text: str) -> None:
    assert duration(ms) == text
