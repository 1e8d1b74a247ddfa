"""What breaks and what leaves, on both transports; state that vanishes between two requests; namespaces; CORS."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from services.gateway.transport import http_polling as module
from services.gateway.websocket import connection
from tests.integration.gateway.conftest import Connect, Services, Start
from tests.integration.gateway.test_edges import said, tcp
from tests.integration.gateway.test_garbage import Polling
from tests.support.logged import Logged

JOIN = '42["user:join",{"userId":"alice"}]'


class Eio(Polling):
    """A polling client that can become a websocket, by hand."""

    ws: aiohttp.ClientWebSocketResponse

    @property
    def url(self) -> str:
        return self._url

    @classmethod
    async def joined(cls, http: aiohttp.ClientSession, url: str) -> "Eio":
        one = cls(http, url)
        await one.open()
        assert await one.post(b"40") == 200
        await one.until('40{"sid"')
        assert await one.post(JOIN.encode()) == 200
        await one.until("user:joined")
        return one

    async def get(self) -> tuple[int, str]:
        async with self._http.get(self._url) as answer:
            return answer.status, await answer.text()

    async def probe(self) -> None:
        """Open the websocket of an upgrade."""
        self.ws = await self._http.ws_connect(self._url.replace("transport=polling", "transport=websocket"))

    async def send(self, *frames: str) -> None:
        for one in frames:
            await self.ws.send_str(one)

    async def expect(self, text: str) -> str:
        async with asyncio.timeout(5):
            while True:
                message = await self.ws.receive()
                assert message.type is aiohttp.WSMsgType.TEXT, message
                if text in message.data:
                    return str(message.data)

    async def expect_closed(self, timeout: float = 3) -> None:
        async with asyncio.timeout(timeout):
            while (await self.ws.receive()).type is aiohttp.WSMsgType.TEXT:
                pass


@pytest.fixture
def silent(logged: Logged) -> Callable[[], None]:
    """Assert that nothing has been logged with a traceback, nor as an error."""

    def check() -> None:
        assert not logged.errors(), logged.text()

    return check


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Eio]:
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        yield await Eio.joined(http, url)


# --- leaving ------------------------------------------------------------------------------------------------------


async def _upgraded(one: Eio) -> None:
    await one.probe()
    await one.send("2probe")
    await one.expect("3probe")
    await one.send("5")
    await one.send('420["user:status",{"userId":"x"}]')
    await one.expect('430[{"ok":true')


async def _post(one: Eio, body: str) -> None:
    assert await one.post(body.encode()) == 200


async def _ws(one: Eio, *frames: str) -> None:
    await _upgraded(one)
    await one.send(*frames)


async def _ws_code(one: Eio, code: int) -> None:
    await _upgraded(one)
    await one.ws.close(code=code)


async def _ws_reset(one: Eio) -> None:
    await _upgraded(one)
    one.ws._response.connection.transport.abort()  # type: ignore[union-attr]


async def _overlap(one: Eio) -> None:
    """A poll fails while a body is on its way: the close packet comes beside it."""
    _, writer = await asyncio.open_connection("127.0.0.1", int(one.url.split(":")[2].split("/")[0]))
    path = one.url.partition("/socket.io")[2]
    body = '42["user:status",{"userId":"last"}]'
    head = f"POST /socket.io{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body[:9]).encode())
    await asyncio.sleep(0.2)
    closing = asyncio.create_task(one.post(b"1"))
    await asyncio.sleep(0.2)
    writer.write(body[9:].encode())
    await closing
    writer.close()


async def _half(one: Eio, body: str) -> None:
    """It goes in the middle of an upgrade."""
    await one.probe()
    await one.send("2probe")
    await one.expect("3probe")
    await _post(one, body)


async def _silence(one: Eio) -> None:
    """No answer to a ping any more."""
    while "2" not in (await one.get())[1].split("\x1e"):
        pass


async def _garbage(one: Eio) -> None:
    for _ in range(30):
        if await one.post(b"x") != 200:
            break


Leave = Callable[[Eio], Awaitable[None]]

BROKEN: dict[str, Leave] = {
    "polling-1": lambda one: _post(one, "1"),
    "polling-1-with-an-event": lambda one: _post(one, '42["user:status",{"userId":"x"}]\x1e1'),
    "polling-1-then-41": lambda one: _post(one, "1\x1e41"),
    "polling-1-beside-a-body": _overlap,
    "polling-silence": _silence,
    "polling-garbage": _garbage,
    "half-way-1": lambda one: _half(one, "1"),
    "websocket-1": lambda one: _ws(one, "1"),
    "websocket-1-then-41": lambda one: _ws(one, "1", "41"),
    "websocket-reset": _ws_reset,
    "websocket-no-utf8": lambda one: _ws_code(one, 1007),
    **{
        f"websocket-close-{code}": (lambda one, code=code: _ws_code(one, code))
        for code in (1000, 1001, 1011, 4000)
    },
}
ON_PURPOSE: dict[str, Leave] = {
    "polling-41": lambda one: _post(one, "41"),
    "polling-41,": lambda one: _post(one, "41/,"),
    "polling-41-then-1": lambda one: _post(one, "41\x1e1"),
    "half-way-41": lambda one: _half(one, "41"),
    "websocket-41": lambda one: _ws(one, "41"),
    "websocket-41,": lambda one: _ws(one, "41/,"),
}
PINGS = {"ping_interval_seconds": 1, "ping_timeout_seconds": 1}


@pytest.mark.parametrize("way", BROKEN)
async def test_all_but_a_disconnect_packet_is_a_transport_that_breaks(
    gateway: Start, services: Services, silent: Callable[[], None], way: str
) -> None:
    url = await gateway(strikes_max=9, **(PINGS if "silence" in way else {}))
    async with client(url) as one:
        await BROKEN[way](one)
        lost = await services.wait_for("lost")
        assert lost["user"] == "alice" and lost["session"]
        await asyncio.sleep(0.1)
        assert "leave" not in services.verbs()
        assert (await one.get())[0] == 400 and await one.post(b"41") == 400
        if "beside" in way:
            assert [request["user"] for verb, request in services.asked if verb == "status"] == ["last"]
    silent()


@pytest.mark.parametrize("way", ON_PURPOSE)
async def test_a_disconnect_packet_leaves_at_once(
    gateway: Start, services: Services, silent: Callable[[], None], way: str
) -> None:
    async with client(await gateway()) as one:
        await ON_PURPOSE[way](one)
        left = await services.wait_for("leave")
        assert (left["user"], left["reason"]) == ("alice", "hangup")
        await asyncio.sleep(0.1)
        assert "lost" not in services.verbs()
    silent()


# --- what is gone meanwhile ---------------------------------------------------------------------------------------


async def test_a_poll_that_hangs_ends_with_the_connection(gateway: Start, services: Services) -> None:
    async with client(await gateway()) as one:
        poll = asyncio.create_task(one.get())
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        assert await one.post(b"1") == 200
        assert await poll == (200, "6"), "as Engine.IO's own server answers it"
        assert time.monotonic() - begun < 1


@pytest.mark.parametrize("hangs", [True, False])
async def test_requests_around_the_ping_timeout(
    gateway: Start, services: Services, silent: Callable[[], None], *, hangs: bool
) -> None:
    """Requests are refused as those of any dead session, whichever moment they come in."""
    async with client(await gateway(**PINGS)) as one:
        while "2" not in (await one.get())[1].split("\x1e"):
            pass
        poll = asyncio.create_task(one.get()) if hangs else None
        seen, until = [], time.monotonic() + 3.5
        while time.monotonic() < until:
            seen.append(await one.post(b'42["user:status",{"userId":"x"}]'))
            await asyncio.sleep(0.01)
        first = seen.index(400)
        assert set(seen[:first]) == {200} and set(seen[first:]) == {400}
        assert (await one.get())[0] == 400
        if poll is not None:
            assert poll.done(), "it hangs on"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await one.probe()
        assert refused.value.status == 400
    silent()


async def test_a_connection_that_closes_while_a_body_arrives(
    gateway: Start, services: Services, silent: Callable[[], None]
) -> None:
    url = await gateway(**PINGS)
    async with client(url) as one, tcp(url) as (reader, writer):
        path, body = one.url.removeprefix(url), '42["user:status",{"userId":"late"}]'
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n4".encode()
        )
        await services.wait_for("lost")
        writer.write(body[1:].encode())
        assert b" 400 " in await reader.readuntil(b"\r\n")
        assert "status" not in services.verbs()
    silent()


@pytest.mark.parametrize("after", ["40", "41", "3", '42["user:status",{"userId":"late"}]', "x", "5"])
async def test_nothing_comes_after_a_close(
    gateway: Start, services: Services, connect: Connect, silent: Callable[[], None], after: str
) -> None:
    url = await gateway()
    async with client(url) as one:
        assert await one.post(f"1\x1e{after}".encode()) == 200
        await services.wait_for("lost")
        await (await connect(url, "bob")).settle()
        assert [request["user"] for verb, request in services.asked if verb == "status"] == ["bob"]
    silent()


async def test_a_connection_that_closes_while_its_packets_are_handled(
    gateway: Start, services: Services, silent: Callable[[], None]
) -> None:
    """The ping times out in the pauses between malformed packets. Nothing that comes after that is handled."""
    async with client(await gateway(**PINGS, strikes_max=100)) as one:
        assert await one.post("\x1e".join([*"x" * 25, "40", status(1)]).encode()) == 400
        await services.wait_for("lost")
        assert not asked(services)
    silent()


async def test_a_poll_that_is_sent_again_is_answered_again(gateway: Start, services: Services) -> None:
    """HTTP clients do that by themselves when a connection breaks before the answer: nothing of it may be lost."""
    url = await gateway()
    async with client(url) as one, tcp(url) as (_, writer):
        poll = one.url
        path = poll.removeprefix(url) + "&t=a"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await asyncio.sleep(0.2)
        writer.transport.abort()
        assert await one.post(status(1).encode()) == 200
        await asyncio.sleep(0.2)
        one._url = poll + "&t=a"
        assert '431[{"ok":true' in (await one.get())[1]
        one._url = poll + "&t=b"
        pending = asyncio.create_task(one.get())
        await asyncio.sleep(0.2)
        assert not pending.done(), "another poll is another poll"
        one._url = poll
        await one.post(status(2).encode())
        assert '432[{"ok":true' in (await pending)[1]


@pytest.mark.parametrize("slow", [0.0, 0.4])
async def test_a_body_that_is_sent_again_is_handled_once(
    gateway: Start, services: Services, silent: Callable[[], None], slow: float
) -> None:
    """Also while the first of them is being handled."""
    url = await gateway()
    services.slow["status"] = slow
    async with client(url) as one, tcp(url) as (_, writer):
        bare, body = one.url, status(1)
        path = bare.removeprefix(url) + "&t=a"
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        await services.wait_for("status")
        writer.transport.abort()
        one._url = bare + "&t=a"
        assert await one.post(body.encode()) == 200
        assert await one.post(status(2).encode()) == 200, "another body under the same key is another"
        assert await one.post(b"3") == await one.post(b"3") == 200
        one._url = bare + "&t=b"
        assert await one.post(status(2).encode()) == 200
        assert asked(services) == ["u1", "u2", "u2"]
    silent()


async def test_a_client_whose_polls_all_look_the_same_gets_everything(
    gateway: Start, services: Services
) -> None:
    async with client(await gateway()) as one:
        poll, heard = one.url, ""
        for n in range(6):
            one._url = poll
            assert await one.post(status(n).encode()) == 200
            one._url = poll + "&t=always"
            async with asyncio.timeout(3):
                while f'43{n}[{{"ok":true' not in heard:
                    heard += (await one.get())[1]
        assert max(heard.count(f"43{n}[") for n in range(6)) <= 2
        assert sum(heard.count(f"43{n}[") for n in range(6)) <= 7, "and no more than one answer twice"


async def test_answers_to_polls_are_kept_only_while_a_client_polls(
    gateway: Start, services: Services
) -> None:
    url = await gateway()
    async with aiohttp.ClientSession() as http, asyncio.timeout(10):
        kept = []
        for _ in range(2):
            one = await Eio.joined(http, url)
            await one.post(status(1).encode())
            one._url += "&t=x"
            await one.get()
            kept.append(one)
        gc.collect()
        found = [o for o in gc.get_objects() if isinstance(o, module._Answer)]
        assert len(found) == 2
        del found
        await _upgraded(kept[0])
        assert await kept[1].post(b"1") == 200
        await services.wait_for("lost")
        gc.collect()
        assert not [o for o in gc.get_objects() if isinstance(o, module._Answer)]


# --- upgrades -----------------------------------------------------------------------------------------------------


def status(n: int) -> str:
    return f'42{n}["user:status",{{"userId":"u{n}"}}]'


def asked(services: Services) -> list[str]:
    return [request["user"] for verb, request in services.asked if verb == "status"]


async def test_a_websocket_that_says_nothing_holds_up_nothing(gateway: Start, services: Services) -> None:
    """A proxy may let a websocket through and its frames not."""
    async with client(await gateway()) as one:
        await one.probe()
        poll = asyncio.create_task(one.get())
        await asyncio.sleep(0.3)
        assert not poll.done(), "polls are answered in a circle"
        assert await one.post(status(1).encode()) == 200
        assert '431[{"ok":true' in (await asyncio.wait_for(poll, 2))[1]


async def test_what_comes_during_an_upgrade_is_read_by_polls_yet(gateway: Start, services: Services) -> None:
    async with client(await gateway()) as one:
        poll = asyncio.create_task(one.get())
        await asyncio.sleep(0.1)
        await one.probe()
        await one.send("2probe")
        await one.expect("3probe")
        assert await poll == (200, "6")
        assert await asyncio.wait_for(one.get(), 1) == (200, "6"), (
            "a poll that comes after it ends at once, too"
        )
        assert await one.post(status(1).encode()) == 200
        assert '431[{"ok":true' in (await one.get())[1]
        await one.send("5", status(2))
        await one.expect('432[{"ok":true')
        assert asked(services) == ["u1", "u2"]
        assert (await one.get())[0] == 400, "it does not poll any more"


async def test_what_is_posted_comes_before_what_the_websocket_brings(
    gateway: Start, services: Services
) -> None:
    """A client that does not wait for the answer to its body before it goes on."""
    services.slow["status"] = 0.2
    url = await gateway()
    async with client(url) as one, tcp(url) as (reader, writer):
        await one.probe()
        await one.send("2probe")
        await one.expect("3probe")
        path, body = one.url.removeprefix(url), "\x1e".join(map(status, range(3)))
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n4".encode()
        )
        await asyncio.sleep(0.1)
        await one.send("5", *map(status, range(3, 6)))
        await asyncio.sleep(0.1)
        writer.write(body[1:].encode())
        assert b" 200 " in await reader.readuntil(b"\r\n")
        await one.expect('435[{"ok":true')
        assert asked(services) == [f"u{n}" for n in range(6)]


async def test_a_body_before_the_probe_and_one_before_it_is_answered(
    gateway: Start, services: Services
) -> None:
    async with client(await gateway()) as one:
        await one.probe()
        assert await one.post(status(0).encode()) == 200
        await one.send("2probe")
        assert await one.post(status(1).encode()) == 200
        await one.expect("3probe")
        assert await one.post(status(2).encode()) == 200
        await one.send("5", status(3))
        for n in range(4):
            await one.expect(f'43{n}[{{"ok":true')
        assert asked(services) == [f"u{n}" for n in range(4)]


@pytest.mark.parametrize("step", ["", "2probe", "2probe 5 late"])
async def test_an_upgrade_that_breaks_off_loses_nothing(
    gateway: Start, services: Services, step: str
) -> None:
    async with client(await gateway()) as one:
        await one.probe()
        if step:
            await one.send("2probe")
            await one.expect("3probe")
        assert await one.post(status(1).encode()) == 200
        one.ws._response.connection.transport.abort()  # type: ignore[union-attr]
        await one.until('431[{"ok":true')
        poll = asyncio.create_task(one.get())
        await asyncio.sleep(0.3)
        assert not poll.done(), "polls wait again"
        assert await one.post(status(2).encode()) == 200
        assert '432[{"ok":true' in (await poll)[1]
        await _upgraded(one)


@pytest.mark.parametrize("probed", [False, True])
async def test_a_websocket_that_has_nothing_to_upgrade_any_more_is_closed(
    gateway: Start, services: Services, *, probed: bool
) -> None:
    async with client(await gateway()) as one:
        await one.probe()
        if probed:
            await one.send("2probe")
            await one.expect("3probe")
        assert await one.post(b"1") == 200
        await one.expect_closed()
    assert connection.UPGRADE_SECONDS > 3


async def test_a_ping_that_crosses_an_upgrade(gateway: Start, services: Services) -> None:
    """Asked by a poll, answered on the websocket; and asked again there."""
    async with client(await gateway(**PINGS)) as one:
        while "2" not in (await one.get())[1].split("\x1e"):
            pass
        await one.probe()
        await one.send("2probe")
        await one.expect("3probe")
        await one.send("5", "3")
        for _ in range(2):
            await one.expect("2")
            await one.send("3")
        await one.send(status(1))
        await one.expect('431[{"ok":true')


# --- namespaces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("polls", [True, False])
@pytest.mark.parametrize("asked_for", ["/foo,", "/foo", '/foo,{"token":"x"}', "/foo?a=b&c=d,"])
async def test_an_unknown_namespace_is_refused_and_the_default_one_hears_nothing_of_it(
    gateway: Start, services: Services, asked_for: str, *, polls: bool
) -> None:
    name = asked_for.partition(",")[0]
    async with client(await gateway(strikes_max=5)) as one:
        if not polls:
            await _upgraded(one)
        said_by = one.post if polls else one.ws.send_str

        async def say(frame: str) -> None:
            await said_by(frame.encode() if polls else frame)  # type: ignore[arg-type, operator]

        async def hear(text: str) -> str:
            return await (one.until(text) if polls else one.expect(text))

        await say("40" + asked_for)
        heard = await hear(f"44{name},")
        assert heard.split("\x1e")[-1] == f"44{name}," + '{"message":"Invalid namespace"}'
        for frame in ('["x",1]', '7["x"]', "", "{", '["user:status",{"userId":"y"}]'):
            await say(f"42{name},{frame}")
        for frame in (f"41{name},", f"41{name}", f"43{name},1[]", f"451-{name},[]"):
            await say(frame)
        await say(status(9))
        heard = await hear('439[{"ok":true')
        assert "error" not in heard
        assert asked(services)[-1:] == ["u9"] and "y" not in asked(services)
        assert not {"leave", "lost"} & set(services.verbs())


async def test_an_unknown_namespace_before_the_default_one(gateway: Start, services: Services) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(10):
        one = Eio(http, await gateway())
        await one.open()
        await one.post(b"40/foo,")
        await one.until('44/foo,{"message":"Invalid namespace"}')
        await one.post(b"40")
        await one.until('40{"sid"')
        await one.post(JOIN.encode())
        await one.until("user:joined")


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ('"a token"', "auth: must be an object"),
        ("[]", "auth: must be an object"),
        ("5", "auth: must be an object"),
        ("{", "Not JSON"),
        ('{"userId":"\\ud800"}', "Lone surrogates are not text"),
        ('{"userId":' + "[" * 80 + "]" * 80 + "}", "Nested too deeply"),
    ],
)
@pytest.mark.parametrize("polls", [True, False])
async def test_a_connect_packet_that_is_malformed_is_refused_and_may_be_followed_by_a_good_one(
    gateway: Start, services: Services, polls: bool, auth: str, message: str
) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(10):
        one = Eio(http, await gateway())
        await one.open()
        refused = f'44{{"message":"{message}"}}'
        if polls:
            await one.post(f"40{auth}".encode())
            await one.until(refused)
            await one.post(b"40")
            await one.until('40{"sid"')
        else:
            await one.probe()
            await one.send("2probe")
            await one.expect("3probe")
            await one.send("5", f"40{auth}")
            await one.expect(refused)
            await one.send("40")
            await one.expect('40{"sid"')


# --- CORS ---------------------------------------------------------------------------------------------------------

APP = "https://app.example"
POLL = "/socket.io/?EIO=4&transport=polling"
ANSWERS: dict[str, tuple[int, str]] = {
    "handshake": (200, f"GET {POLL}"),
    "unknown session": (400, f"GET {POLL}&sid=x"),
    "post to an unknown session": (400, f"POST {POLL}&sid=x"),
    "handshake by post": (400, f"POST {POLL}"),
    "unknown transport": (400, "GET /socket.io/?EIO=4&transport=carrier-pigeon"),
    "old version": (400, "GET /socket.io/?EIO=3&transport=polling"),
    "jsonp": (400, f"GET {POLL}&j=0"),
    "no websocket": (400, "GET /socket.io/?EIO=4&transport=websocket"),
    "method": (405, f"HEAD {POLL}"),
    "other method": (404, f"PUT {POLL}"),
    "other path": (404, "GET /other/?EIO=4&transport=polling"),
    "expectation": (417, f"POST {POLL}&sid=x"),
    "too large": (413, f"POST {POLL}&sid=SID"),
    "compressed": (415, f"POST {POLL}&sid=SID"),
    "too slow": (408, f"POST {POLL}&sid=SID"),
    "not utf-8": (400, f"POST {POLL}&sid=SID"),
    "body": (200, f"POST {POLL}&sid=SID"),
    "too many": (429, f"GET {POLL}"),
    "draining": (503, f"GET {POLL}"),
}
HEADS = {
    "too large": "Content-Length: 999999",
    "compressed": "Content-Encoding: gzip\r\nContent-Length: 1",
    "too slow": "Content-Length: 1",
    "expectation": "Expect: the unexpected",
    "not utf-8": "Content-Length: 1",
    "body": "Content-Length: 2",
}


@pytest.mark.parametrize("origin", [APP, "https://evil.example", None])
@pytest.mark.parametrize("case", ANSWERS)
async def test_every_answer_may_be_read_by_pages_that_may_connect(
    gateway: Start, monkeypatch: pytest.MonkeyPatch, case: str, origin: str | None
) -> None:
    monkeypatch.setattr(module, "BODY_SECONDS", 0.3)
    url = await gateway(client_url=APP, **({"connections_per_address": 1} if case == "too many" else {}))
    expected, request = ANSWERS[case]
    async with aiohttp.ClientSession() as http:
        if "SID" in request or case == "too many":
            one = Eio(http, url)
            await one.open()
            request = request.replace("SID", one.url.partition("&sid=")[2])
        if case == "draining":
            monkeypatch.setattr(module.HttpPolling, "_alive", lambda *_: None)
            server = "services.gateway.transport.socketio_server.SocketIOServer"
            monkeypatch.setattr(
                f"{server}.draining", property(lambda _: True, lambda *_: None), raising=False
            )
        head = f"{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Origin: {origin}\r\n" if origin else ""
        body = {"not utf-8": "\xff", "body": "40"}.get(case, "")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(
            (head + (HEADS[case] + "\r\n" if case in HEADS else "") + "\r\n" + body).encode("latin-1")
        )
        async with asyncio.timeout(5):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        writer.close()
    seen = [(k.lower(), v) for k, _, v in (line.partition(": ") for line in lines[1:] if line)]
    headers = dict(seen)
    refused = origin not in (APP, None) and case not in ("other path", "other method", "expectation")
    assert int(lines[0].split()[1]) == (400 if refused else expected)
    assert [v for k, v in seen if k == "vary"] == ["Origin"]
    if origin == APP:
        assert headers["access-control-allow-origin"] == APP
        assert headers["access-control-allow-credentials"] == "true"
    else:
        assert not [k for k, _ in seen if k.startswith("access-control")]


async def test_preflights(gateway: Start) -> None:
    url = await gateway(client_url=APP)
    ask = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type,x-a\r\n"
    for path in (POLL, f"{POLL}&sid=gone"):
        request = f"OPTIONS {path} HTTP/1.1\r\nHost: localhost\r\n{{}}{ask}\r\n"
        code, headers, _ = await said(url, request.format(f"Origin: {APP}\r\n"))
        assert code == 204
        assert headers["access-control-allow-origin"] == APP
        assert headers["access-control-allow-credentials"] == "true"
        assert set(headers["access-control-allow-methods"].split(", ")) == {"GET", "POST", "OPTIONS"}
        assert headers["access-control-allow-headers"] == "content-type,x-a"
        code, headers, _ = await said(url, request.format("Origin: https://evil.example\r\n"))
        assert code == 400 and "access-control-allow-origin" not in headers


async def test_what_is_no_business_of_other_pages_does_not_vary(gateway: Start) -> None:
    url = await gateway(client_url="*")
    for path in ("/healthz", "/readyz"):
        _, headers, _ = await said(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: {APP}\r\n\r\n")
        assert "vary" not in headers and "access-control-allow-origin" not in headers


async def test_refusals_say_why_in_engineios_words(gateway: Start) -> None:
    url = await gateway()
    for path, code in ((f"{POLL}&sid=x", 1), ("/socket.io/?EIO=4&transport=x", 0)):
        _, _, body = await said(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        told: dict[str, Any] = json.loads(body)
        assert told["code"] == code and told["message"]
