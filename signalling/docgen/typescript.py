"""Generate ``web/client/src/contracts.ts``: the wire models of clients as TypeScript."""

import json
from typing import Any

from shared.contracts import client
from shared.contracts.client import INBOUND, OUTBOUND, RELAYED
from shared.errors import BY_CODE

_HEAD = """\
// Generated from shared/contracts/client.py by `python -m signalling.docgen`; do not edit.
"""

_RELAYED = """\
/** What a relay is when it reaches the peer. */
export type FromPeer<T> = Omit<T, "to" | "callId"> & { callId: string };
"""


def contracts() -> str:
    """Return the module: an interface for each model, the events of both directions, the error codes."""
    interfaces: dict[str, str] = {}
    for model in (*INBOUND.values(), *OUTBOUND.values()):
        schema = model.model_json_schema(by_alias=True)
        for name, part in {**schema.get("$defs", {}), model.__name__: schema}.items():
            interfaces[name] = _interface(name, part)
    codes = " | ".join(json.dumps(code) for code in BY_CODE)
    sent = [(event.value, model.__name__) for event, model in INBOUND.items()]
    got = [(event.value, model.__name__) for event, model in OUTBOUND.items()]
    got += [(event.value, f"FromPeer<{INBOUND[event].__name__}>") for event in RELAYED]
    return "\n".join(
        (
            _HEAD,
            f"export const CANDIDATES_MAX = {client.CANDIDATES_MAX};\n",
            f"export type ErrorCode = {codes};\n",
            *interfaces.values(),
            _RELAYED,
            _block("ClientToServer", sent),
            _block("ServerToClient", got),
        )
    )


def _interface(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    fields = [(key, _type(value), key not in required) for key, value in schema.get("properties", {}).items()]
    lines = "".join(f"  {key}{'?' if optional else ''}: {kind};\n" for key, kind, optional in fields)
    return f"export interface {name} {{\n{lines}}}\n"


def _block(name: str, events: list[tuple[str, str]]) -> str:
    lines = "".join(f"  {json.dumps(event)}: {kind};\n" for event, kind in events)
    return f"export interface {name} {{\n{lines}}}\n"


def _type(schema: dict[str, Any]) -> str:
    """Return the TypeScript type of a JSON schema. Raises ``ValueError`` for a schema that no wire model has."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " | ".join(_type(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    match schema.get("type"):
        case "string" | "boolean" | "null" as same:
            return str(same)
        case "integer" | "number":
            return "number"
        case "array":
            item = _type(schema["items"])
            return f"({item})[]" if "|" in item else f"{item}[]"
        case "object":
            return "object"
        case None:
            return "unknown"
    raise ValueError(f"no TypeScript for {schema}")
