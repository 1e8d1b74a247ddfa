"""What is passed on to the instance in charge is the same thing there."""

from typing import Any

import pytest

from services.callcore.calls.call_owner import CallOwner, input_of
from services.callcore.state.model import CallInput, InputKind
from shared.contracts.call_records import CallCommand
from tests.unit.callcore.calls import BOB, accepted


class Peers:
    """The instance in charge: notes what it is asked to do."""

    def __init__(self) -> None:
        self.deeds: list[CallCommand] = []

    timeout = 2.0

    async def ask(self, _service: str, _verb: str, command: CallCommand, reply: type[Any], **_: Any) -> Any:
        self.deeds.append(CallCommand.model_validate_json(command.dump()))
        return reply(call=accepted(), relay_to=(BOB,))


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("reason", [None, "busy"])
async def test_a_forwarded_command_carries_the_whole_input(resumed: bool, reason: str | None) -> None:
    peers = Peers()
    call_owner = CallOwner("one", lambda _: "two", peers)  # type: ignore[arg-type]
    call_input = CallInput(InputKind.ATTACHED, "r1", "bob", BOB, reason, resumed)
    outcome = await call_owner.forward("c1", call_input, initiated=resumed)
    (command,) = peers.deeds
    assert input_of(command) == call_input
    assert (command.call, command.initiated) == ("c1", resumed)
    assert outcome is not None and (outcome.call, outcome.relay_to) == (accepted(), (BOB,))


async def test_the_owner_forwards_nothing() -> None:
    peers = Peers()
    call_owner = CallOwner("one", lambda _: "one", peers)  # type: ignore[arg-type]
    assert await call_owner.forward("c1", CallInput(InputKind.END, "r1", "bob", BOB), initiated=False) is None
    assert not peers.deeds
