"""What an asker may believe when a request was not answered."""

from collections.abc import Sequence
from typing import Any

import pytest

from shared.contracts.rpc import Done, Request
from shared.errors import CallNotFound, NotSent, Unavailable
from shared.messaging.rpc import RpcClient
from shared.nats.pending_requests import Reply


class FakeBus:
    """Answers each try with the next of ``outcomes``."""

    connected = True

    def __init__(self, outcomes: Sequence[Exception | bytes]) -> None:
        self._outcomes = list(outcomes)
        self.asked: list[Request] = []

    async def request(self, _subject: str, payload: bytes, **_: Any) -> Reply:
        self.asked.append(Request.model_validate_json(payload))
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return Reply(outcome, b"")


async def ask(*outcomes: Exception | bytes, at: str | None = None) -> tuple[FakeBus, Exception | Done]:
    bus = FakeBus(outcomes)
    client = RpcClient(bus, timeout=1.0)  # type: ignore[arg-type]
    try:
        return bus, await client.ask("calls", "end", Request(request_id="r"), Done, at=at)
    except (Unavailable, CallNotFound) as error:
        return bus, error


OK = b'{"ok":true,"result":{}}'
REFUSED = b'{"ok":false,"error":{"code":"call_not_found","message":"m","retryable":false}}'


@pytest.mark.parametrize(
    ("first", "second", "may_be_done"),
    [
        (Unavailable(), NotSent(), True),
        (NotSent(), Unavailable(), True),
        (Unavailable(), Unavailable(), True),
        (NotSent(), NotSent(), False),
    ],
)
async def test_what_may_have_been_done_is_not_said_to_be_unsent(
    first: Exception, second: Exception, may_be_done: bool
) -> None:
    """Whoever hears that nothing was sent does not settle it, and the deed may be done all the same."""
    bus, outcome = await ask(first, second)
    assert isinstance(outcome, Unavailable) and isinstance(outcome, NotSent) != may_be_done
    assert [(each.attempt, each.request_id) for each in bus.asked] == [(1, "r"), (2, "r")]


async def test_the_second_try_counts() -> None:
    bus, outcome = await ask(Unavailable(), OK)
    assert outcome == Done() and len(bus.asked) == 2
    bus, outcome = await ask(NotSent(), REFUSED)
    assert isinstance(outcome, CallNotFound)


async def test_a_refusal_is_an_answer() -> None:
    bus, outcome = await ask(REFUSED)
    assert isinstance(outcome, CallNotFound) and len(bus.asked) == 1


async def test_an_instance_that_is_named_is_tried_once() -> None:
    bus, outcome = await ask(Unavailable(), at="cc-1")
    assert isinstance(outcome, Unavailable) and len(bus.asked) == 1
