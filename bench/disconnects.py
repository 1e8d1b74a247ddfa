"""Measure the CPU of a disconnect in a gateway's client list, in microseconds, by the number of clients.

    python -m bench.disconnects

Ours, and python-socketio's own, which looks through a room of each client.
"""

import asyncio
import time

import socketio

from services.gateway.compat.socketio_compat import OneRoomManager

LEAVING = 500


async def _cost(manager: socketio.AsyncManager, count: int) -> float:
    socketio.AsyncServer(async_mode="aiohttp", client_manager=manager)
    sids = [await manager.connect(f"e{n}", "/") for n in range(count)]
    begun = time.process_time()
    for sid in sids[:LEAVING]:
        manager.pre_disconnect(sid, "/")
        await manager.disconnect(sid, "/")
    return (time.process_time() - begun) / LEAVING * 1e6


def main() -> None:
    """Measure and print."""
    for count in (1_000, 5_000, 20_000):
        ours, theirs = (asyncio.run(_cost(make(), count)) for make in (OneRoomManager, socketio.AsyncManager))
        print(f"{count} clients: {ours:.0f} us, python-socketio's own {theirs:.0f} us")


if __name__ == "__main__":
    main()
