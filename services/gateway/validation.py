"""From a client's payload to a model, or to a refusal that names the field."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.contracts.client import INBOUND, Event, Join
from shared.contracts.wire import Wire
from shared.errors import BadRequest, UserIdRequired

_EVENTS = {event.value: model for event, model in INBOUND.items()}


def known(event: str) -> Event:
    """The event of this name. Raises :class:`BadRequest`."""
    if event not in _EVENTS:
        raise BadRequest("Unknown event")
    return Event(event)


def validate(event: Event, args: list[Any]) -> Wire:
    """The payload of ``event``. Raises :class:`BadRequest`, or :class:`UserIdRequired` for a join without one."""
    model = _EVENTS[event]
    if not args:
        raise BadRequest("payload: is missing")
    payload = args[0]
    if not isinstance(payload, dict):
        raise BadRequest("payload: must be an object")
    if model is Join and payload.get("userId") in (None, ""):
        raise UserIdRequired
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        raise BadRequest(_explain(error.errors(include_url=False, include_input=False)[0])) from None


def _explain(detail: ErrorDetails) -> str:
    """``field: what is wrong``, without repeating what the client sent."""
    field = ".".join(str(part) for part in detail["loc"]) or "payload"
    if detail["type"] == "missing":
        return f"{field}: is missing"
    text = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{field}: {text[:1].lower()}{text[1:]}"
