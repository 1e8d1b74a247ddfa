"""Format a message on the bus as one line. What a client sent is left out unless it is requested.

A line shows the fields that are known to be harmless, and of everything else only its name and size: SDP, candidates
and metadata hold addresses of people. Tokens are never shown.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from shared import subjects
from shared.contracts.relays import LINE
from shared.ids import decode
from shared.observability.escaping import printable

# fmt: off
SHOWN = frozenset((
    "userId", "user", "from", "to", "peer", "caller", "callee", "by", "callId", "call", "callType", "state", "reason",
    "session", "sessionId", "gateway", "seq", "ok", "code", "retryable", "resumed", "leaving", "version", "sockets",
    "createdAt", "acceptedAt", "endedAt", "at",
))
SKIPPED = frozenset(("requestId", "expiresAt", "leftMs", "attempt", "relay", "socket", "revision", "born"))
"""Keys that are not shown."""
# fmt: on
SECRET = frozenset(
    ["token", "resumeToken", "resume", "resumeSession", "iceServers", "credential", "password"]
)
_IDS = frozenset(["userId", "user", "from", "to", "peer", "caller", "callee", "by"])
_CALLS = frozenset({"callId", "call"})
VALUE_MAX = 80
RAW_MAX = 4000


def line(subject: str, payload: bytes, at: datetime, *, raw: bool, note: str = "") -> str:
    """Return the message as a line of text. ``note``: further knowledge, e.g. the user of a session."""
    body = _body(payload)
    shown = " ".join(_fields(body, raw=raw)) if body is not None else _opaque(payload)
    if more := payload.count(LINE):
        shown += f" and {more} more"
    where = printable(_readable(subject))
    return "  ".join(
        part for part in (f"{at:%H:%M:%S}.{at.microsecond // 1000:03}", where, note, shown) if part
    )


def users_of(subject: str, payload: bytes) -> set[str]:
    """Return the users that a message names, in its subject or its payload."""
    found: set[str] = set()
    match subject.split("."):
        case ["event", "user", user, _]:
            found.add(_decoded(user))
        case ["relay", _, _, user, _, to, _]:
            found |= {_decoded(user), _decoded(to)}
    body = _body(payload) or {}
    for each in (body, body.get("call"), body.get("result")):
        if isinstance(each, dict):
            found |= {value for key in _IDS if isinstance(value := each.get(key), str)}
    return found


def sessions_of(subject: str, payload: bytes) -> list[tuple[str, str]]:
    """Return ``(session, user)`` pairs that a message reveals."""
    body = _body(payload) or {}
    match subject.split("."):
        case ["relay", _, _, user, session, _, _] if session != subjects.NOBODY:
            return [(session, _decoded(user))]
        case ["event", "user", user, _]:
            return [(body["sessionId"], _decoded(user))] if isinstance(body.get("sessionId"), str) else []
        case ["rpc", *_]:
            of, who = body.get("session"), body.get("user")
            return [(of, who)] if isinstance(of, str) and isinstance(who, str) else []
    return []


def calls_of(subject: str, payload: bytes) -> set[str]:
    """Return the calls that a message names."""
    found: set[str] = set()
    match subject.split("."):
        case ["event", "call", call, _]:
            found.add(_decoded(call))
        case ["relay", _, call, _, _, _, _]:
            found.add(_decoded(call))
        case ["deadline", _, subjects.RING, call]:
            found.add(call)
    body = _body(payload) or {}
    for each in (body, body.get("call")):
        if isinstance(each, dict):
            found |= {value for key in _CALLS if isinstance(value := each.get(key), str)}
    return found


def _fields(body: dict[str, Any], *, raw: bool) -> Iterator[str]:
    for key, value in body.items():
        if key in SECRET:
            yield f"{key}=…"
        elif key in SKIPPED and not raw:
            continue
        elif raw:
            yield printable(f"{key}={_json(_without_secrets(value))[:RAW_MAX]}")
        elif isinstance(value, bool) or (key in SHOWN and not isinstance(value, dict | list)):
            yield printable(f"{key}={_scalar(value)}")
        elif key == "call" and isinstance(value, dict):
            yield from _fields({k: v for k, v in value.items() if k in SHOWN}, raw=False)
        else:
            yield printable(f"{key}=<{len(_json(value).encode())} bytes>")


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "…" if key in SECRET else _without_secrets(each) for key, each in value.items()}
    return [_without_secrets(each) for each in value] if isinstance(value, list) else value


def _scalar(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= VALUE_MAX else text[: VALUE_MAX - 1] + "…"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _body(payload: bytes) -> dict[str, Any] | None:
    """Return the JSON of a message; of a batch, the first."""
    try:
        body = json.loads(payload.partition(LINE)[0])
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _opaque(payload: bytes) -> str:
    return f"<{len(payload)} bytes>" if payload else ""


def _readable(subject: str) -> str:
    """Return the subject with its ids decoded; for display only."""
    return ".".join(_decoded(token) for token in subject.split("."))


def _decoded(token: str) -> str:
    try:
        return decode(token)
    except ValueError:
        return token
