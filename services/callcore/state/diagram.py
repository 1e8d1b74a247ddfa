"""Generate ``docs/call-states.md`` from the table of the machine: the diagram, and each cell."""

from services.callcore.state.machine import TABLE
from services.callcore.state.model import InputKind, Role, State

_HEAD = """\
# The states of a call

Generated from `services/callcore/state/machine.py`; do not edit. Regenerate with `make docs`.

A call is `ringing`, then `accepted`, then `ended`; or it ends while it rings. `ended` is terminal and
carries one reason. Each transition is stored by compare-and-set: of two concurrent inputs one is
first, and the other is applied to the state that the first one made.

Each table has one row for each author and input in a state. `caller` is the session that called,
`callee` the session that accepted, or any session of the callee while the call rings. `attached`: a
session joined, or moved to another gateway. `left`: a session is gone. `timeout`: the ring deadline
passed. The new state is empty if the state stays.
"""


def markdown() -> str:
    """Return the whole document."""
    return "\n".join([_HEAD, _diagram(), *(_section(state) for state in State)]) + "\n"


def _diagram() -> str:
    arrows: dict[tuple[State, State], list[str]] = {}
    for state, roles in TABLE.items():
        for role, cells in roles.items():
            for kind, cell in cells.items():
                if cell.next is not state:
                    arrows.setdefault((state, cell.next), []).append(_label(role, kind))
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> ringing: initiate"]
    lines += [f"    {a} --> {b}: {'<br/>'.join(labels)}" for (a, b), labels in arrows.items()]
    return "\n".join([*lines, "    ended --> [*]", "```", ""])


def _label(role: Role, kind: InputKind) -> str:
    return kind.value if role is Role.SERVER else f"{role.value} {kind.value}"


def _section(state: State) -> str:
    lines = [f"## {state.value}", "", "| author | input | new state | rule |", "|---|---|---|---|"]
    for role, cells in TABLE[state].items():
        for kind, cell in cells.items():
            new_state = "" if cell.next is state else f"**{cell.next.value}**"
            lines.append(f"| {role.value} | {kind.value} | {new_state} | {cell.note} |")
    return "\n".join([*lines, ""])
