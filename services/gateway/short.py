"""The short way of relays: from a websocket frame to what is passed on, without reading what it carries.

A relay's frame is an envelope (everything but the description or the candidates) and a body. A client writes the same
envelope again and again. The first frame in an envelope takes the long way, and if that lets it pass, the envelope is
remembered; later frames in it need their body checked, which one regular expression does, and nothing decoded. What
the expression does not know (acknowledgements, nested or spaced JSON, fractions, ``\\u`` escapes, …) is not refused, it
takes the long way, which decides; so the two cannot disagree on what is let through.
"""

import json
import re
from dataclasses import dataclass
from typing import NamedTuple

from shared.contracts.client import CANDIDATE_MAX_BYTES, CANDIDATES_MAX, SDP_MAX_BYTES, Event, Offer, Relayed

PREFIX = b'42["'
"""What every frame begins with that may take the short way."""
ENVELOPES_MAX = 16
"""Envelopes of one socket; past that all are forgotten."""

_BODIES = frozenset(("offer", "answer", "candidate", "candidates"))

# Possessive throughout: no input makes them go back.
_PLAIN = rb'"[^"\\\x00-\x1f]*+"'
_TEXT = rb'"[^"\\\x00-\x1f]*+(?:\\["\\bfnrt][^"\\\x00-\x1f]*+)*+"'
_VALUE = rb"(?:%b|-?(?:0|[1-9][0-9]{0,14}+)|true|false|null)" % _TEXT
_OBJECT = rb"\{(?:%b:%b(?:,%b:%b)*+)?+\}" % (_TEXT, _VALUE, _TEXT, _VALUE)
_BATCH = rb"\[(?:%b|null)(?:,(?:%b|null)){0,%d}+\]" % (_OBJECT, _OBJECT, CANDIDATES_MAX - 1)
_FRAME = re.compile(
    rb'(42\["(?:ice:candidate|call:offer|call:answer)",\{(?:%b:%b,)*+"(?:candidates?|offer|answer)":)'
    rb"(%b|null|%b)"
    rb"((?:,%b:%b)*+\}\])" % (_PLAIN, _PLAIN, _OBJECT, _BATCH, _PLAIN, _PLAIN)
)


class Parts(NamedTuple):
    """A frame taken apart. ``body``: JSON as the client wrote it, without a space in it."""

    before: bytes
    body: bytes
    after: bytes


def take_apart(frame: bytes) -> Parts | None:
    """The parts of a relay's frame; ``None`` for one that is to take the long way."""
    match = _FRAME.fullmatch(frame)
    if match is None or not (frame.isascii() or _is_text(frame)):
        return None
    return Parts(*match.groups())


def _is_text(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a client says around the bodies that it relays. ``call``: ``None`` if it does not name it."""

    event: Event
    to: str
    call: str | None
    kinds: bytes
    """What a body in it may begin with."""
    limit: int
    """Bytes that a body may have; a longer one takes the long way, where they are counted otherwise."""
    head: bytes
    tail: bytes

    def payload(self, body: bytes, call: str) -> bytes | None:
        """What the peer will see, but for ``seq``; ``None`` for a body that is to take the long way."""
        if len(body) > self.limit or body[0] not in self.kinds:
            return None
        return b'%b%b%b,"callId":"%b"}' % (self.head, body, self.tail, call.encode())


class Envelopes:
    """The envelopes of one socket."""

    __slots__ = ("_known", "_unknown")

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], Envelope] = {}
        self._unknown: Parts | None = None

    def find(self, parts: Parts) -> Envelope | None:
        """The envelope of a frame, if it is known. If not, :meth:`learn` may be told later what it says."""
        envelope = self._known.get((parts.before, parts.after))
        if envelope is None:
            self._unknown = parts
        return envelope

    def learn(self, event: Event, relayed: Relayed) -> None:
        """The long way has let the last unknown frame pass, and has read this in it."""
        parts, self._unknown = self._unknown, None
        if parts is not None and (envelope := _read(parts, event, relayed)) is not None:
            if len(self._known) >= ENVELOPES_MAX:
                self._known.clear()
            self._known[parts.before, parts.after] = envelope


def _read(parts: Parts, event: Event, relayed: Relayed) -> Envelope | None:
    """The envelope of a frame that says exactly what ``relayed`` says; ``None`` where that is not plain."""
    start = b'42["%b",{' % event.encode()
    if not parts.before.startswith(start):
        return None
    members, _, body = parts.before[len(start) : -2].rpartition(b'"')
    pairs = json.loads(b"[{%b}]" % (members + parts.after[1:-2]).strip(b","), object_pairs_hook=list)[0]
    fields = dict(pairs)
    key = body.decode()
    call_type = relayed.call_type if isinstance(relayed, Offer) else None
    said = (relayed.from_, relayed.to, relayed.call_id, call_type)
    read = (fields.get("from"), fields.get("to"), fields.get("callId"), fields.get("callType"))
    if len(fields) < len(pairs) or _BODIES & fields.keys() or said != read:
        return None
    tail = f',"callType":"{call_type}"' if call_type is not None else ""
    tail += f',"from":{json.dumps(relayed.from_, ensure_ascii=False)}'
    candidate = event is Event.CANDIDATE
    return Envelope(
        event=event,
        to=relayed.to,
        call=relayed.call_id,
        kinds=b"[" if key == "candidates" else b"{n" if candidate else b"{",
        limit=CANDIDATE_MAX_BYTES if candidate else SDP_MAX_BYTES,
        head=b'{"%b":' % body,
        tail=tail.encode(),
    )
