"""Several coroutines at once in one task: their order, their failures, and what a cancelled task leaves of them."""

import asyncio
from contextvars import ContextVar

import pytest

from shared.together import all_of, together


class Requests:
    """Each is sent when its coroutine begins, and answered when the test says so."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.given_up: list[str] = []
        self.answers: dict[str, asyncio.Future[str]] = {}

    async def ask(self, name: str) -> str:
        self.sent.append(name)
        answer = self.answers[name] = asyncio.get_running_loop().create_future()
        try:
            return await answer + "!"
        except (asyncio.CancelledError, GeneratorExit):
            self.given_up.append(name)
            raise

    async def twice(self, name: str) -> str:
        return await self.ask(name + "1") + await self.ask(name + "2")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("order", ["abc", "cba", "bac"])
async def test_all_are_sent_at_once_and_their_answers_may_come_in_any_order(order: str) -> None:
    requests = Requests()
    task = asyncio.create_task(all_of(*(requests.ask(name) for name in "abc")))
    await settle()
    assert requests.sent == ["a", "b", "c"]
    for name in order:
        assert not task.done()
        requests.answers[name].set_result(name.upper())
        await settle()
    assert await task == ["A!", "B!", "C!"]


async def test_one_that_asks_again_is_waited_for() -> None:
    requests = Requests()
    task = asyncio.create_task(all_of(requests.twice("a"), requests.ask("b"), no_waiting()))
    await settle()
    requests.answers["b"].set_result("B")
    requests.answers["a1"].set_result("x")
    await settle()
    assert requests.sent == ["a1", "b", "a2"]
    requests.answers["a2"].set_result("y")
    assert await task == ["x!y!", "B!", "at once"]


async def no_waiting() -> str:
    return "at once"


async def no_success() -> str:
    raise KeyError("at once")


async def test_what_fails_does_not_stop_the_others() -> None:
    requests = Requests()
    task = asyncio.create_task(together(requests.ask("a"), no_success(), requests.ask("c")))
    await settle()
    requests.answers["a"].set_exception(ValueError("a"))
    await settle()
    assert not task.done()
    requests.answers["c"].set_result("C")
    a, b, c = await task
    assert isinstance(a, ValueError) and isinstance(b, KeyError) and c == "C!"


async def test_what_a_future_raises_is_for_the_coroutine_that_waits_for_it() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def careful() -> str:
        try:
            return await future
        except ValueError:
            return "caught"

    task = asyncio.create_task(together(careful()))
    await settle()
    future.set_exception(ValueError("a"))
    assert await task == ["caught"]


async def test_futures_are_waited_for_as_they_are() -> None:
    loop = asyncio.get_running_loop()
    fails, works = loop.create_future(), loop.create_future()
    task = asyncio.create_task(together(fails, works))
    await settle()
    works.set_result("b")
    fails.set_exception(KeyError("a"))
    a, b = await task
    assert isinstance(a, KeyError) and b == "b"


async def test_the_first_failure_is_raised_when_all_are_done() -> None:
    requests = Requests()
    task = asyncio.create_task(all_of(requests.ask("a"), requests.ask("b")))
    await settle()
    requests.answers["b"].set_exception(ValueError("b"))
    await settle()
    assert not task.done()
    requests.answers["a"].set_exception(ValueError("a"))
    with pytest.raises(ValueError, match="a"):
        await task


@pytest.mark.parametrize("answered", ["", "a", "b"])
async def test_who_is_cancelled_gives_up_what_is_not_done(answered: str) -> None:
    requests = Requests()
    task = asyncio.create_task(together(*(requests.ask(name) for name in "abc")))
    await settle()
    if answered:
        requests.answers[answered].set_result("")
        await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # One that was answered and had not gone on is given up like the others.
    assert requests.given_up == [name for name in "abc" if (name, answered) != ("a", "a")]


async def test_a_timeout_around_it_works() -> None:
    requests = Requests()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await together(requests.ask("a"), requests.ask("b"))
    assert requests.given_up == ["a", "b"]


async def test_each_has_a_context_of_its_own() -> None:
    var: ContextVar[str] = ContextVar("var", default="outer")

    async def named(name: str) -> str:
        seen = var.get()
        var.set(name)
        await asyncio.sleep(0)
        return f"{seen} {var.get()}"

    assert await all_of(named("a"), named("b")) == ["outer a", "outer b"]
    assert var.get() == "outer"
