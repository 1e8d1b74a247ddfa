"""Define the base of every wire model, and the field types they share."""

import json
import unicodedata
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


class Wire(BaseModel):
    """camelCase on the wire, snake_case in code; strict types; unknown keys ignored; immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", strict=True, frozen=True
    )

    def dump(self) -> bytes:
        """Return the JSON of this message, without absent fields. Models in which ``null`` matters override it."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


def _printable(text: str) -> str:
    if not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        raise ValueError("must not contain control characters or lone surrogates")
    return text


def json_size(value: Any) -> int:
    """Return the bytes of the compact JSON of ``value``."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


TOO_LARGE = "too_large"
"""The type of the error that :func:`at_most` makes."""


def at_most(name: str, limit: int) -> AfterValidator:
    """Return a validator of the JSON size of a field: at most ``limit`` bytes, or less by the validation context."""

    def check(value: Any, info: ValidationInfo) -> Any:
        most = limit if info.context is None else min(limit, getattr(info.context, name))
        if value is not None and (size := json_size(value)) > most:
            raise PydanticCustomError(TOO_LARGE, f"must be at most {most} bytes of JSON, is {size}")
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
"""Why a call ended: one of the protocol's reasons or one that a client chose."""

Millis = Annotated[int, Field(ge=0)]
"""Milliseconds since the Unix epoch."""
