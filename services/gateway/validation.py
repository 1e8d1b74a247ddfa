"""From a client's payload to a model, or to a refusal that names the field."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.contracts.client import INBOUND, Event, Join, Sizes
from shared.contracts.wire import TOO_LARGE, Wire
from shared.errors import BadRequest, UserIdRequired

_EVENTS = {event.value: event for event in INBOUND}


def known(event: str) -> Event:
    """The event of this name. Raises :class:`BadRequest`."""
    if (known := _EVENTS.get(event)) is None:
        raise BadRequest("Unknown event")
    return known


class TooLarge(BadRequest):
    """It has more than a client may send."""


_TOO_LARGE = frozenset((TOO_LARGE, "string_too_long", "too_long"))


def validate(event: Event, args: list[Any], sizes: Sizes | None = None) -> Wire:
    """The payload of ``event``, with no more in it than ``sizes`` and the protocol allow.

    Raises :class:`BadRequest`, or :class:`UserIdRequired` for a join without one.
    """
    model = INBOUND[event]
    if not args:
        raise BadRequest("payload: is missing")
    payload = args[0]
    if not isinstance(payload, dict):
        raise BadRequest("payload: must be an object")
    if model is Join and payload.get("userId") in (None, ""):
        raise UserIdRequired
    try:
        return model.model_validate(payload, context=sizes)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise (TooLarge if detail["type"] in _TOO_LARGE else BadRequest)(_explain(detail)) from None


_JOIN_KEYS = tuple(str(field.alias) for field in Join.model_fields.values())


def join_in(auth: object) -> dict[str, Any] | None:
    """The payload of ``user:join`` that the ``auth`` of a handshake has, unchecked; ``None`` if it names no user.

    Other keys may be another application's.
    """
    if not isinstance(auth, dict) or auth.get("userId") is None:
        return None
    return {key: auth[key] for key in _JOIN_KEYS if key in auth}


def _explain(detail: ErrorDetails) -> str:
    """``field: what is wrong``, without repeating what the client sent."""
    field = ".".join(str(part) for part in detail["loc"]) or "payload"
    if detail["type"] == "missing":
        return f"{field}: is missing"
    text = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{field}: {text[:1].lower()}{text[1:]}"
