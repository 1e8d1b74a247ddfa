"""Run one attack by frames and bytes that no polite library sends.

``python -m tests.support.hostile_client NAME SECONDS URL…``

A process of its own, so that the call beside it does not share its event loop. Prints what came of it as JSON: error
codes, HTTP statuses, ``closed`` for connections that the server ended, ``sent``. Each attacker has an address of the
loopback network to itself.
"""

import asyncio
import itertools
import json
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.support.issuer import claims, hs256, unsigned

PACE_SECONDS = 0.02
BATCH = 10
Done = Counter[str]
OPEN = "/socket.io/?EIO=4&transport="
CALL = "A" * 22


def token(user: str) -> str:
    """A good one."""
    return hs256(claims(user, 600))


class Attack:
    """Where, until when, and what has come of it."""

    def __init__(self, urls: list[str], until: float) -> None:
        self.urls = urls
        self.until = until
        self.done: Done = Counter()
        self._addresses = 1
        self._token = secrets.token_hex(3)
        self._sessions: list[aiohttp.ClientSession] = []

    def on(self) -> bool:
        """Whether it goes on."""
        return time.monotonic() < self.until

    def from_somewhere(self) -> aiohttp.ClientSession:
        """HTTP from an address that nobody else here has."""
        self._addresses += 1
        connector = aiohttp.TCPConnector(limit=0, local_addr=(f"127.0.2.{self._addresses}", 0))
        http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20))
        self._sessions.append(http)
        return http

    def user(self, name: str) -> str:
        """A user that no other run has."""
        return f"{name}-{self._token}"

    async def close(self) -> None:
        """Let go of everything."""
        for http in self._sessions:
            await http.close()

    async def websocket(
        self, http: aiohttp.ClientSession, gateway: int = 0, **how: Any
    ) -> aiohttp.ClientWebSocketResponse | None:
        """A websocket; ``None`` for one that is refused, which is noted."""
        try:
            return await http.ws_connect(
                self.urls[gateway] + OPEN + "websocket", compress=0, max_msg_size=0, **how
            )
        except aiohttp.WSServerHandshakeError as error:
            self.done[f"http {error.status}"] += 1
        except (aiohttp.ClientError, OSError, TimeoutError):
            self.done["closed"] += 1
        return None

    async def joined(self, user: str, http: aiohttp.ClientSession, gateway: int = 0) -> "Hostile | None":
        """A user with a good token who has joined, or has been refused."""
        ws = await self.websocket(http, gateway)
        if ws is None:
            return None
        hostile = Hostile(self, ws, user)
        await hostile.send("40" + json.dumps({"token": token(user)}))
        await hostile.send(f'420["user:join",{json.dumps({"userId": user})}]')
        try:
            async with asyncio.timeout(5):
                await hostile.answered.wait()
        except TimeoutError:
            self.done["no answer"] += 1
        return hostile

    async def each(self, count: int, do: Callable[[int], Awaitable[None]]) -> None:
        """``do`` so many times at once."""
        await asyncio.gather(*(do(n) for n in range(count)))


class Hostile:
    """A websocket whose answers are counted."""

    def __init__(self, attack: Attack, ws: aiohttp.ClientWebSocketResponse, user: str = "") -> None:
        self._attack = attack
        self.ws = ws
        self.user = user
        self.calls: list[str] = []
        self.answered = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @property
    def over(self) -> bool:
        """Whether the server has ended it."""
        return self._reader.done()

    async def send(self, frame: str | bytes) -> None:
        """A frame as it is."""
        try:
            async with asyncio.timeout(5):
                await (self.ws.send_str(frame) if isinstance(frame, str) else self.ws.send_bytes(frame))
            self._attack.done["sent"] += 1
        except (ConnectionError, aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(0.01)

    async def flood(self, *frames: str | bytes, batch: int = BATCH) -> None:
        """The same frames again and again, until it is ended."""
        while self._attack.on() and not self.over:
            for n in range(batch):
                await self.send(frames[n % len(frames)])
            await asyncio.sleep(PACE_SECONDS)
        await self.end()

    async def end(self) -> None:
        """Stop."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self.ws._response.close()

    async def _read(self) -> None:
        done = self._attack.done
        async for message in self.ws:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            if message.data.startswith('42["'):
                self.answered.set()
            if message.data == "2":
                await self.ws.send_str("3")
            elif message.data.startswith('42["error",'):
                done[json.loads(message.data[2:])[1]["code"]] += 1
            elif message.data.startswith('42["call:initiated",'):
                self.calls.append(json.loads(message.data[2:])[1]["callId"])
                done["rang"] += 1
            elif message.data.startswith('42["user:joined",'):
                done["joined"] += 1
        done["closed"] += 1
        self.answered.set()


def event(name: str, payload: object) -> str:
    """A frame with an event."""
    return "42" + json.dumps([name, payload], separators=(",", ":"))


# --- numbers ------------------------------------------------------------------------------------------------------


async def connections(attack: Attack) -> None:
    """As many as go from one address; joined ones, so that nothing else limits them."""
    http = attack.from_somewhere()

    async def one(n: int) -> None:
        await attack.joined(f"many-{n}", http)

    while attack.on():
        await attack.each(10, one)
        await asyncio.sleep(PACE_SECONDS)


async def connections_of_a_user(attack: Attack) -> None:
    """One user, many sockets at one gateway."""
    http = attack.from_somewhere()
    while attack.on():
        await attack.joined("one-user", http)
        await asyncio.sleep(PACE_SECONDS)


async def sessions_of_a_user(attack: Attack) -> None:
    """One user, some sockets at each gateway."""
    while attack.on():
        for gateway in (0, 1):
            http = attack.from_somewhere()
            sockets = [await attack.joined("everywhere", http, gateway) for _ in range(4)]
        await asyncio.sleep(0.3)
        await asyncio.gather(*(one.end() for one in sockets if one is not None))


async def joins_of_a_user(attack: Attack) -> None:
    """One user who connects, joins, leaves and closes, again and again, on both gateways."""

    async def one(n: int) -> None:
        http = attack.from_somewhere()
        while attack.on():
            if (hostile := await attack.joined("comes-and-goes", http, n % 2)) is not None:
                await hostile.send("41")
                await hostile.end()

    await attack.each(4, one)


async def unjoined(attack: Attack) -> None:
    """Sockets that sit there, from a few addresses, while people from elsewhere come and join."""
    kept, crowd = [], [attack.from_somewhere() for _ in range(3)]
    people = 0
    while attack.on():
        for http in crowd:
            for _ in range(10):
                kept.append(await attack.websocket(http))
        people += 1
        honest = await attack.joined(attack.user(f"honest-{people}"), attack.from_somewhere())
        attack.done["honest"] += honest is not None and honest.answered.is_set() and not honest.over
        attack.done["locked out"] += honest is None or honest.over
        if honest is not None:
            await honest.end()
        await asyncio.sleep(PACE_SECONDS)


def flooding(*frames: str, users: int = 3, batch: int = BATCH) -> Callable[[Attack], Awaitable[None]]:
    """Users who send the same again and again; ``@`` stands for the user."""

    async def run(attack: Attack) -> None:
        async def one(n: int) -> None:
            http, user = attack.from_somewhere(), f"hostile-{n}"
            while attack.on():
                if (hostile := await attack.joined(user, http, n % 2)) is not None:
                    await hostile.flood(*(frame.replace("@", user) for frame in frames), batch=batch)
                await asyncio.sleep(0.1)

        await attack.each(users, one)

    return run


async def rings_by_one(attack: Attack) -> None:
    """One caller who rings many users, and hangs up, again and again."""
    caller, *callees = [
        await attack.joined(attack.user(f"ringing-{n}"), attack.from_somewhere(), n % 2) for n in range(7)
    ]
    assert caller is not None
    victims = [callee for callee in callees if callee is not None]
    await _ring(attack, [caller], *(victim.user for victim in victims))
    await asyncio.gather(*(victim.end() for victim in victims))


async def rings_unanswered(attack: Attack) -> None:
    """One caller who rings the same user, who does not answer, again and again."""
    caller, callee = [
        await attack.joined(attack.user(f"pestering-{n}"), attack.from_somewhere(), n) for n in (0, 1)
    ]
    assert caller is not None and callee is not None
    await _ring(attack, [caller], callee.user)
    await callee.end()


async def rings_by_many(attack: Attack) -> None:
    """Many callers, one victim."""
    victim = await attack.joined(attack.user("victim"), attack.from_somewhere())
    callers = [
        await attack.joined(attack.user(f"caller-{n}"), attack.from_somewhere(), n % 2) for n in range(12)
    ]
    assert victim is not None
    await _ring(attack, [caller for caller in callers if caller is not None], victim.user)
    await victim.end()


async def _ring(attack: Attack, callers: list[Hostile], *victims: str) -> None:
    while attack.on():
        for caller, victim in itertools.product(callers, victims):
            await caller.send(event("call:initiate", {"to": victim, "callType": "audio"}))
            for _ in range(20):
                await asyncio.sleep(0.005)
                if caller.calls:
                    await caller.send(event("call:end", {"callId": caller.calls.pop()}))
                    break
    await asyncio.gather(*(caller.end() for caller in callers))


# --- sizes and shapes ---------------------------------------------------------------------------------------------

_TO = {"from": "@", "to": "peer", "callId": CALL}
SIZES = (
    event("call:offer", {"offer": {"sdp": "x" * 65_536}, **_TO}),
    event("ice:candidate", {"candidate": {"candidate": "x" * 2048}, **_TO}),
    event("ice:candidate", {"candidates": [{}] * 65, **_TO}),
    event("call:initiate", {"to": "peer", "callType": "audio", "metadata": "x" * 4096}),
    event("user:status", {"userId": "x" * 129}),
    event("user:refresh", {"token": "x" * 8193}),
)
DEEP = tuple(
    f'42["call:initiate",{{"to":"peer","callType":"audio","metadata":{opening * 9000}{closing * 9000}}}]'
    for opening, closing in (("[", "]"), ('{"a":', "}"), ("[", ""))
)
BOMBS = (
    '451-["call:offer",{"offer":{"_placeholder":true,"num":0}}]',
    '459999999999-["call:offer",{"_placeholder":true,"num":7}]',
    "45" + "9" * 5000 + '-["x"]',
    '461-1[{"_placeholder":true,"num":0}]',
    "b" + "A" * 60_000,
    "42" + "9" * 60_000 + '["user:status",{"userId":"x"}]',
    "42/" + "x" * 60_000 + ',["user:status",{"userId":"x"}]',
    '42["user:status",{"userId":' + "9" * 60_000 + "}]",
    '42["user:status",{"userId":1e999999}]',
    '42["user:status",{"userId":"\\ud800"}]',
    '42["user:status",{"userId":NaN}]',
    '42["user:status",{"x":' + "[{}," * 20_000 + '"userId":"x"}]',
)
NONSENSE = ("4nonsense", "9", "", "42", '42["call:offer",', '42["no:such:event",{}]', "431[]", "44{}")


async def frames_too_large(attack: Attack) -> None:
    """A frame of 2 MiB, in one and in fragments that do not end."""

    async def one(n: int) -> None:
        http = attack.from_somewhere()
        while attack.on():
            ws = await attack.websocket(http, n % 2)
            if ws is not None:
                hostile = Hostile(attack, ws)
                await hostile.send("4" + "x" * 2_000_000)
                while attack.on() and not hostile.over:
                    await asyncio.sleep(PACE_SECONDS)
                await hostile.end()

    await attack.each(4, one)


async def fragments(attack: Attack) -> None:
    """A message in fragments without an end, and no pongs between them."""
    http = attack.from_somewhere()

    async def one(n: int) -> None:
        while attack.on():
            ws = await attack.websocket(http, n % 2)
            if ws is None:
                return
            transport = ws._response.connection.transport  # type: ignore[union-attr]
            transport.write(b"\x01\x81\x00\x00\x00\x004")  # no end in sight
            while attack.on() and not transport.is_closing():
                transport.write(b"\x00\x80\x00\x00\x00\x00" * 100 + b"\x00\x81\x00\x00\x00\x00x")
                await asyncio.sleep(PACE_SECONDS)
                attack.done["sent"] += 1
                if (await ws.receive()).type is not aiohttp.WSMsgType.TEXT:
                    break
            attack.done["closed"] += 1
            ws._response.close()

    await attack.each(4, one)


async def candidates_of_a_call(attack: Attack) -> None:
    """A call as a pipe: batches of 64."""
    caller, callee = [
        await attack.joined(attack.user(f"pipe-{n}"), attack.from_somewhere(), n) for n in (0, 1)
    ]
    assert caller is not None and callee is not None
    await caller.send(event("call:initiate", {"to": callee.user, "callType": "audio"}))
    while attack.on() and not caller.calls:
        await asyncio.sleep(0.01)
    call = caller.calls.pop()
    await callee.send(event("call:accept", {"callId": call}))
    batch = event(
        "ice:candidate", {"candidates": [{}] * 64, "from": caller.user, "to": callee.user, "callId": call}
    )
    while attack.on() and not caller.over:
        await caller.send(batch)
        await asyncio.sleep(PACE_SECONDS)
    await callee.end()
    await caller.end()


# --- edges --------------------------------------------------------------------------------------------------------


async def bad_tokens(attack: Attack) -> None:
    """Tokens that nobody signed, again and again."""
    forged = [unsigned(claims("alice")), hs256(claims("alice"), "x" * 32), hs256(claims("bob")), "x.y.z"]
    frames = [event("user:join", {"userId": "alice", "token": one}) for one in forged]

    async def one(n: int) -> None:
        http = attack.from_somewhere()
        while attack.on():
            if (ws := await attack.websocket(http, n % 2)) is not None:
                hostile = Hostile(attack, ws)
                await hostile.send("40")
                await hostile.flood(*frames)

    await attack.each(3, one)


async def origins(attack: Attack) -> None:
    """A page of somebody else's."""
    http = attack.from_somewhere()
    headers = {"Origin": "https://evil.example"}
    while attack.on():
        await attack.websocket(http, headers=headers)
        for method in ("GET", "POST"):
            async with http.request(method, attack.urls[0] + OPEN + "polling", headers=headers) as answer:
                attack.done[f"http {answer.status}"] += 1
                assert "Access-Control-Allow-Origin" not in answer.headers
        await asyncio.sleep(PACE_SECONDS)


async def _handshakes(attack: Attack, headers: dict[str, str]) -> None:
    http = attack.from_somewhere()
    while attack.on():
        async with http.get(attack.urls[0] + OPEN + "polling", headers=headers) as answer:
            attack.done[f"http {answer.status}"] += 1
        await asyncio.sleep(PACE_SECONDS)


async def hosts(attack: Attack) -> None:
    """A page whose own name leads to the gateway: DNS rebinding."""
    await _handshakes(attack, {"Host": "evil.example"})


async def embedded(attack: Attack) -> None:
    """A page of another site that has its visitor's browser open connections, as images."""
    await _handshakes(attack, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})


async def unread(attack: Attack) -> None:
    """A peer that reads nothing of what its friend sends it."""
    caller, callee = [
        await attack.joined(attack.user(f"deaf-{n}"), attack.from_somewhere(), n) for n in (0, 1)
    ]
    assert caller is not None and callee is not None
    await caller.send(event("call:initiate", {"to": callee.user, "callType": "audio"}))
    while attack.on() and not caller.calls:
        await asyncio.sleep(0.01)
    call = caller.calls.pop()
    await callee.send(event("call:accept", {"callId": call}))
    await asyncio.sleep(0.2)
    transport = callee.ws._response.connection.transport  # type: ignore[union-attr]
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    transport.pause_reading()
    offer = event(
        "call:offer", {"offer": {"sdp": "x" * 60_000}, "from": caller.user, "to": callee.user, "callId": call}
    )
    while attack.on():
        await caller.send(offer)
        await asyncio.sleep(PACE_SECONDS)
    transport.resume_reading()
    async with asyncio.timeout(10):
        while not callee.over:
            await callee.send("3")  # whoever closed it says so, whatever else is still to be read
            await asyncio.sleep(0.05)
    await caller.end()


async def slow(attack: Attack) -> None:
    """Requests that never arrive: heads, bodies, frames."""
    host, port = attack.urls[0].removeprefix("http://").split(":")
    http = attack.from_somewhere()
    async with http.get(attack.urls[0] + OPEN + "polling") as answer:
        sid = json.loads((await answer.text())[1:])["sid"]
    heads = (
        b"",
        b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\nA: ",
        f"POST {OPEN}polling&sid={sid} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n4".encode(),
    )

    async def one(n: int) -> None:
        while attack.on():
            try:
                reader, writer = await asyncio.open_connection(host, int(port), local_addr=("127.0.3.1", 0))
                writer.write(heads[n % len(heads)])
                while attack.on() and not reader.at_eof():
                    await asyncio.sleep(0.2)
                    writer.write(b"x" if n % len(heads) else b"")
                    attack.done["sent"] += 1
                attack.done["closed"] += reader.at_eof()
                writer.close()
            except OSError:
                attack.done["closed"] += 1
            await asyncio.sleep(1)

    await attack.each(300, one)


async def polls(attack: Attack) -> None:
    """One session, a hundred polls at once; bodies at once; bodies that are too large, too many, somebody else's."""
    http = attack.from_somewhere()

    async def get(url: str) -> None:
        try:
            async with http.get(url) as answer:
                attack.done[f"http {answer.status}"] += 1
                await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            attack.done["closed"] += 1

    async def post(url: str, body: bytes) -> None:
        try:
            async with http.post(url, data=body) as answer:
                attack.done[f"http {answer.status}"] += 1
        except (aiohttp.ClientError, TimeoutError):
            attack.done["closed"] += 1

    while attack.on():
        async with http.get(attack.urls[0] + OPEN + "polling") as answer:
            if answer.status != 200:
                attack.done[f"http {answer.status}"] += 1
                await asyncio.sleep(0.1)
                continue
            sid = json.loads((await answer.text())[1:])["sid"]
        url = f"{attack.urls[0]}{OPEN}polling&sid={sid}"
        waiting = [asyncio.create_task(get(url)) for _ in range(100)]
        await post(url, b"x" * 200_000)
        await post(url, b"\x1e".join([b"3"] * 20_000))
        await post(url, b"\x1e".join([b"3"] * 9_000))
        await post(url.replace(sid, "A" * 20), b"40")
        await asyncio.gather(*(attack.websocket(http) for _ in range(2)))
        await asyncio.gather(*(post(url, b"40") for _ in range(20)))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(PACE_SECONDS)


async def pings(attack: Attack) -> None:
    """Pings and pongs without end."""

    async def one(n: int) -> None:
        http = attack.from_somewhere()
        while attack.on():
            if (ws := await attack.websocket(http, n % 2)) is None:
                continue
            hostile = Hostile(attack, ws)
            while attack.on() and not hostile.over:
                try:
                    for _ in range(BATCH):
                        await ws.ping()
                        await ws.send_str("3")
                except (ConnectionError, aiohttp.ClientError):
                    break
                attack.done["sent"] += 2 * BATCH
                await asyncio.sleep(PACE_SECONDS)
            await hostile.end()

    await attack.each(3, one)


async def injection(attack: Attack) -> None:
    """Text for whoever reads the logs."""
    evil = '\x1b[2J\n{"level":"info"}\r\u2028\u202e'
    frames = (
        event("user:join", {"userId": evil, "deviceId": evil, "token": evil}),
        event(evil, {"callId": evil}),
        event("call:end", {"callId": evil, "reason": evil}),
        event("call:accept", {"callId": "\u202e>*."}),
        event("user:status", {"userId": "a.b.*.>\u202e \u2028"}),
        event("call:offer", {"offer": {}, "from": "@", "to": "*.>", "callId": "../../x y"}),
    )
    await flooding(*frames)(attack)


ATTACKS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    "connections": connections,
    "connections_of_a_user": connections_of_a_user,
    "sessions_of_a_user": sessions_of_a_user,
    "joins_of_a_user": joins_of_a_user,
    "unjoined": unjoined,
    "candidates": flooding(event("ice:candidate", {"candidate": None, **_TO}), users=1, batch=30),
    "offers": flooding(event("call:offer", {"offer": {"sdp": "x" * 10_000}, **_TO})),
    "initiates": flooding(event("call:initiate", {"to": "nobody", "callType": "audio"})),
    "status": flooding(event("user:status", {"userId": "nobody"})),
    "joins": flooding(event("user:join", {"userId": "@"})),
    "rings_by_one": rings_by_one,
    "rings_by_many": rings_by_many,
    "rings_unanswered": rings_unanswered,
    "sizes": flooding(*SIZES, users=2),
    "deep": flooding(*DEEP, users=2),
    "bombs": flooding(*BOMBS, users=2),
    "nonsense": flooding(*NONSENSE),
    "frames_too_large": frames_too_large,
    "fragments": fragments,
    "candidates_of_a_call": candidates_of_a_call,
    "bad_tokens": bad_tokens,
    "origins": origins,
    "hosts": hosts,
    "embedded": embedded,
    "unread": unread,
    "slow": slow,
    "polls": polls,
    "pings": pings,
    "injection": injection,
}


async def main(name: str, seconds: float, urls: list[str]) -> None:
    """Run it."""
    attack = Attack(urls, time.monotonic() + seconds)
    try:
        await ATTACKS[name](attack)
    finally:
        await attack.close()
    sys.stdout.write(json.dumps(attack.done) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
