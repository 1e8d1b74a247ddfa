"""Print tables of the resources for a number of online users.

    python -m bench.scale                                       # the tables of docs/scale.md
    python -m bench.scale --users 5000000 --joins-per-hour 6    # with other assumptions
    python -m bench.scale --write                               # bring docs/scale.md up to date; --check only looks

The costs are read from ``docs/figures.json``, which ``python -m bench.publish`` makes of a run of the benchmark.
"""

import argparse
import json
import math
import sys
from dataclasses import fields, replace
from pathlib import Path

from bench.blocks import filled
from bench.capacity import (
    ABOUT,
    CALLS,
    DEADLINES,
    DELIVER,
    EVENTS,
    ROLES,
    SESSIONS,
    Assumptions,
    Costs,
    Plan,
    full_at,
    plan,
    read,
)  # fmt: skip
from bench.table import row

REPOSITORY = Path(__file__).resolve().parent.parent
FIGURES = REPOSITORY / "docs" / "figures.json"
PAGE = REPOSITORY / "docs" / "scale.md"
USERS = (1_000_000, 10_000_000, 100_000_000)


def tables(costs: Costs, assumed: Assumptions, users: tuple[int, ...] = USERS) -> dict[str, str]:
    """Return the blocks of ``docs/scale.md`` by name."""
    plans = [plan(costs, replace(assumed, users=each)) for each in users]
    return {
        "assumptions": _assumptions(assumed),
        "costs": _costs(costs),
        "plan": _plan(plans),
        "limits": _limits(costs, plans, assumed),
    }


def _assumptions(assumed: Assumptions) -> str:
    lines = [row(["assumed", "", "option"]), row(["---", "---:", "---"])]
    for name, text in ABOUT.items():
        lines.append(row([text, f"{getattr(assumed, name):,g}", f"`--{name.replace('_', '-')}`"]))
    return "\n".join(lines)


def _costs(costs: Costs) -> str:
    lines = [row(["CPU, µs", *ROLES]), row(["---", *("---:" for _ in ROLES)])]
    for text, shares in (
        ("a whole call", costs.call_us),
        ("a connection and its join", costs.join_us),
        ("an idle socket, a second", costs.idle_us),
        ("a live call, a second", costs.live_us),
    ):
        lines.append(row([text, *(_number(shares.get(role, 0.0)) for role in ROLES)]))
    names = (SESSIONS, CALLS, DEADLINES, EVENTS, DELIVER)
    lines += ["", row(["written to", *(f"`{name}`" for name in names), "published messages", "KB"])]
    lines.append(row(["---", *("---:" for _ in names), "---:", "---:"]))
    for text, counted in (
        ("by a join", costs.join),
        ("by a session that breaks", costs.broken),
        ("by a whole call", costs.call),
        ("in a second, by two gateways alone", costs.second),
    ):
        cells = [_number(counted[name]) for name in names]
        lines.append(row([text, *cells, _number(counted["messages"]), _number(counted["bytes"] / 1000)]))
    memory = ", ".join(f"{role} {_number(costs.socket_kib.get(role, 0.0))}" for role in ROLES)
    lines += [
        "",
        f"Memory of an idle joined socket, KiB: {memory}. Writes that one client gets through one stream of one node: "
        f"{_number(costs.writes_per_s)} a second. A key that a sweep looks at in vain: {_number(costs.list_us)} µs "
        f"and {_number(costs.hash_us)} for each instance "
        f"of a callcore and {_number(costs.list_bytes)} bytes from the stream's leader.",
    ]
    return "\n".join(lines)


def _plan(plans: list[Plan]) -> str:
    lines = [
        row(["online users", *(f"{each.users:,}" for each in plans)]),
        row(["---", *("---:" for _ in plans)]),
    ]

    def line(text: str, values: list[str]) -> None:
        lines.append(row([text, *values]))

    line("calls begun a second", [_number(each.calls_per_s) for each in plans])
    line("live calls", [f"{each.live_calls:,.0f}" for each in plans])
    line("joins a second", [_number(each.joins_per_s) for each in plans])
    line("gateways, one core each", [f"{each.counts['gateway']:,}" for each in plans])
    line(
        "callcores, one core each",
        [f"{each.counts['callcore']:,}" if each.counts["callcore"] else "–" for each in plans],
    )
    line("presences, one core each", [f"{each.counts['presence']:,}" for each in plans])
    line("NATS nodes", [f"{each.counts['nats']:,}" for each in plans])
    for role in ROLES:
        line(f"cores in use, {role}", [_number(each.cores[role]) for each in plans])
    line("memory of all gateways, GiB", [_number(each.ram_gib["gateway"]) for each in plans])
    line("memory of all NATS nodes, GiB", [_number(each.ram_gib["nats"]) for each in plans])
    line("messages published a second", [f"{each.messages_per_s:,.0f}" for each in plans])
    line("beats delivered a second", [f"{each.beats_per_s:,.0f}" for each in plans])
    line("published, Gbit/s", [_number(each.bus_gbit) for each in plans])
    return "\n".join(lines)


def _limits(costs: Costs, plans: list[Plan], assumed: Assumptions) -> str:
    """Return the resources that exist once, the fullest first, with the number needed for each number of users."""
    full = {n: full_at(costs, assumed, n) for n in range(len(plans[0].limits))}
    head = ["there is one", "it takes", "full at users", *(f"at {each.users:,}" for each in plans)]
    lines = [row(head), row(["---", *("---:" for _ in head[1:])])]
    for n in sorted(full, key=full.__getitem__):
        first = plans[0].limits[n]
        cells = []
        for limit in (each.limits[n] for each in plans):
            room = 1.0 if limit.unit == " s" else assumed.busy
            cells.append(f"{_number(limit.value)}{limit.unit}: {max(1, math.ceil(limit.share / room)):,}")
        lines.append(
            row([first.name, f"{_number(first.limit)}{first.unit}", f"{_rounded(full[n]):,}", *cells])
        )
    return "\n".join(lines)


def _rounded(value: float) -> int:
    """Round to two digits, because the estimate is no more precise."""
    return int(round(value, 1 - math.floor(math.log10(value))))


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}" if value else "0"


def main(arguments: list[str] | None = None) -> int:
    """Print, write or check."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="write docs/scale.md")
    parser.add_argument("--check", action="store_true", help="verify that docs/scale.md is up to date")
    parser.add_argument("--users", type=int, action="append", help="may be given several times")
    defaults = Assumptions()
    for name, text in ABOUT.items():
        default = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"{text} (%(default)s)"
        )
    asked = parser.parse_args(arguments)
    assumed = Assumptions(
        **{f.name: getattr(asked, f.name) for f in fields(Assumptions) if f.name != "users"}
    )
    blocks = tables(read(json.loads(FIGURES.read_text())), assumed, tuple(asked.users or USERS))
    if asked.write or asked.check:
        text = PAGE.read_text()
        new = filled(text, blocks)
        if asked.check and new != text:
            print("docs/scale.md is not what its figures say: python -m bench.scale --write", file=sys.stderr)
            return 1
        PAGE.write_text(new)
        return 0
    print("\n\n".join(blocks.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
