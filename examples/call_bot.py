"""Answer every call with a moving picture and a tone, or call a user: a Python client with media.

    pip install "python-socketio[asyncio-client]" aiortc
    python examples/call_bot.py --name echo                 # then call echo from the page
    python examples/call_bot.py --name robot --call alice   # it calls

Each second it prints a line of JSON about the media that it receives. Use it as a starting point for an assistant, a
recorder or a test. `Bot` is the signalling, with resume after a broken connection; `Connection` is WebRTC, by aiortc.

aiortc knows no rollback and no ICE restart. So it offers once, when it calls; from then on it only answers. An offer
that restarts ICE, or comes from a page that was reloaded, is answered by a new connection, and the browser client
follows it there.
"""

import argparse
import asyncio
import json
import math
import re
import signal
import sys
from array import array
from contextlib import suppress
from fractions import Fraction
from typing import Any

import socketio
import socketio.exceptions
from aiortc import (
    AudioStreamTrack,
    MediaStreamTrack,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import candidate_from_sdp
from av import AudioFrame, VideoFrame

ANSWER_SECONDS = 10
RATE, TONE_HZ, SAMPLES = 48_000, 440, 960
WIDTH, HEIGHT = 320, 240


class Refused(Exception):
    """Raised if the server refuses an event or does not reply; the text says what and why."""


class Picture(VideoStreamTrack):
    """Generates a grey ramp that moves to the left."""

    _ramp = bytes(range(256)) * 4

    async def recv(self) -> VideoFrame:
        pts, time_base = await self.next_timestamp()
        frame = VideoFrame(WIDTH, HEIGHT, "yuv420p")
        shift = pts // 1500 % 256
        luma, *chroma = frame.planes
        luma.update(self._ramp[shift : shift + luma.line_size] * HEIGHT)
        for plane in chroma:
            plane.update(b"\x80" * plane.buffer_size)
        frame.pts, frame.time_base = pts, time_base
        return frame


class Tone(AudioStreamTrack):
    """Generates a tone that swells and fades."""

    def __init__(self) -> None:
        super().__init__()
        self._sent = 0
        self._began = asyncio.get_running_loop().time()

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        await asyncio.sleep(self._began + self._sent / RATE - asyncio.get_running_loop().time())
        swell = 4000 + 3000 * math.sin(1.4 * math.pi * self._sent / RATE)
        turn = 2 * math.pi * TONE_HZ / RATE
        samples = array("h", (int(swell * math.sin(turn * (self._sent + n))) for n in range(SAMPLES)))
        frame = AudioFrame(format="s16", layout="mono", samples=SAMPLES)
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), self._sent
        self._sent += SAMPLES
        return frame


class Connection:
    """Connects to the peer of a call."""

    def __init__(self, ice_servers: list[dict[str, Any]]) -> None:
        servers = [RTCIceServer(**server) for server in ice_servers]
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._peer.on("track", lambda track: self._keep(self._watch(track)))
        self._peer.addTrack(Tone())
        self._peer.addTrack(Picture())
        self._tasks: set[asyncio.Task[None]] = set()
        self._ufrag: str | None = None
        self.pictures = 0
        """Number of pictures received that differ from the one before."""
        self._closing: asyncio.Future[None] | None = None
        self.loudness = 0.0
        """Loudest sample since the reader last reset it, 0 to 1."""

    @property
    def state(self) -> str:
        return str(self._peer.connectionState)

    async def offer(self) -> dict[str, str]:
        """Return an offer with all candidates in it."""
        await self._peer.setLocalDescription()
        return self._local()

    async def answer(self, offer: dict[str, str]) -> dict[str, str] | None:
        """Return the answer with all candidates; ``None`` for an offer that only another connection can answer."""
        ufrag = _ufrag(offer)
        if self._ufrag not in (None, ufrag) or self._peer.signalingState != "stable":
            return None
        self._ufrag = ufrag
        await self._peer.setRemoteDescription(_description(offer))
        await self._peer.setLocalDescription()
        return self._local()

    async def answered(self, answer: dict[str, str]) -> None:
        if self._peer.signalingState == "have-local-offer":
            self._ufrag = _ufrag(answer)
            await self._peer.setRemoteDescription(_description(answer))

    async def add(self, candidate: dict[str, Any] | None) -> None:
        """Add a candidate of the peer; candidates of a replaced connection are ignored."""
        line = (candidate or {}).get("candidate")
        if candidate and line and candidate.get("usernameFragment") in (None, self._ufrag):
            parsed = candidate_from_sdp(line.removeprefix("candidate:"))
            parsed.sdpMid, parsed.sdpMLineIndex = candidate.get("sdpMid"), candidate.get("sdpMLineIndex")
            await self._peer.addIceCandidate(parsed)

    async def close(self) -> None:
        """Close the connection. Continues if its caller is cancelled; may be called again."""
        for task in self._tasks:
            task.cancel()
        self._closing = self._closing or asyncio.ensure_future(self._peer.close())
        await asyncio.shield(self._closing)

    def _local(self) -> dict[str, str]:
        return {"type": self._peer.localDescription.type, "sdp": self._peer.localDescription.sdp}

    def _keep(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, track: MediaStreamTrack) -> None:
        last = b""
        with suppress(MediaStreamError):  # the end of the track
            while True:
                frame = await track.recv()
                data = bytes(frame.planes[0])
                if isinstance(frame, VideoFrame):
                    self.pictures += data != last
                    last = data
                else:
                    self.loudness = max(self.loudness, max(map(abs, array("h", data))) / 32768)


def _description(description: dict[str, str]) -> RTCSessionDescription:
    return RTCSessionDescription(sdp=description["sdp"], type=description["type"])


def _ufrag(description: dict[str, str]) -> str | None:
    """Return the values that identify one start of ICE and one connection of the peer."""
    found = re.search(r"^a=ice-ufrag:(\S+)", description["sdp"], re.M)
    return found[1] if found else None


class Bot:
    """Answers every call, and may place one."""

    EVENTS = (
        "call:incoming", "call:accepted", "call:offer", "call:answer", "ice:candidate", "call:rejected", "call:ended",
    )  # fmt: skip

    def __init__(self, url: str, name: str, token: str | None) -> None:
        self.name = name
        self._url, self._token = url, token
        self._socket = socketio.AsyncClient()
        self._events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._joined = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Resolves once the server has refused a join, with :class:`Refused`."""
        self._resume: dict[str, Any] | None = None
        self._last_seq = 0
        self._ice_servers: list[dict[str, Any]] = []
        self.call_id: str | None = None
        self.peer = ""
        self.connection: Connection | None = None
        self._socket.on("connect", self._join)
        for event in self.EVENTS:
            self._socket.on(event, self._queue(event))

    async def start(self) -> None:
        """Connect and join. Raises :class:`Refused`, also if there is no server."""
        auth = {"token": self._token} if self._token else None
        try:
            await self._socket.connect(self._url, auth=auth, transports=["websocket"])
        except (socketio.exceptions.ConnectionError, ValueError, OSError) as error:
            raise Refused(f"no connection to {self._url}: {error}") from None
        joined = asyncio.ensure_future(self._joined.wait())
        await asyncio.wait([joined, self.failed], timeout=2 * ANSWER_SECONDS, return_when="FIRST_COMPLETED")
        joined.cancel()
        if self.failed.done():
            self.failed.result()
        if not self._joined.is_set():
            raise Refused("user:join: no answer")

    async def call(self, user: str) -> None:
        """Call a user. The offer follows as soon as the user has accepted. Raises :class:`Refused`."""
        initiated = await self._ask("call:initiate", {"to": user, "callType": "video"})
        self.call_id, self.peer = initiated["callId"], user

    async def run(self) -> None:
        """Handle events in order, one at a time."""
        while True:
            event, payload = await self._events.get()
            try:
                if event == "call:incoming" and self.call_id is None:
                    self.call_id, self.peer = payload["callId"], payload["from"]
                    await self._ask("call:accept", {"callId": self.call_id})
                elif payload.get("callId") == self.call_id:
                    await self._take(event, payload)
            except Refused as error:  # mostly a call that is over: `call:ended` is on its way
                print(json.dumps({"refused": str(error)}), flush=True)
                if event == "call:incoming":
                    self.call_id = None

    async def stop(self) -> None:
        await self._hang_up()
        await self._socket.disconnect()  # on purpose: the session is over at once

    async def _join(self) -> None:
        """Join after each connect, or resume the last session and receive the missed events."""
        join = {
            "userId": self.name,
            **({"resume": {**self._resume, "lastSeq": self._last_seq}} if self._resume else {}),
        }
        try:
            joined = await self._ask("user:join", join)
        except Refused as error:
            if not self.failed.done():
                self.failed.set_exception(error)
            return
        self._resume = {"sessionId": joined["sessionId"], "token": joined["resume"]["token"]}
        self._last_seq = max(self._last_seq, joined.get("seq", 0))
        self._ice_servers = joined["iceServers"]
        self._joined.set()

    def _queue(self, event: str) -> Any:
        def put(payload: dict[str, Any]) -> None:
            self._last_seq = max(self._last_seq, payload.get("seq", 0))
            self._events.put_nowait((event, payload))

        return put

    async def _take(self, event: str, payload: dict[str, Any]) -> None:
        match event:
            case "call:accepted" if payload["by"] != self.name:
                self.connection = Connection(self._ice_servers)
                await self._relay("call:offer", offer=await self.connection.offer())
            case "call:offer":
                self.connection = self.connection or Connection(self._ice_servers)
                answer = await self.connection.answer(payload["offer"])
                if answer is None:
                    await self.connection.close()
                    self.connection = Connection(self._ice_servers)
                    answer = await self.connection.answer(payload["offer"])
                await self._relay("call:answer", answer=answer)
            case "call:answer" if self.connection:
                await self.connection.answered(payload["answer"])
            case "ice:candidate" if self.connection:
                for candidate in payload.get("candidates") or [payload.get("candidate")]:
                    await self.connection.add(candidate)
            case "call:rejected" | "call:ended":
                print(json.dumps({"ended": payload.get("reason"), "by": payload.get("by")}), flush=True)
                self.call_id = None
                await self._hang_up()

    async def _relay(self, event: str, **what: Any) -> None:
        await self._ask(event, {**what, "from": self.name, "to": self.peer, "callId": self.call_id})

    async def _hang_up(self) -> None:
        call_id, self.call_id = self.call_id, None
        if call_id is not None:
            with suppress(Refused):  # the call has ended already
                await self._ask("call:end", {"callId": call_id})
        if self.connection is not None:
            await self.connection.close()
            self.connection = None

    async def _ask(self, event: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Send an event and wait for its acknowledgement. Raises :class:`Refused`."""
        try:
            answer = await self._socket.call(event, payload, timeout=ANSWER_SECONDS)
        except socketio.exceptions.SocketIOError as error:
            raise Refused(f"{event}: {error or 'no answer'}") from None
        if not answer["ok"]:
            raise Refused(f"{event}: {answer['error']['code']}: {answer['error']['message']}")
        return dict(answer)


async def main() -> None:
    parser = argparse.ArgumentParser(
        description="A user who answers every call with a moving picture and a tone."
    )
    parser.add_argument("--url", default="http://127.0.0.1:8001")
    parser.add_argument("--name", required=True)
    parser.add_argument("--call", metavar="USER", help="call a user")
    parser.add_argument("--token", help="where the server wants one")
    options = parser.parse_args()

    bot = Bot(options.url, options.name, options.token)
    try:
        await bot.start()
        print(json.dumps({"joined": options.name}), flush=True)
        if options.call:
            await bot.call(options.call)
    except Refused as error:
        await bot.stop()
        sys.exit(f"call_bot: {error}")
    running = asyncio.create_task(bot.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    while not running.done() and not bot.failed.done():
        await asyncio.wait([running, bot.failed], timeout=1, return_when="FIRST_COMPLETED")
        if bot.connection is not None:
            told = {"with": bot.peer, "state": bot.connection.state, "pictures": bot.connection.pictures}
            print(json.dumps({**told, "loudness": round(bot.connection.loudness, 3)}), flush=True)
            bot.connection.loudness = 0.0
    await bot.stop()
    if bot.failed.done():
        running.cancel()
        sys.exit(f"call_bot: {bot.failed.exception()}")
    if not running.cancelled():
        running.result()


if __name__ == "__main__":
    asyncio.run(main())
