"""The short way of relays: from a websocket frame to what is passed on, without reading what it carries.

A relay's frame is an envelope (everything but the description or the candidates) and a body. A client writes the same
envelope again and again. The first frame in an envelope takes the long way, and if that lets it pass, the envelope is
remembered; later frames in it need their body checked, which a regular expression does, and nothing decoded. What
the expression does not know (acknowledgements, nested or spaced JSON, fractions, ``\\u`` escapes, …) is not refused, it
takes the long way, which decides; so the two cannot disagree on what is let through.
"""

import json
import re
from typing import NamedTuple

from pydantic_core import from_json

from services.gateway.protocol.event_class import class_of
from shared.contracts.client import CANDIDATES_MAX, RELAYED, Event, Offer, Relayed, Sizes

PREFIXES = tuple(b'42["%b",' % event.encode() for event in RELAYED)
"""What a frame begins with that may take the short way."""
ENVELOPES_MAX = 16
"""Envelopes of one socket; past that all are forgotten."""
ENVELOPE_BYTES = 2 * 1024
LEARN_BYTES = 16 * 1024
"""Of the frame that an envelope is learnt from."""

ID = 22
"""Characters of the id of a call that we mint."""
_CALL = re.compile(rb"[A-Za-z0-9_-]{%d}" % ID)
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
_FLAT = re.compile(_OBJECT)
_DESCRIPTIONS = tuple(
    around
    for kind in (b"offer", b"answer")
    for around in ((b'{"type":"%b","sdp":' % kind, b"}"), (b'{"sdp":', b',"type":"%b"}' % kind))
)
"""What is around the text of a description, as browsers and React Native write it."""
_FRAME = re.compile(
    rb'(42\["(?:ice:candidate|call:offer|call:answer)",\{(?:%b:%b,)*"(?:candidates?|offer|answer)":)'
    rb"(%b|null|%b)"
    rb"((?:,%b:%b)*\}\])" % (_PLAIN, _PLAIN, _OBJECT, _BATCH, _PLAIN, _PLAIN)
)


class RelayTemplate:
    """What a client says around the bodies that it relays, in one call after the other.

    ``before``, ``after``: its bytes in frames of ``call``, which is ``None`` if they do not name it. What comes before
    a body decides that a value of the key in question begins there, wherever else the same bytes may occur in it; so
    what lies between the two is a body or nothing.
    """

    __slots__ = (
        "_closes", "_end", "_is_body", "_limit", "_place", "_said", "after", "before", "call", "event", "kind", "to",
    )  # fmt: skip

    def __init__(
        self, before: bytes, after: bytes, key: bytes, event: Event, said: Relayed, limit: int
    ) -> None:
        self.before, self.after = before, after
        self.event, self.kind = event, class_of(event)
        self.to = said.to
        self.call = said.call_id
        self._place = _place_of(said.call_id, before, after) if said.call_id is not None else None
        self._is_body = _is_description
        if event is Event.CANDIDATE:
            self._is_body = _is_batch if key == b"candidates" else _is_candidate
        self._limit = limit
        """Bytes that a body may have; a longer one takes the long way, where they are counted otherwise."""
        kind = said.call_type if isinstance(said, Offer) else None
        tail = f',"callType":"{kind}"' if kind is not None else ""
        tail += f',"from":{json.dumps(said.from_, ensure_ascii=False)},"callId":'
        self._said = b'{"%b":' % key, tail.encode()
        self._closes, self._end = "", b""
        """The call that was named last to the peer, and all that comes behind a body then."""

    def payload(self, frame: bytes, call: str) -> bytes | None:
        """What the peer will see of a frame, but for ``seq``; ``None`` for one that is to take the long way."""
        start, end = len(self.before), len(frame) - len(self.after)
        body = frame[start:end]
        if end - start > self._limit or not self._is_body(body):
            return None
        head, tail = self._said
        if call != self._closes:
            self._closes, self._end = call, b'%b"%b"}' % (tail, call.encode())
        return b"%b%b%b" % (head, body, self._end)

    def becomes_that_of(self, frame: bytes) -> bool:
        """Whether a frame differs from this in nothing but the call, whose id is as we mint them.

        If so, it is the envelope of that call from now on: a user is in one call at a time.
        """
        if (place := self._place) is None or len(frame) < len(self.before) + len(self.after):
            return False
        start, rest = place.start, place.rest
        if place.ahead:
            at = len(start)
            fits = frame.startswith(start) and frame.startswith(rest, at + ID) and frame.endswith(self.after)
        else:
            at = len(frame) - len(rest) - ID
            fits = frame.startswith(self.before) and frame.endswith(start, 0, at) and frame.endswith(rest)
        call = frame[at : at + ID]
        if not fits or _CALL.fullmatch(call) is None:
            return False
        self.call = call.decode()
        if place.ahead:
            self.before = b"%b%b%b" % (start, call, rest)
        else:
            self.after = b"%b%b%b" % (start, call, rest)
        return True


class _Place(NamedTuple):
    """Where the id of a call stands. ``ahead``: before the body. ``start``, ``rest``: what is around it there."""

    ahead: bool
    start: bytes
    rest: bytes


def _place_of(call: str, before: bytes, after: bytes) -> _Place | None:
    """``None`` for a call whose id is not as we mint them."""
    id_ = call.encode()
    if _CALL.fullmatch(id_) is None:
        return None
    # No value has a quote in it, so this is the key.
    named = b'"callId":"%b"' % id_
    ahead = named in before
    start, _, rest = (before if ahead else after).partition(named)
    return _Place(ahead, start + b'"callId":"', b'"' + rest)


def _is_candidate(body: bytes) -> bool:
    return _CANDIDATE.fullmatch(body) is not None and (body.isascii() or _is_text(body))


def _is_batch(body: bytes) -> bool:
    return _CANDIDATES.fullmatch(body) is not None and (body.isascii() or _is_text(body))


def _is_description(body: bytes) -> bool:
    for start, end in _DESCRIPTIONS:
        if body.startswith(start) and body.endswith(end):
            return _is_long_text(body[len(start) : -len(end)])
    return _FLAT.fullmatch(body) is not None and (body.isascii() or _is_text(body))


def _is_long_text(raw: bytes) -> bool:
    """Whether it is a text in JSON, without ``\\u``. For thousands of characters this is quicker than an expression."""
    if not (raw.startswith(b'"') and raw.endswith(b'"')):
        return False
    try:
        from_json(raw)
    except ValueError:
        return False
    return b"\\u" not in raw


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


class RelayTemplates:
    """The envelopes of one socket. ``sizes``: what bodies may have."""

    __slots__ = ("_known", "_sizes", "_unknown")

    def __init__(self, sizes: Sizes | None = None) -> None:
        self._sizes = sizes or Sizes()
        self._known: list[RelayTemplate] = []
        self._unknown = b""

    def find(self, frame: bytes) -> RelayTemplate | None:
        """The envelope of a frame, if it is known. If not, :meth:`learn` may be told later what it says."""
        for envelope in self._known:
            if frame.startswith(envelope.before) and frame.endswith(envelope.after):
                return envelope
        for envelope in self._known:
            if envelope.becomes_that_of(frame):
                return envelope
        self._unknown = frame if len(frame) <= LEARN_BYTES else b""
        return None

    def learn(self, event: Event, relayed: Relayed) -> None:
        """The long way has let the last unknown frame pass, and has read this in it."""
        frame, self._unknown = self._unknown, b""
        if (match := _FRAME.fullmatch(frame)) is None or not _is_text(frame):
            return
        envelope = _read(match[1], match[3], event, relayed, self._sizes)
        if envelope is not None and all(
            (envelope.before, envelope.after) != (other.before, other.after) for other in self._known
        ):
            if len(self._known) >= ENVELOPES_MAX:
                self._known.clear()
            self._known.append(envelope)


def _read(before: bytes, after: bytes, event: Event, relayed: Relayed, sizes: Sizes) -> RelayTemplate | None:
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
    limit = sizes.candidate if event is Event.CANDIDATE else sizes.sdp
    return RelayTemplate(before, after, key, event, relayed, limit)
