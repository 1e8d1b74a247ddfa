"""Close the connections of a gateway that is to stop, spread over a time."""

import asyncio
import math
import random

from services.gateway.protocol.json_codec import dumps
from services.gateway.transport.socketio_server import SocketIOServer
from services.gateway.websocket.connection import CLOSE_SECONDS
from shared.contracts.client import Draining, Event
from shared.observability import logs

log = logs.get(__name__)

_CHECK_SECONDS = 0.05
SHARE = 0.8
"""The part of the time in which connections are closed; the rest is for the last clients to read."""


async def drain(server: SocketIOServer, seconds: float) -> None:
    """Notify every client when its connection will be closed, and close it then. Return once all are closed.

    It takes ``seconds``, and at most :data:`CLOSE_SECONDS` more, so that the last clients get their replies too.
    A client's frames are ignored once it is being closed, and earlier ones are answered first. No Socket.IO
    disconnect is sent, so that client libraries connect again by themselves.
    """
    connections = list(server.eio.sockets)
    random.shuffle(connections)
    loop = asyncio.get_running_loop()
    begun, until = loop.time(), loop.time() + seconds
    delays = [seconds * SHARE * (n + 0.5) / len(connections) for n in range(len(connections))]
    log.info("draining", connections=len(connections), seconds=seconds)
    for connection, delay in zip(connections, delays, strict=True):
        notice = Draining(deadline_seconds=math.ceil(seconds), reconnect_after_ms=int(delay * 1000))
        server.sender.send_event(connection, Event.DRAINING, dumps(notice.model_dump(by_alias=True)))
    for connection, delay in zip(connections, delays, strict=True):
        await asyncio.sleep(max(0.0, begun + delay - loop.time()))
        server.closer.close_soon(connection)
    until += min(seconds, CLOSE_SECONDS)
    while server.eio.sockets and loop.time() < until:
        await asyncio.sleep(_CHECK_SECONDS)
    log.info("drained", connections_left=len(server.eio.sockets))
