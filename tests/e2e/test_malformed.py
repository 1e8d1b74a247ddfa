"""Malformed payloads: an error where one is due, a socket that lives, no traceback, and the next call works."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster
from tests.support.raw_client import RawClient
from tests.support.scenario import PYTHON, Stage, end, talk

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

STRIKES_LEAST = 5
"""A client with a bug now and then is not thrown out."""
STRIKES_MOST = 1_000

# Every event: what must be in its payload, and what may.
REQUIRED: dict[str, dict[str, Any]] = {
    "user:join": {"userId": "alice"},
    "call:initiate": {"to": "bob", "callType": "audio"},
    "call:accept": {"callId": "c"},
    "call:reject": {"callId": "c"},
    "call:offer": {"offer": {}, "from": "alice", "to": "bob"},
    "call:answer": {"answer": {}, "from": "alice", "to": "bob"},
    "ice:candidate": {"candidate": {}, "from": "alice", "to": "bob"},
    "call:end": {"callId": "c"},
    "user:status": {"userId": "alice"},
}
OPTIONAL: dict[str, dict[str, Any]] = {
    "user:join": {"token": 7, "deviceId": [], "resume": {"sessionId": 7}},
    "call:initiate": {"metadata": "x" * 4097},
    "call:accept": {"from": {}},
    "call:reject": {"from": 1.5, "reason": "Two Words"},
    "call:offer": {"callType": "smell", "callId": 7},
    "call:answer": {"callId": ["c"]},
    "ice:candidate": {"candidates": [{}], "callId": {}},
    "call:end": {"reason": "x" * 33},
    "user:status": {},
}
CODES = {"bad_request", "user_id_required"}

_DEEP = 10_000
_SURROGATE = r'"\ud800"'
WHOLE = {
    "null": "null",
    "number": "7",
    "string": '"text"',
    "boolean": "true",
    "list": "[1,2]",
    "empty": "{}",
    "nested": '{"a":{"b":[{"c":{}}]}}',
    "deep list": "[" * _DEEP + "]" * _DEEP,
    "deep object": '{"a":' * _DEEP + "1" + "}" * _DEEP,
    "NaN": "NaN",
    "surrogate": _SURROGATE,
}

UNREADABLE = ("deep list", "deep object", "NaN", "surrogate")


def _wrong_fields(event: str) -> Iterator[tuple[str, str]]:
    """(what is wrong, payload) with one field missing, null, or of another type."""
    good = REQUIRED[event]
    for field, value in good.items():
        yield f"no {field}", json.dumps({key: good[key] for key in good if key != field})
        others: list[Any] = [7, 1.5, True, ["x"], [], "text" if isinstance(value, dict) else {"x": 1}]
        if isinstance(value, str):
            others += ["", "x" * 129, "a\nb", "\0"]
        if (event, field) != ("ice:candidate", "candidate"):
            others.append(None)  # null says there are no more
        for other in others:
            yield f"{field}={other!r:.20}", json.dumps({**good, field: other})
        if isinstance(value, str):
            yield "surrogate", json.dumps(good | {field: "@"}).replace('"@"', _SURROGATE)
            yield "NaN", json.dumps(good | {field: "@"}).replace('"@"', "NaN")
    for field, other in OPTIONAL[event].items():
        yield f"{field}={other!r:.20}", json.dumps({**good, field: other})


class Culprit:
    """Sends malformed payloads; comes back when it has been thrown out for it."""

    def __init__(self, stage: Stage, cluster: Cluster) -> None:
        self._stage = stage
        self._url = cluster.gateways[0].url
        self._strikes = 0
        self._socket: RawClient | None = None

    async def socket(self) -> RawClient:
        """The socket, joined; a new one if the old one was closed."""
        if self._socket is None or self._socket.closed.is_set():
            if self._socket is not None:
                assert self._strikes >= STRIKES_LEAST, f"thrown out after {self._strikes} strikes"
            self._strikes = 0
            self._socket = RawClient("culprit")
            self._stage.clients.append(self._socket)
            await self._socket.connect(self._url)
            await self._socket.join(self._stage.id("culprit"))
        return self._socket

    async def refused(self, what: str, event: str, *payload: str) -> str:
        """Send the payload, which must be refused; the error's code."""
        socket = await self.socket()
        try:
            ack = await socket.ask_text(event, *payload)
        except ConnectionError:
            socket = await self.socket()
            ack = await socket.ask_text(event, *payload)
        self._strikes += 1
        assert ack and ack["ok"] is False, f"{event} with {what} answered {ack}"
        # The error names the event, unless what was sent cannot be read so far.
        told = await socket.expect("error")
        named = event if what not in UNREADABLE else told["event"]
        assert named in (event, "") and told == ack["error"] | {"event": named}, what
        return str(told["code"])


@pytest_asyncio.fixture(loop_scope="session")
async def scene(big: Cluster) -> AsyncIterator[Stage]:
    """A stage on 2x2x2, on which a call works at the end."""
    async for stage in Stage.on(big, f"{PYTHON}-websocket", None):
        yield stage
        alice, bob = await stage.user("next caller", gateway=0), await stage.user("next callee", gateway=1)
        await end(alice, bob, call=await talk(alice, bob))


@pytest.mark.parametrize("event", REQUIRED)
async def test_every_wrong_payload_is_refused(scene: Stage, big: Cluster, event: str) -> None:
    culprit = Culprit(scene, big)
    assert await culprit.refused("no payload", event) in CODES
    for what, payload in (*WHOLE.items(), *_wrong_fields(event)):
        code = await culprit.refused(what, event, payload)
        assert code in CODES, f"{event} with {what}: {code}"
    await (await culprit.socket()).quiet()


@pytest.mark.parametrize("event", REQUIRED)
async def test_ten_megabytes(scene: Stage, big: Cluster, event: str) -> None:
    """Far over what one message may have: refused, or the socket is closed; nobody else notices."""
    socket = RawClient("flood")
    scene.clients.append(socket)
    await socket.connect(big.gateways[0].url)
    await socket.join(scene.id("flood"))
    try:
        ack = await socket.ask_text(event, json.dumps("x" * 10_000_000))
    except ConnectionError:
        return
    assert ack["ok"] is False and ack["error"]["code"] == "bad_request", ack
    await socket.expect("error", event=event)


async def test_unknown_keys_are_ignored_however_odd(scene: Stage, big: Cluster) -> None:
    alice = RawClient("alice")
    scene.clients.append(alice)
    await alice.connect(big.gateways[0].url)
    await alice.join(scene.id("odd"))
    bob = await scene.user("bob", gateway=1)
    odd = f'"":null,"__proto__":{{}},"callID":7,"y":{"[" * 50}{"]" * 50}'
    payload = f'{{"to":{json.dumps(bob.user)},"callType":"audio",{odd}}}'
    ack = await alice.ask_text("call:initiate", payload)
    assert ack["ok"] is True, ack
    incoming = await bob.expect("call:incoming")
    assert set(incoming) == {"from", "callType", "callId", "expiresAt", "expiresInMs", "seq"}
    await alice.expect("call:initiated")
    await end(alice, bob, call=incoming["callId"], reason="cancelled")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", _SURROGATE, '{"\\udfff":1}'])
async def test_what_json_cannot_say_never_reaches_a_peer(scene: Stage, big: Cluster, text: str) -> None:
    """Metadata and media are passed on, so what a browser could not read must be refused, or passed on readable."""
    alice = RawClient("alice")
    scene.clients.append(alice)
    await alice.connect(big.gateways[0].url)
    await alice.join(scene.id("caller"))
    bob = RawClient("bob")
    scene.clients.append(bob)
    await bob.connect(big.gateways[1].url)
    await bob.join(scene.id("callee"))

    def strict(constant: str) -> None:
        raise AssertionError(f"{constant} reached the peer")

    addressed = f'"from":{json.dumps(alice.user)},"to":{json.dumps(bob.user)}'
    call = await talk(alice, bob)
    for event, field in (("call:offer", "offer"), ("ice:candidate", "candidate")):
        ack = await alice.ask_text(event, f'{{"{field}":{{"x":{text}}},{addressed}}}')
        if ack["ok"]:
            got = await bob.expect(event)
            json.loads(json.dumps(got), parse_constant=strict)
            assert got[field] == json.loads(f'{{"x":{text}}}')
        else:
            await alice.expect("error", code="bad_request")
    await end(alice, bob, call=call)

    payload = f'{{"to":{json.dumps(bob.user)},"callType":"audio","metadata":{{"x":{text}}}}}'
    ack = await alice.ask_text("call:initiate", payload)
    if ack["ok"]:
        got = await bob.expect("call:incoming")
        json.loads(json.dumps(got["metadata"]), parse_constant=strict)
        await alice.expect("call:initiated")
        await end(alice, bob, call=got["callId"], reason="cancelled")
    else:
        await alice.expect("error", code="bad_request")


async def test_endless_garbage_ends_the_connection(scene: Stage, big: Cluster) -> None:
    socket = RawClient("garbage", stubborn=True)
    scene.clients.append(socket)
    await socket.connect(big.gateways[0].url)
    await socket.join(scene.id("garbage"))
    for _ in range(STRIKES_MOST):
        await socket.send('42["call:accept",7]')
    await socket.expect_closed()
    strikes = len(socket.inbox.seen("error"))
    assert STRIKES_LEAST <= strikes < STRIKES_MOST, f"thrown out after {strikes} strikes"
    socket.inbox.forget()
