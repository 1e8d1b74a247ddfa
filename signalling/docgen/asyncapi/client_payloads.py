"""Describe the payloads between clients and gateways, for :mod:`signalling.docgen.asyncapi.client_side`."""

from typing import Any

from shared.contracts import client
from shared.contracts.client import INBOUND, OUTBOUND, RELAYED, Event
from shared.contracts.wire import Wire
from shared.errors import BY_CODE
from signalling.docgen.asyncapi.examples import CALL, MODELS, SEQ
from signalling.docgen.asyncapi.schemas import REF, Schema, Schemas, merged

SEQUENCED = (
    Event.JOINED,
    Event.INCOMING,
    Event.INITIATED,
    Event.ACCEPTED,
    Event.REJECTED,
    Event.ENDED,
    *RELAYED,
)
"""The server events that carry ``seq``."""

SEQ_SCHEMA: Schema = {
    "type": "integer",
    "minimum": 0,
    "description": "Grows from event to event of a session.",
}

_CALL_ID: Schema = {"type": "string", "description": "The call that was acted on."}
_ACKED: dict[Event, type[Wire] | None] = {
    Event.JOIN: client.Joined,
    Event.INITIATE: client.Initiated,
    Event.ACCEPT: None,
    Event.REJECT: None,
    Event.END: None,
    Event.STATUS: client.Status,
    Event.ICE_SERVERS: client.IceServers,
    Event.REFRESH: client.Refreshed,
}
"""Fields of an acknowledgement besides ``ok``; ``None`` for the call's id."""


def key_of(event: Event) -> str:
    """Return the name of an event for use in keys, which cannot contain a colon."""
    return event.replace(":", ".")


def sent(schemas: Schemas, model: type[Wire]) -> Schema:
    """Return the schema of a client event. For candidates it is stricter than the model's own."""
    if model is not client.Candidate:
        return schemas.of(model)
    batch = {"required": ["candidates"], "properties": {"candidates": {"type": "array"}}}
    one = {"required": ["candidate"], "not": batch}
    schema = {**schemas.bare(model), "oneOf": [one, {**batch, "not": {"required": ["candidate"]}}]}
    return schemas.add(model.__name__, schema)


def told(schemas: Schemas, event: Event) -> tuple[Schema, dict[str, Any]]:
    """Return the schema of a server event, and an example."""
    if event in RELAYED:
        schema, example = relayed(schemas, event)
        return _sequenced(schemas, f"Peer{INBOUND[event].__name__}", schema), {**example, "seq": SEQ}
    model = OUTBOUND[event]
    example = MODELS[model]
    if event in SEQUENCED:
        return _sequenced(schemas, model.__name__, schemas.bare(model, sent=True)), {**example, "seq": SEQ}
    if model is client.ErrorEvent:
        bare = schemas.bare(model, sent=True)
        bare["properties"]["code"] = {"$ref": REF + "ErrorCode"}
        return schemas.add(model.__name__, bare), example
    return schemas.of(model, sent=True), example


def _sequenced(schemas: Schemas, name: str, schema: Schema) -> Schema:
    return schemas.add(name, merged(schema, name, schema["description"], seq=SEQ_SCHEMA))


def relayed(schemas: Schemas, event: Event) -> tuple[Schema, dict[str, Any]]:
    """Return the schema of a relay that its gateway publishes, without ``to`` and with the call; and an example."""
    schema, example = schemas.bare(INBOUND[event], sent=False), MODELS[INBOUND[event]]
    fields = {key: field for key, field in schema["properties"].items() if key not in ("to", "callId")}
    fields["callId"] = {"type": "string"}
    if "callType" in fields:
        fields["callType"] = {"type": "string", "enum": ["audio", "video"], "description": "If it was sent."}
    if "candidates" in fields:
        fields["candidates"] = {"type": "array", "minItems": 1, "maxItems": client.CANDIDATES_MAX}
    part = {
        **schema,
        "description": f"`{event}` of the peer, unchanged.",
        "properties": fields,
        "required": [key for key in schema["required"] if key != "to"] + ["callId"],
    }
    if "candidates" in fields:
        part["oneOf"] = [{"required": ["candidate"]}, {"required": ["candidates"]}]
    return part, {**{key: value for key, value in example.items() if key != "to"}, "callId": CALL}


# --- acknowledgements ---------------------------------------------------------------------------------------------

_OK: Schema = {"type": "boolean", "const": True}
REFUSED = {
    "ok": False,
    "error": {"code": "user_not_found", "message": BY_CODE["user_not_found"].default, "retryable": False},
}


def acked(schemas: Schemas, event: Event) -> tuple[Schema, dict[str, Any]]:
    """Return the schema of the acknowledgement of a successful event, and an example."""
    name = f"{INBOUND[event].__name__}Done"
    if event in RELAYED:
        queued = {**_OK, "description": "It waits for the peer, who is about to reconnect."}
        text = "`ok` means that the peer's gateway has it."
        schema: Schema = {"type": "object", "properties": {"queued": queued}}
        return schemas.add(name, merged(schema, name, text, ok=_OK)), {"ok": True}
    model = _ACKED[event]
    if model is None:
        schema = {"type": "object", "properties": {"callId": _CALL_ID}, "required": ["callId"]}
        example: dict[str, Any] = {"callId": CALL}
    else:
        schema, example = schemas.bare(model, sent=True), MODELS[model]
    if model is client.Joined:
        schema, example = merged(schema, name, "", seq=SEQ_SCHEMA), {**example, "seq": SEQ}
    text = f"What `{event}` is answered with."
    return schemas.add(name, merged(schema, name, text, ok=_OK)), {"ok": True, **example}


def add_errors(schemas: Schemas) -> None:
    """Add the schemas of errors and of their codes."""
    rows = "".join(f"| `{code}` | {cls.default} | {_when(cls)} |\n" for code, cls in BY_CODE.items())
    table = f"For programs; never changes.\n\n| code | message | when |\n|---|---|---|\n{rows}"
    schemas.add(
        "ErrorCode", {"type": "string", "enum": list(BY_CODE), "title": "ErrorCode", "description": table}
    )
    schemas.add("Error", _error())


def _when(cls: type[Exception]) -> str:
    return " ".join((cls.__doc__ or "").split()).replace("``", "`")


def _error() -> Schema:
    """Return the schema of an error, in acknowledgements, in ``error`` and on the bus."""
    return {
        "type": "object",
        "title": "Error",
        "description": "Why something was refused.",
        "properties": {
            "code": {"$ref": REF + "ErrorCode"},
            "message": {"type": "string", "description": "For people."},
            "retryable": {"type": "boolean", "description": "True if a retry may succeed later."},
            "callId": {"type": "string", "description": "The call that it is about, if it names one."},
            "retryAfterMs": {
                "type": "integer",
                "minimum": 0,
                "description": "When, in milliseconds, if known.",
            },
        },
        "required": ["code", "message", "retryable"],
    }


def refusal() -> Schema:
    """Return the schema of an acknowledgement that refuses."""
    return {
        "type": "object",
        "title": "Refusal",
        "properties": {"ok": {"type": "boolean", "const": False}, "error": {"$ref": f"{REF}Error"}},
        "required": ["ok", "error"],
    }
