"""Make pairs of users in a call, the two of a pair on different servers."""

from collections.abc import Sequence
from functools import partial

from bench.client import ServerError, Socket, a_few_at_a_time, connect_all, frame, join_all, payload_of, wait
from bench.payloads import candidate

Pair = tuple[Socket, Socket]

CALLS_AT_ONCE = 16


async def make_pairs(urls: list[str], numbers: Sequence[int]) -> list[Pair]:
    """Return pairs of joined users, named by number. Raises :class:`ServerError`, ``OSError``."""
    pairs = [(Socket(f"caller{i}"), Socket(f"callee{i}")) for i in numbers]
    urls = urls if len(urls) > 1 else urls * 2
    # Callers alternate between the servers, so that no server has them all.
    ones = [pair[i % 2] for i, pair in enumerate(pairs)]
    others = [pair[1 - i % 2] for i, pair in enumerate(pairs)]
    await connect_all(ones, urls[::2])
    await connect_all(others, urls[1::2])
    await join_all([*ones, *others])
    return pairs


async def make_calls(pairs: Sequence[Pair]) -> list[str]:
    """Make an accepted call in each pair and check that it relays. Return the ids. Raises :class:`ServerError`."""
    calls: dict[str, str] = {}

    async def call(pair: Pair) -> None:
        calls[pair[0].user] = await _call(*pair)

    await a_few_at_a_time([partial(call, pair) for pair in pairs], CALLS_AT_ONCE)
    return [calls[caller.user] for caller, _ in pairs]


async def _call(caller: Socket, callee: Socket) -> str:
    incoming = callee.expect("call:incoming")
    initiated = await caller.ask("call:initiate", {"to": callee.user, "callType": "video"}, "call:initiated")
    call: str = initiated["callId"]
    assert payload_of(await wait(incoming, f"{callee.user}: call:incoming"))["callId"] == call
    accepted = caller.expect("call:accepted")
    callee.send(frame("call:accept", {"callId": call}))
    await wait(accepted, f"{caller.user}: call:accepted")
    for one, other in ((caller, callee), (callee, caller)):
        relayed = other.expect("ice:candidate")
        one.send(candidate_of(one, other, call))
        got = payload_of(await wait(relayed, f"{other.user}: ice:candidate"))
        if (got["candidate"], got["from"], got["callId"]) != (candidate(), one.user, call):
            raise ServerError(f"not what was sent: {got}")
    return call


def candidate_of(one: Socket, other: Socket, call: str) -> bytes:
    """Return the frame by which one side of a call sends the other a candidate."""
    payload = {"candidate": candidate(), "from": one.user, "to": other.user, "callId": call}
    return frame("ice:candidate", payload)
