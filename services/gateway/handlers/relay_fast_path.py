"""Fast path of relays: send a relay from its frame, without parsing the JSON of its payload."""

from services.gateway.clients.registry import Registry
from services.gateway.clients.responder import ClientRequest, Responder
from services.gateway.protocol.relay_template import RelayTemplates
from services.gateway.relay.service import RelayService
from shared.contracts.client import Event, Relayed, Sizes
from shared.errors import RateLimited, Unavailable


class RelayFastPath:
    """Takes relays whose frames match a template of their client. ``sizes``: limits of payloads."""

    def __init__(self, registry: Registry, relays: RelayService, responder: Responder, sizes: Sizes) -> None:
        self._registry = registry
        self._relays = relays
        self._responder = responder
        self._sizes = sizes

    def take(self, eio_sid: str, frame: bytes) -> bool:
        """Send the relay in a frame. Return False if the frame has to take the slow path; nothing was done then."""
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
            return False  # the slow path refuses it
        try:
            return self._relays.try_send(socket, template.event, template.to, call, payload)
        except (Unavailable, RateLimited) as error:
            self._responder.refuse(ClientRequest(socket, template.event, None, template.call), error)
            return True

    def learn(self, asked: ClientRequest, relayed: Relayed) -> None:
        """Learn a template from a relay that took the slow path."""
        if asked.socket.templates is not None:
            asked.socket.templates.learn(Event(asked.event), relayed)
