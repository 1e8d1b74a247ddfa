"""Reply to client events: acknowledgements, and ``error`` events."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from services.gateway.clients.registry import Socket
from services.gateway.protocol.json_codec import dumps
from services.gateway.transport.sender import Sender
from shared.contracts.client import Event
from shared.errors import SignallingError

NAME_MAX = 64
CALL_ID_MAX = 128
_EVENTS = frozenset(event.value for event in Event)


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """Identifies one event of one client that is to be answered."""

    socket: Socket
    event: str
    ack_id: int | None
    call_id: str | None = None
    """The ``callId`` in the payload, unchecked."""


class Responder:
    """Replies to client events."""

    def __init__(self, sending: Sender) -> None:
        self._sending = sending
        self.refused: Counter[tuple[str, str]] = Counter()
        """(event, error code) → number of refusals; ``other`` for unknown events."""

    def ok(self, asked: ClientRequest, **fields: Any) -> None:
        """Acknowledge an event with ``fields``, if its client wants an acknowledgement."""
        if asked.ack_id is not None:
            self._sending.send_ack(asked.socket.eio_sid, asked.ack_id, to_json({"ok": True, **fields}))

    def ok_with(self, asked: ClientRequest, fields: bytes) -> None:
        """Acknowledge an event with ``fields`` as JSON: an object that is not empty."""
        if asked.ack_id is not None:
            self._sending.send_ack(asked.socket.eio_sid, asked.ack_id, b'{"ok":true,%b' % fields[1:])

    def refuse(self, asked: ClientRequest, error: SignallingError) -> None:
        """Send an ``error`` event, and the acknowledgement if the client wants one."""
        event = asked.event
        self.refused[event if event in _EVENTS else "other", error.code] += 1
        wire = error.to_wire()
        if "callId" not in wire and asked.call_id is not None:
            wire["callId"] = asked.call_id
        payload = {**wire, "event": asked.event[:NAME_MAX]}
        self._sending.send_event(asked.socket.eio_sid, Event.ERROR, dumps(payload))
        if asked.ack_id is not None:
            ack = dumps({"ok": False, "error": wire})
            self._sending.send_ack(asked.socket.eio_sid, asked.ack_id, ack)


def call_id_of(payload: object) -> str | None:
    """Return the ``callId`` of a payload that may be invalid; ``None`` if it has none."""
    call_id = payload.get("callId") if isinstance(payload, dict) else None
    return call_id if isinstance(call_id, str) and 0 < len(call_id) <= CALL_ID_MAX else None
