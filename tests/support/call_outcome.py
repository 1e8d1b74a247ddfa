"""What became of a call, as each of its two sides was told."""

from typing import NamedTuple

from tests.support.client import Client

TERMINAL = ("call:ended", "call:rejected")


class Outcome(NamedTuple):
    """What one side knows of a call: whether it was accepted, and every end it was told."""

    accepted: int
    ends: tuple[tuple[str, str | None], ...]


def outcome(client: Client, call: str) -> Outcome:
    """What ``client`` was told of ``call``: how often that it was accepted, and (by, reason) of each end."""
    ends = [
        (data["by"], data.get("reason"))
        for event in TERMINAL
        for data in client.inbox.seen(event, callId=call)
    ]
    return Outcome(len(client.inbox.seen("call:accepted", callId=call)), tuple(ends))


def agreed(one: Client, other: Client, call: str) -> Outcome:
    """The outcome that both sides know: accepted at most once, ended exactly once, and the same for both."""
    first, second = outcome(one, call), outcome(other, call)
    assert first == second, f"{call}: {one.name} knows {first}, {other.name} {second}"
    assert first.accepted <= 1 and len(first.ends) == 1, f"{call}: {first}"
    return first
