"""Group what reaches connected clients."""

from dataclasses import dataclass

from services.gateway.clients.registry import Registry
from services.gateway.clients.responder import Responder
from services.gateway.transport.socketio_server import SocketIOServer


@dataclass(frozen=True, slots=True)
class ConnectedClients:
    """Groups the sockets of this gateway, the server below them, and the responder to their events."""

    registry: Registry
    server: SocketIOServer
    responder: Responder
