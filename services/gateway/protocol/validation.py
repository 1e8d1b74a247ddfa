"""Validate payloads of clients: return a model, or raise an error that names the field."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.contracts.client import INBOUND, Event, Join, Sizes
from shared.contracts.wire import TOO_LARGE, Wire
from shared.errors import BadRequest, UserIdRequired

_EVENTS = {event.value: event for event in INBOUND}


def known(event: str) -> Event:
    """Return the event of this name. Raises :class:`BadRequest` for an unknown one."""
    if (known := _EVENTS.get(event)) is None:
        raise BadRequest("Unknown event")
    return known


class TooLarge(BadRequest):
    """Raised if the payload is larger than a client may send."""


_TOO_LARGE = frozenset((TOO_LARGE, "string_too_long", "too_long"))


def validate(event: Event, args: list[Any], sizes: Sizes | None = None) -> Wire:
    """Return the payload of ``event`` as a model, within ``sizes`` and the limits of the protocol.

    Raises :class:`BadRequest`, or :class:`UserIdRequired` for a join without one.
    """
    model = INBOUND[event]
    payload = args[0] if args else None
    if payload is None and not model.model_fields:
        payload = {}
    if not args and payload is None:
        raise BadRequest("payload: is missing")
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
    """Return the payload of ``user:join`` in the ``auth`` of a handshake, unchecked; ``None`` without a user.

    Other keys are left out, because they may be another application's.
    """
    if not isinstance(auth, dict) or auth.get("userId") is None:
        return None
    return {key: auth[key] for key in _JOIN_KEYS if key in auth}


_RULES: dict[str, str] = {
    "missing": "is missing",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "int_type": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "literal_error": "must be {expected}",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
}
"""Type of a validation error → the rule, in words of JSON. Our own validators have their messages themselves."""
_OURS = frozenset((TOO_LARGE, "value_error"))


def _explain(detail: ErrorDetails) -> str:
    """Return ``field: what is wrong``, without the client's value and without the validator's own words."""
    field = ".".join(str(part) for part in detail["loc"]) or "payload"
    if detail["type"] in _OURS:
        return f"{field}: {detail['msg'].removeprefix('Value error, ')}"
    return f"{field}: {_RULES.get(detail['type'], 'is not valid').format(**detail.get('ctx', {}))}"
