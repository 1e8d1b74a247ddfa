"""The second table of the protocol as shapes: which keys an event has, which it may have, and of what type."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.support.inbox import Received


class Shape(NamedTuple):
    """Keys that must be there and keys that may; nothing else is allowed."""

    must: dict[str, type]
    may: dict[str, type]


_CALL = {"callId": str, "seq": int}
_RINGS = {**_CALL, "expiresAt": int, "expiresInMs": int}
_ENDED = {**_CALL, "by": str}
_RELAYED = {**_CALL, "from": str}

SHAPES: dict[str, Shape] = {
    "user:joined": Shape(
        {
            "userId": str,
            "socketId": str,
            "sessionId": str,
            "resume": dict,
            "iceServers": list,
            "resumed": bool,
        },
        {"seq": int, "iceExpiresAt": int, "tokenSeconds": int, "call": dict},
    ),
    "call:incoming": Shape({**_RINGS, "from": str, "callType": str}, {"metadata": object}),
    "call:initiated": Shape({**_RINGS, "to": str}, {}),
    "call:accepted": Shape(_ENDED, {"reason": str}),
    "call:rejected": Shape(_ENDED, {"reason": str}),
    "call:ended": Shape({**_ENDED, "reason": str}, {}),
    "call:offer": Shape({**_RELAYED, "offer": dict}, {"callType": str}),
    "call:answer": Shape({**_RELAYED, "answer": dict}, {"callType": str}),
    "ice:candidate": Shape(_RELAYED, {"candidate": object, "candidates": list, "callType": str}),
    "user:status": Shape({"userId": str, "isOnline": bool, "isInCall": bool}, {}),
    "ice:servers": Shape({"iceServers": list}, {"expiresAt": int}),
    "user:refresh": Shape({}, {"tokenSeconds": int}),
    "session:expired": Shape({"sessionId": str}, {}),
    "session:replaced": Shape({"sessionId": str}, {"seq": int}),
    "server:draining": Shape({"deadlineSeconds": int, "reconnectAfterMs": int}, {}),
    "error": Shape(
        {"message": str, "code": str, "event": str, "retryable": bool}, {"callId": str, "retryAfterMs": int}
    ),
}


def faults(received: Iterable[Received]) -> list[str]:
    """What is wrong with the events of one session: their shapes, and that ``seq`` only grows."""
    found, last = [], 0
    for event, data in ((r.event, r.data) for r in received):
        if event not in SHAPES:
            found.append(f"unknown event {event}: {data}")
            continue
        found += [f"{event}: {fault} in {data}" for fault in _faults(SHAPES[event], data)]
        seq = data.get("seq") if isinstance(data, dict) else None
        if isinstance(seq, int):
            if seq <= last:
                found.append(f"{event}: seq {seq} after {last}")
            last = seq
    return found


def _faults(shape: Shape, data: Any) -> list[str]:
    if not isinstance(data, dict):
        return ["not an object"]
    wrong = [f"no {key}" for key in shape.must if key not in data]
    for key, value in data.items():
        kind = shape.must.get(key) or shape.may.get(key)
        if kind is None:
            wrong.append(f"unknown key {key}")
        elif kind is not object and type(value) is not kind:
            wrong.append(f"{key} is {type(value).__name__}")
    return wrong
