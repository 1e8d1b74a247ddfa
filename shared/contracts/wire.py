"""The base of every wire model, and the field types they share."""

import json
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel


class Wire(BaseModel):
    """camelCase on the wire, snake_case in code; strict types; unknown keys ignored; immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", strict=True, frozen=True
    )

    def dump(self) -> bytes:
        """The JSON of this message, absent fields left out."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


def _printable(text: str) -> str:
    if not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        raise ValueError("must not contain control characters or lone surrogates")
    return text


def json_size(value: Any) -> int:
    """Bytes of the compact JSON of ``value``."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def at_most(limit: int) -> AfterValidator:
    """A bound on the JSON size of a field, in bytes."""

    def check(value: Any) -> Any:
        if value is not None and (size := json_size(value)) > limit:
            raise ValueError(f"must be at most {limit} bytes of JSON, is {size}")
        return value

    return AfterValidator(check)


_Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128),
    AfterValidator(_printable),
    WithJsonSchema(
        {"type": "string", "minLength": 1, "maxLength": 128, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
    ),
]

UserId = _Text
"""1 to 128 characters, any but control characters. Compared as sent, no case folding, no normalisation."""

CallId = _Text
"""Opaque. Longer than what we mint, so that a wrong id is an unknown call and not a malformed one."""

DeviceId = _Text

Reason = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,32}$")]
"""Why a call ended: one of the protocol's reasons or a client's own word."""

Millis = Annotated[int, Field(ge=0)]
"""Milliseconds since the Unix epoch."""
