"""What clients ask outside of any call, each question with its answer and an event that says the same."""

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
    """A method an event, and each raises the error that its client is to be told."""

    def __init__(
        self, services: RpcClient, replies: Responder, sending: Sender, ice_servers: IceServers
    ) -> None:
        self._services = services
        self._replies = replies
        self._sending = sending
        self._ice_servers = ice_servers

    async def status(self, asked: ClientRequest, message: Wire) -> None:
        """``user:status``"""
        query = cast(client.StatusQuery, message)
        assert asked.socket.user is not None
        request = presence.StatusRequest(request_id=new_id(), user=query.user_id, asker=asked.socket.user)
        status = await self._services.ask("presence", "status", request, client.Status)
        fields = status.model_dump(by_alias=True)
        self._sending.send_event(asked.socket.eio_sid, Event.STATUS, dumps(fields))
        self._replies.ok(asked, **fields)

    async def ice_servers(self, asked: ClientRequest, _: Wire) -> None:
        """``ice:servers``"""
        assert asked.socket.user is not None
        ice = self._ice_servers.issue(asked.socket.user)
        servers = client.IceServers(ice_servers=ice.servers, expires_at=ice.expires_at)
        fields = servers.model_dump(by_alias=True, exclude_none=True)
        self._sending.send_event(asked.socket.eio_sid, Event.ICE_SERVERS, dumps(fields))
        self._replies.ok(asked, **fields)
