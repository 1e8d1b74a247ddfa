"""The short way of relays: from a websocket frame to what is passed on, without reading what it carries.

A relay's frame is an envelope (everything but the description or the candidates) and a body. A client writes the same
envelope again and again. The first frame in an envelope takes the long way, and if that lets it pass, the envelope is
remembered; later frames in it need their body checked, which a regular expression does, and nothing decoded. What
the expression does not know (acknowledgements, nested or spaced JSON, fractions, ``\\u`` escapes, …) is not refused, it
takes the long way, which decides; so the two cannot disagree on what is let through.
"""

import json
import re
from dataclasses import dataclass, replace

from services.gateway.rates import Kind, kind_of
from shared.contracts.client import CANDIDATES_MAX, Event, Offer, Relayed, Sizes

PREFIX = b'42["'
"""What every frame begins with that may take the short way."""
ENVELOPES_MAX = 16
"""Envelopes of one socket; past that all are forgotten."""
ENVELOPE_BYTES = 2 * 1024
LEARN_BYTES = 16 * 1024
"""Of the frame that an envelope is learnt from."""

_CALL = re.compile(rb"[A-Za-z0-9_-]{22}")
_BODIES = frozenset(("offer", "answer", "candidate", "candidates"))

# No input makes them go back far: what is repeated begins as nothing can that follows it. Groups are not possessive,
# because before 3.11.5 Python goes on where a possessive group gave up, in the middle of what it does not match.
_PLAIN = rb'"[^"\\\x00-\x1f]*+"'
_TEXT = rb'"[^"\\\x00-\x1f]*+(?:\\["\\bfnrt][^"\\\x00-\x1f]*+)*"'
_VALUE = rb"(?:%b|-?(?:0|[1-9][0-9]{0,14}+)|true|false|null)" % _TEXT
_OBJECT = rb"\{(?:%b:%b(?:,%b:%b)*)?\}" % (_TEXT, _VALUE, _TEXT, _VALUE)
_BATCH = rb"\[(?:%b|null)(?:,(?:%b|null)){0,%d}\]" % (_OBJECT, _OBJECT, CANDIDATES_MAX - 1)
_CANDIDATE = re.compile(rb"%b|null" % _OBJECT)
_CANDIDATES = re.compile(_BATCH)
_DESCRIPTION = re.compile(_OBJECT)
_FRAME = re.compile(
    rb'(42\["(?:ice:candidate|call:offer|call:answer)",\{(?:%b:%b,)*"(?:candidates?|offer|answer)":)'
    rb"(%b|null|%b)"
    rb"((?:,%b:%b)*\}\])" % (_PLAIN, _PLAIN, _OBJECT, _BATCH, _PLAIN, _PLAIN)
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a client says around the bodies that it relays. ``call``: ``None`` if it does not name it.

    ``before``, ``after``: its bytes. What comes before a body decides that a value of the key in question begins
    there, wherever else the same bytes may occur in it; so what lies between the two is a body or nothing.
    """

    before: bytes
    after: bytes
    body: re.Pattern[bytes]
    """What may be in it."""
    limit: int
    """Bytes that a body may have; a longer one takes the long way, where they are counted otherwise."""
    event: Event
    kind: Kind
    to: str
    call: str | None
    head: bytes
    tail: bytes

    def payload(self, frame: bytes, call: str) -> bytes | None:
        """What the peer will see of a frame, but for ``seq``; ``None`` for one that is to take the long way."""
        start, end = len(self.before), len(frame) - len(self.after)
        if end - start > self.limit or self.body.fullmatch(frame, start, end) is None:
            return None
        body = frame[start:end]
        if not body.isascii() and not _is_text(body):
            return None
        return b'%b%b%b,"callId":"%b"}' % (self.head, body, self.tail, call.encode())

    def of_another_call(self, frame: bytes) -> "Envelope | None":
        """The envelope of a frame that differs from this one in nothing but the call, whose id is as we mint them."""
        if self.call is None:
            return None
        named = b'"callId":"%b"' % self.call.encode()
        before, after = frame[: len(self.before)], frame[max(0, len(frame) - len(self.after)) :]
        mine, said = (self.before, before) if named in self.before else (self.after, after)
        if mine is self.after and before != self.before:
            return None
        at = mine.find(named) + len(named) - 1 - len(self.call)
        call = said[at : at + len(self.call)]
        if _CALL.fullmatch(call) is None:
            return None
        renamed = b"%b%b%b" % (mine[:at], call, mine[at + len(call) :])
        if mine is self.before:
            other = replace(self, before=renamed, call=call.decode())
        else:
            other = replace(self, after=renamed, call=call.decode())
        return other if (before, after) == (other.before, other.after) else None


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


class Envelopes:
    """The envelopes of one socket. ``sizes``: what bodies may have."""

    __slots__ = ("_known", "_sizes", "_unknown")

    def __init__(self, sizes: Sizes | None = None) -> None:
        self._sizes = sizes or Sizes()
        self._known: list[Envelope] = []
        self._unknown = b""

    def find(self, frame: bytes) -> Envelope | None:
        """The envelope of a frame, if it is known. If not, :meth:`learn` may be told later what it says."""
        for envelope in self._known:
            if frame.startswith(envelope.before) and frame.endswith(envelope.after):
                return envelope
        for n, envelope in enumerate(self._known):
            if (other := envelope.of_another_call(frame)) is not None:
                self._known[n] = other  # a user is in one call at a time
                return other
        self._unknown = frame if len(frame) <= LEARN_BYTES else b""
        return None

    def learn(self, event: Event, relayed: Relayed) -> None:
        """The long way has let the last unknown frame pass, and has read this in it."""
        frame, self._unknown = self._unknown, b""
        if (match := _FRAME.fullmatch(frame)) is None or not _is_text(frame):
            return
        envelope = _read(match[1], match[3], event, relayed, self._sizes)
        if envelope is not None and envelope not in self._known:
            if len(self._known) >= ENVELOPES_MAX:
                self._known.clear()
            self._known.append(envelope)


def _read(before: bytes, after: bytes, event: Event, relayed: Relayed, sizes: Sizes) -> Envelope | None:
    """An envelope that says exactly what ``relayed`` says; ``None`` where that is not plain."""
    start = b'42["%b",{' % event.encode()
    if not before.startswith(start) or len(before) + len(after) > ENVELOPE_BYTES:
        return None
    members, _, key = before[len(start) : -2].rpartition(b'"')
    pairs = json.loads(b"[{%b}]" % (members + after[1:-2]).strip(b","), object_pairs_hook=list)[0]
    fields = dict(pairs)
    call_type = relayed.call_type if isinstance(relayed, Offer) else None
    said = (relayed.from_, relayed.to, relayed.call_id, call_type)
    read = (fields.get("from"), fields.get("to"), fields.get("callId"), fields.get("callType"))
    if len(fields) < len(pairs) or _BODIES & fields.keys() or said != read:
        return None
    tail = f',"callType":"{call_type}"' if call_type is not None else ""
    tail += f',"from":{json.dumps(relayed.from_, ensure_ascii=False)}'
    body = _CANDIDATE if event is Event.CANDIDATE else _DESCRIPTION
    return Envelope(
        before=before,
        after=after,
        body=_CANDIDATES if key == b"candidates" else body,
        limit=sizes.candidate if event is Event.CANDIDATE else sizes.sdp,
        event=event,
        kind=kind_of(event),
        to=relayed.to,
        call=relayed.call_id,
        head=b'{"%b":' % key,
        tail=tail.encode(),
    )
