"""Sending the clients of this gateway away, spread over a time, because it is to stop."""

import asyncio
import math
import random

from services.gateway.protocol.json_codec import dumps
from services.gateway.transport.socketio_server import SocketIOServer
from services.gateway.websocket.connection import CLOSE_SECONDS
from shared.contracts.client import Draining, Event
from shared.observability import logs

log = logs.get(__name__)

_LOOK_SECONDS = 0.05
SHARE = 0.8
"""The part of the time in which clients are sent away; the rest is for the last ones to go."""


async def drain(transport: SocketIOServer, seconds: float) -> None:
    """Tell every client when it will be sent away, and send it away then; returns when all are gone or time is up.

    Who goes last has as long as any other to be answered, so it may take :data:`CLOSE_SECONDS` more.
    Nothing more is read from a client that is sent away, and what was read is answered first. Its transport is closed
    without a Socket.IO disconnect, so that client libraries connect again by themselves.
    """
    connections = list(transport.eio.sockets)
    random.shuffle(connections)
    loop = asyncio.get_running_loop()
    begun, until = loop.time(), loop.time() + seconds
    turns = [seconds * SHARE * (n + 0.5) / len(connections) for n in range(len(connections))]
    log.info("draining", connections=len(connections), seconds=seconds)
    for connection, turn in zip(connections, turns, strict=True):
        told = Draining(deadline_seconds=math.ceil(seconds), reconnect_after_ms=int(turn * 1000))
        transport.send_event(connection, Event.DRAINING, dumps(told.model_dump(by_alias=True)))
    for connection, turn in zip(connections, turns, strict=True):
        await asyncio.sleep(max(0.0, begun + turn - loop.time()))
        transport.close_soon(connection)
    until += min(seconds, CLOSE_SECONDS)
    while transport.eio.sockets and loop.time() < until:
        await asyncio.sleep(_LOOK_SECONDS)
    log.info("drained", connections_left=len(transport.eio.sockets))
