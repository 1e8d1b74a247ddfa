"""The AsyncAPI documents as a judge of messages: what they do not have, is wrong."""

import copy
import json
import re
from collections.abc import Iterable
from typing import Any

from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

from tests.support.service_process import REPOSITORY

_HOME = "urn:document"


class Document:
    """One of ``docs/asyncapi``. ``closed``: keys that it does not name are wrong, where it names any."""

    def __init__(self, name: str, *, closed: bool = False) -> None:
        self.whole = json.loads((REPOSITORY / "docs" / "asyncapi" / f"{name}.json").read_text())
        judging = copy.deepcopy(self.whole)
        if closed:
            for schema in (
                *judging["components"]["schemas"].values(),
                *(message["payload"] for message in judging["components"]["messages"].values()),
            ):
                _close(schema)
        resource = DRAFT7.create_resource(judging)
        self._registry: Registry[Any] = Registry().with_resource(_HOME, resource)
        self._channels = [
            (re.compile(_pattern(channel["address"])), key)
            for key, channel in self.whole["channels"].items()
            if channel["address"] is not None
        ]

    def channel(self, address: str) -> str | None:
        """The channel of a subject or event; the most special one where there are several."""
        keys = [key for pattern, key in self._channels if pattern.fullmatch(address)]
        return min(keys, key=lambda key: self.whole["channels"][key]["address"].count("{"), default=None)

    def messages(self, channel: str) -> list[str]:
        """The keys of a channel's messages."""
        return list(self.whole["channels"][channel]["messages"])

    def faults(self, message: str, payload: Any, part: str = "payload") -> list[str]:
        """What is wrong with a payload, or with headers, as a message of that key."""
        schema = {"$ref": f"{_HOME}#/components/messages/{message}/{part}"}
        found = Draft7Validator(schema, registry=self._registry).iter_errors(payload)
        return [f"{message}: {'.'.join(map(str, fault.path))}: {fault.message[:300]}" for fault in found]

    def kinds(self, messages: Iterable[str], payload: Any) -> list[str]:
        """Those of the messages that a payload may be."""
        return [message for message in messages if not self.faults(message, payload)]


def _pattern(address: str) -> str:
    return re.sub(r"\\{\w+\\}", "[^.]+", re.escape(address))


def _close(schema: Any) -> None:
    """Let an object have no keys but its own. Parts of ``oneOf`` and ``not`` name only some of them, and stay."""
    if not isinstance(schema, dict):
        return
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
        for part in schema["properties"].values():
            _close(part)
    for key in ("items", "additionalProperties"):
        _close(schema.get(key))
    for part in schema.get("anyOf", ()):
        _close(part)
