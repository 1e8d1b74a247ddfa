"""``python -m tests.support.flood_client COUNT SECONDS URL…``: clients that send as fast as they can, for that long.

A process of its own, so that those who behave do not share its event loop. Prints what it has done as JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter

import aiohttp

BACK_SECONDS = 0.5
BATCH = 20
SDP = "x" * 60_000
STAY_SECONDS = 10.0
"""How long a socket that did not close is sent to before it is looked whether there is anything to read."""


def frames(kind: int, user: str) -> list[str]:
    """What a client of a kind sends again and again."""
    to = {"from": user, "to": f"{user}-other", "callId": "A" * 22}
    bodies: list[list[object]] = [
        ["ice:candidate", {"candidate": {"candidate": "candidate:" + "1" * 120}, **to}],
        ["call:initiate", {"to": f"{user}-other", "callType": "audio"}],
        ["user:status", {"userId": f"{user}-other"}],
        ["call:offer", {"offer": {"type": "offer", "sdp": SDP}, **to}],
        ["user:join", {"userId": user}],
        ["no:such:event", {"x": "[" * 100}],
    ]
    if kind == len(bodies):
        return ["4nonsense", "9", '42["call:offer",', '42["user:status",' + "[" * 1000]
    return ["42" + json.dumps(bodies[kind])]


KINDS = 7


async def flood(
    http: aiohttp.ClientSession, number: int, urls: list[str], until: float, done: Counter[str]
) -> None:
    """One client, which comes back whenever it is sent away."""
    user, sent = f"hostile-{number}", frames(number % KINDS, f"hostile-{number}")
    url = urls[number % len(urls)]
    while time.monotonic() < until:
        try:
            async with asyncio.timeout(STAY_SECONDS):
                ws = await http.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", compress=0)
                await ws.send_str("40")
                await ws.send_str(f'42["user:join",{{"userId":"{user}"}}]')
            done["connected"] += 1
            reader = asyncio.create_task(_read(ws, done))
            try:
                while not reader.done() and time.monotonic() < until:
                    for frame in sent * (BATCH // len(sent)):
                        await asyncio.wait_for(ws.send_str(frame), STAY_SECONDS)
                    done["sent"] += BATCH
                    await asyncio.sleep(0)
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
                ws._response.close()
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass
        done["sent away"] += time.monotonic() < until
        await asyncio.sleep(BACK_SECONDS)


async def _read(ws: aiohttp.ClientWebSocketResponse, done: Counter[str]) -> None:
    async for message in ws:
        done["answers"] += 1
        if message.data == "2":
            await ws.send_str("3")


async def main(count: int, seconds: float, urls: list[str]) -> None:
    """All of them."""
    done: Counter[str] = Counter()
    until = time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        await asyncio.gather(*(flood(http, n, urls, until, done) for n in range(count)))
    sys.stdout.write(json.dumps(done) + "\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
