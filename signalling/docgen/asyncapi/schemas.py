"""Convert wire models to JSON schemas (draft 7) as components of an AsyncAPI document."""

import re
from typing import Any

from shared.contracts.wire import Wire

Schema = dict[str, Any]

REF = "#/components/schemas/"


class Schemas:
    """Collects the schemas of one document, each once.

    ``sent``: True for messages of the server, which omit absent fields; clients may also send ``null``.
    """

    def __init__(self, *, sent: bool = False) -> None:
        self.parts: dict[str, Schema] = {}
        self._sent = sent

    def of(self, model: type[Wire], *, sent: bool | None = None, name: str | None = None) -> Schema:
        """Return a reference to the schema of ``model``, under ``name`` if given."""
        schema = self.bare(model, sent=sent)
        return self.add(name or model.__name__, {**schema, "title": name} if name else schema)

    def bare(self, model: type[Wire], *, sent: bool | None = None) -> Schema:
        """Return the schema of ``model`` itself, and add the schemas that it references."""
        schema = model.model_json_schema(by_alias=True, ref_template=REF + "{model}")
        sent = self._sent if sent is None else sent
        for name, part in schema.pop("$defs", {}).items():
            self.add(name, _tidy(part, sent=sent))
        tidy: Schema = _tidy(schema, sent=sent)
        return tidy

    def add(self, name: str, schema: Schema) -> Schema:
        """Return a reference to a schema of that name. Raises ``ValueError`` if the name has another schema."""
        if self.parts.setdefault(name, schema) != schema:
            raise ValueError(f"two schemas are named {name}")
        return {"$ref": REF + name}


def merged(schema: Schema, title: str, description: str, **more: Schema) -> Schema:
    """Return an object schema with more keys, all of them required."""
    return {
        **schema,
        "title": title,
        "description": description,
        "properties": {**schema.get("properties", {}), **more},
        "required": [*schema.get("required", ()), *more],
    }


def _tidy(schema: Any, *, sent: bool) -> Any:
    """Return a draft 7 schema without what pydantic adds: titles of fields, defaults that are ``null``."""
    if isinstance(schema, list):
        return [_tidy(part, sent=sent) for part in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _tidy(value, sent=sent) for key, value in schema.items() if key not in _OWN}
    if "properties" in schema:
        tidy["properties"] = {
            name: _field(part, optional=name not in schema.get("required", ()), sent=sent)
            for name, part in schema["properties"].items()
        }
    if "prefixItems" in schema:
        tidy["items"] = tidy.pop("prefixItems")
        tidy["additionalItems"] = False
    if "description" in schema and isinstance(schema["description"], str):
        tidy["description"] = plain(schema["description"])
    return tidy


_OWN = ("properties",)


def _field(schema: Schema, *, optional: bool, sent: bool) -> Schema:
    field = {key: value for key, value in schema.items() if key != "title"}
    if field.get("default", ...) is None:
        del field["default"]
    choices = field.get("anyOf", ())
    if optional and sent and {"type": "null"} in choices:
        left = [choice for choice in choices if choice != {"type": "null"}]
        field.pop("anyOf")
        field = {**left[0], **field} if len(left) == 1 else {**field, "anyOf": left}
    tidy: Schema = _tidy(field, sent=sent)
    return tidy


def plain(docstring: str) -> str:
    """Return a docstring as Markdown."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", docstring)
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.replace("``", "`")))
