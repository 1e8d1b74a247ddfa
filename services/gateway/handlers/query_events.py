"""Handle client queries: the status of a user, ICE servers. Each is answered by an event and an acknowledgement."""

from typing import cast

from services.gateway.auth.turn_credentials import IceServers
from services.gateway.clients.responder import ClientRequest, Responder
from services.gateway.protocol.json_codec import dumps
from services.gateway.transport.sender import Sender
from shared.contracts import client, presence
from shared.contracts.client import Event
from shared.contracts.wire import Wire
from shared.ids import new_id
from shared.messaging.rpc import RpcClient


class QueryEvents:
    """Handles queries: one method an event. Each raises the error that its client is to be sent."""

    def __init__(
        self, rpc: RpcClient, responder: Responder, sending: Sender, ice_servers: IceServers
    ) -> None:
        self._rpc = rpc
        self._responder = responder
        self._sender = sending
        self._ice_servers = ice_servers

    async def status(self, asked: ClientRequest, message: Wire) -> None:
        """Handle ``user:status``."""
        query = cast(client.StatusQuery, message)
        assert asked.socket.user is not None
        request = presence.StatusRequest(request_id=new_id(), user=query.user_id, asker=asked.socket.user)
        status = await self._rpc.ask("presence", "status", request, client.Status)
        fields = status.model_dump(by_alias=True)
        self._sender.send_event(asked.socket.eio_sid, Event.STATUS, dumps(fields))
        self._responder.ok(asked, **fields)

    async def ice_servers(self, asked: ClientRequest, _: Wire) -> None:
        """Handle ``ice:servers``."""
        assert asked.socket.user is not None
        ice = self._ice_servers.issue(asked.socket.user)
        servers = client.IceServers(ice_servers=ice.servers, expires_at=ice.expires_at)
        fields = servers.model_dump(by_alias=True, exclude_none=True)
        self._sender.send_event(asked.socket.eio_sid, Event.ICE_SERVERS, dumps(fields))
        self._responder.ok(asked, **fields)
