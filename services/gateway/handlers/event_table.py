"""Table of client events and their handlers."""

from collections.abc import Awaitable, Callable, Mapping

from services.gateway.clients.responder import ClientRequest
from services.gateway.handlers.call_events import CallEvents
from services.gateway.handlers.query_events import QueryEvents
from services.gateway.handlers.relay_events import RelayEvents
from services.gateway.handlers.session_events import SessionEvents
from shared.contracts.client import Event
from shared.contracts.wire import Wire

EventHandler = Callable[[ClientRequest, Wire], Awaitable[None]]
"""Handles a valid event. Raises the error that its client is to be sent."""


def event_table(
    sessions: SessionEvents, calls: CallEvents, queries: QueryEvents, relays: RelayEvents
) -> Mapping[Event, EventHandler]:
    """Return the handler of each client event."""
    return {
        Event.JOIN: sessions.join,
        Event.REFRESH: sessions.refresh,
        Event.INITIATE: calls.initiate,
        Event.ACCEPT: calls.accept,
        Event.REJECT: calls.reject,
        Event.END: calls.end,
        Event.STATUS: queries.status,
        Event.ICE_SERVERS: queries.ice_servers,
        Event.OFFER: relays.relay,
        Event.ANSWER: relays.relay,
        Event.CANDIDATE: relays.relay,
    }
