"""Recognise relays by templates of earlier frames, and splice their bodies through without decoding them.

A relay's frame is an envelope (everything but the description or the candidates) and a body. A client repeats the same
envelope. The first frame with an envelope takes the slow path; if that accepts it, the envelope becomes a template.
Later frames that match it need only their body checked, which a regular expression does. A frame that does not match
(acknowledgements, nested or spaced JSON, fractions, ``\\u`` escapes, …) is not refused. It takes the slow path, which
decides; so the two paths accept the same frames.
"""

import json
import re
from typing import NamedTuple

from pydantic_core import from_json

from services.gateway.protocol.event_class import class_of
from shared.contracts.client import CANDIDATES_MAX, RELAYED, Event, Offer, Relayed, Sizes

PREFIXES = tuple(b'42["%b",' % event.encode() for event in RELAYED)
"""The beginnings of frames that may match a template."""
TEMPLATES_MAX = 16
"""Templates of one socket; when one more is learnt, all are forgotten."""
TEMPLATE_BYTES = 2 * 1024
LEARN_BYTES = 16 * 1024
"""Size of a frame that a template is learnt from."""

ID = 22
"""Characters of a call id that the server mints."""
_CALL = re.compile(rb"[A-Za-z0-9_-]{%d}" % ID)
_BODIES = frozenset(("offer", "answer", "candidate", "candidates"))

# No input makes them backtrack far: a repeated part begins with a character that cannot follow it. Groups are not
# possessive, because before 3.11.5 Python continues in the middle of a text that a possessive group did not match.
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
"""The bytes around the text of a description, as browsers and React Native write it."""
_FRAME = re.compile(
    rb'(42\["(?:ice:candidate|call:offer|call:answer)",\{(?:%b:%b,)*"(?:candidates?|offer|answer)":)'
    rb"(%b|null|%b)"
    rb"((?:,%b:%b)*\}\])" % (_PLAIN, _PLAIN, _OBJECT, _BATCH, _PLAIN, _PLAIN)
)


class RelayTemplate:
    """The bytes around the bodies that a client relays, and the fields that were read in them.

    ``before``, ``after``: the bytes in frames of ``call``; ``call`` is ``None`` if the frames do not name it. The bytes
    before a body decide that the value of its key begins there, because JSON is read from left to right. So the bytes
    between the two are a body or invalid.
    """

    __slots__ = (
        "_is_body", "_limit", "_place", "_prefix", "_suffix", "_suffix_call", "_suffix_start", "after", "before",
        "call", "event", "event_class", "to",
    )  # fmt: skip

    def __init__(
        self, before: bytes, after: bytes, key: bytes, event: Event, relayed: Relayed, limit: int
    ) -> None:
        self.before, self.after = before, after
        self.event, self.event_class = event, class_of(event)
        self.to = relayed.to
        self.call = relayed.call_id
        self._place = _place_of(relayed.call_id, before, after) if relayed.call_id is not None else None
        self._is_body = _is_description
        if event is Event.CANDIDATE:
            self._is_body = _is_batch if key == b"candidates" else _is_candidate
        self._limit = limit
        """Bytes of a body; a longer one takes the slow path, where the limit is of its JSON without spaces."""
        call_type = relayed.call_type if isinstance(relayed, Offer) else None
        suffix = f',"callType":"{call_type}"' if call_type is not None else ""
        suffix += f',"from":{json.dumps(relayed.from_, ensure_ascii=False)},"callId":'
        self._prefix, self._suffix_start = b'{"%b":' % key, suffix.encode()
        self._suffix_call, self._suffix = "", b""
        """The call of the last payload, and the bytes behind a body in it."""

    def payload(self, frame: bytes, call: str) -> bytes | None:
        """Return the payload of a frame for the receiver, without ``seq``; ``None`` if it must take the slow path."""
        start, end = len(self.before), len(frame) - len(self.after)
        body = frame[start:end]
        if end - start > self._limit or not self._is_body(body):
            return None
        if call != self._suffix_call:
            self._suffix_call, self._suffix = call, b'%b"%b"}' % (self._suffix_start, call.encode())
        return b"%b%b%b" % (self._prefix, body, self._suffix)

    def switch_call(self, frame: bytes) -> bool:
        """Switch to the call of a frame that differs from the template only in the call id.

        Return False if the frame differs in more, or if its call id is not one that the server mints. One template is
        enough for all calls, because a user is in one call at a time.
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
    """The place of the call id. ``ahead``: True if before the body. ``start``, ``rest``: the bytes around it there."""

    ahead: bool
    start: bytes
    rest: bytes


def _place_of(call: str, before: bytes, after: bytes) -> _Place | None:
    """Return the place of a call id in an envelope; ``None`` for an id that the server does not mint."""
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
    """Return True for a text in JSON, without ``\\u``. Faster than an expression if it is long."""
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
    """The templates of one socket. ``sizes``: limits of bodies."""

    __slots__ = ("_known", "_sizes", "_unknown")

    def __init__(self, sizes: Sizes | None = None) -> None:
        self._sizes = sizes or Sizes()
        self._known: list[RelayTemplate] = []
        self._unknown = b""

    def find(self, frame: bytes) -> RelayTemplate | None:
        """Return the template that a frame matches; ``None`` if there is none, after which :meth:`learn` may follow."""
        for template in self._known:
            if frame.startswith(template.before) and frame.endswith(template.after):
                return template
        for template in self._known:
            if template.switch_call(frame):
                return template
        self._unknown = frame if len(frame) <= LEARN_BYTES else b""
        return None

    def learn(self, event: Event, relayed: Relayed) -> None:
        """Learn a template from the last unknown frame, in which the slow path has read ``relayed``."""
        frame, self._unknown = self._unknown, b""
        if (match := _FRAME.fullmatch(frame)) is None or not _is_text(frame):
            return
        template = _read(match[1], match[3], event, relayed, self._sizes)
        if template is not None and all(
            (template.before, template.after) != (other.before, other.after) for other in self._known
        ):
            if len(self._known) >= TEMPLATES_MAX:
                self._known.clear()
            self._known.append(template)


def _read(before: bytes, after: bytes, event: Event, relayed: Relayed, sizes: Sizes) -> RelayTemplate | None:
    """Return a template whose fields are exactly those of ``relayed``; ``None`` if an envelope is ambiguous."""
    start = b'42["%b",{' % event.encode()
    if not before.startswith(start) or len(before) + len(after) > TEMPLATE_BYTES:
        return None
    members, _, key = before[len(start) : -2].rpartition(b'"')
    pairs = json.loads(b"[{%b}]" % (members + after[1:-2]).strip(b","), object_pairs_hook=list)[0]
    fields = dict(pairs)
    call_type = relayed.call_type if isinstance(relayed, Offer) else None
    expected = (relayed.from_, relayed.to, relayed.call_id, call_type)
    found = (fields.get("from"), fields.get("to"), fields.get("callId"), fields.get("callType"))
    if len(fields) < len(pairs) or _BODIES & fields.keys() or found != expected:
        return None
    limit = sizes.candidate if event is Event.CANDIDATE else sizes.sdp
    return RelayTemplate(before, after, key, event, relayed, limit)
