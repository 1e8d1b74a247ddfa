"""Relays taken at once, the short way, where their frames are as most are."""

from services.gateway.clients.registry import Registry
from services.gateway.clients.responder import ClientRequest, Responder
from services.gateway.protocol.relay_template import RelayTemplates
from services.gateway.relay.service import RelayService
from shared.contracts.client import Event, Relayed, Sizes
from shared.errors import RateLimited, Unavailable


class RelayFastPath:
    """From a frame to the outbox without a wait in between. ``sizes``: what bodies may have."""

    def __init__(self, registry: Registry, relays: RelayService, replies: Responder, sizes: Sizes) -> None:
        self._registry = registry
        self._relays = relays
        self._replies = replies
        self._sizes = sizes

    def take(self, eio_sid: str, frame: bytes) -> bool:
        """Take a frame that is a relay as most are; whether it was one. Any other has not been looked at."""
        socket = self._registry.by_connection(eio_sid)
        if socket is None or socket.session is None:
            return False
        templates = socket.templates
        if templates is None:
            templates = socket.templates = RelayTemplates(self._sizes)
        if (template := templates.find(frame)) is None:
            return False
        call = template.call or socket.calls.get(template.to)
        if call is None or (payload := template.payload(frame, call)) is None:
            return False
        if socket.rates is not None and not socket.rates.take(template.event_class):
            return False  # the long way says so
        try:
            return self._relays.try_send(socket, template.event, template.to, call, payload)
        except (Unavailable, RateLimited) as error:
            self._replies.refuse(ClientRequest(socket, template.event, None, template.call), error)
            return True

    def learn(self, asked: ClientRequest, relayed: Relayed) -> None:
        """The last frame of a client that was not taken went the long way, and this was in it."""
        if asked.socket.templates is not None:
            asked.socket.templates.learn(Event(asked.event), relayed)
