"""Format a snapshot as tables of text, for the live screen and for ``--once``."""

from collections.abc import Iterator
from typing import NamedTuple

from shared.observability.escaping import printable
from signalling.monitor.snapshot import Instance, LiveCall, Snapshot, Stored

INSTANCES = (
    "service",
    "instance",
    "version",
    "up",
    "sockets",
    "req/s",
    "ms",
    "requests",
    "refused",
    "errors",
)
CALLS = ("call", "state", "caller", "callee", "type", "age", "talking")
STREAMS = ("stream", "messages", "size", "limit", "replicas")
PENDING_SHOWN = 65_536
"""Bytes pending in NATS from which they are shown; fewer are in transit."""
CALL_SORTS = ("age", "state", "caller", "callee")
"""Names of the orders in which live calls can be listed."""


class Order(NamedTuple):
    """Describes the order and filter of live calls. ``only``: a part of the id, caller or callee."""

    by: str = "age"
    turned: bool = False
    only: str = ""


def instances(view: Snapshot) -> list[tuple[str, ...]]:
    """Return a row for each instance."""
    return [_instance(each) for each in view.instances]


def calls(view: Snapshot, order: Order) -> list[LiveCall]:
    """Return the live calls that match, sorted; oldest first by default."""
    wanted = [c for c in view.calls if any(order.only in text for text in (c.call, c.caller, c.callee))]
    if order.by == "age":
        return sorted(wanted, key=lambda call: call.age, reverse=not order.turned)
    return sorted(wanted, key=lambda call: (getattr(call, order.by), -call.age), reverse=order.turned)


def call(each: LiveCall) -> tuple[str, ...]:
    """Return the row of a call."""
    return (
        printable(each.call),
        each.state,
        printable(each.caller),
        printable(each.callee),
        each.call_type,
        span(each.age),
        span(each.talking) if each.talking is not None else "",
    )


def streams(view: Snapshot) -> list[tuple[str, ...]]:
    """Return a row for each stream and bucket."""
    return [_stream(each) for each in view.streams]


def summary(view: Snapshot) -> str:
    """Return the row of totals."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(view.by_state().items()))
    calls = f"calls {len(view.calls) + view.calls_left}" + (f" ({states})" if states else "")
    return f"users {'?' if view.users is None else view.users}  sockets {view.sockets}  {calls}"


def nats(view: Snapshot) -> str:
    """Return the row about NATS."""
    it = view.nats
    text = f"NATS    servers {it.servers}  connections {it.connections}  slow consumers {it.slow_consumers}"
    if it.pending >= PENDING_SHOWN:
        text += f"  {size(it.pending)} pending, most for {printable(it.pending_for)}"
    return text


def rates(view: Snapshot) -> str:
    """Return messages a second by family."""
    return "msgs/s  " + "  ".join(f"{name} {rate:.0f}" for name, rate in view.rates.items())


def page(view: Snapshot, order: Order) -> Iterator[str]:
    """Return all tables as text."""
    yield summary(view)
    yield nats(view)
    yield rates(view)
    for head, rows in (
        (INSTANCES, instances(view)),
        (CALLS, [call(each) for each in calls(view, order)]),
        (STREAMS, streams(view)),
    ):
        widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
        yield ""
        for row in (head, *rows):
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def span(seconds: float) -> str:
    """Format a time span: ``7s``, ``4m05s``, ``3h20m``, ``2d04h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def size(count: int) -> str:
    """Format a size: ``17 B``, ``3.4 KiB``, ``256 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _instance(each: Instance) -> tuple[str, ...]:
    return (
        each.service,
        printable(each.name),
        printable(each.version),
        span(each.uptime),
        _whole(each.sockets),
        f"{each.rate:.1f}" if each.rate is not None else "",
        f"{each.ms:.1f}" if each.ms is not None else "",
        _whole(each.requests),
        _whole(each.refused),
        _whole(each.errors),
    )


def _stream(each: Stored) -> tuple[str, ...]:
    behind = f", {each.behind} behind" if each.behind else ""
    limit = size(each.size_max) if each.size_max is not None else "none"
    return each.name, str(each.messages), size(each.size), limit, f"{each.replicas}{behind}"


def _whole(number: int | None) -> str:
    return "" if number is None else str(number)
