"""Build the payload that the receiver gets of a validated offer, answer or candidate."""

from typing import Any

from services.gateway.protocol.json_codec import dumps
from shared.contracts.client import Answer, Candidate, Offer, Relayed
from shared.errors import BadRequest


def payload_of(relayed: Relayed, user: str, call: str) -> bytes:
    """Return the JSON for the receiver, without ``seq``. ``user``: the sender.

    Raises :class:`BadRequest` for numbers that are not finite.
    """
    match relayed:
        case Offer():
            body: dict[str, Any] = {"offer": relayed.offer}
            if relayed.call_type is not None:
                body["callType"] = relayed.call_type
        case Answer():
            body = {"answer": relayed.answer}
        case Candidate(candidates=None):
            body = {"candidate": relayed.candidate}
        case Candidate():
            body = {"candidates": relayed.candidates}
        case _:
            raise AssertionError("not relayed")
    try:
        return dumps({**body, "from": user, "callId": call})
    except ValueError:
        raise BadRequest("payload: numbers must be finite") from None
