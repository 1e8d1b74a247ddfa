"""Encode JSON for clients."""

import json
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dumps(value: Any) -> bytes:
    """Return compact JSON in UTF-8. Raises ``ValueError`` for NaN and infinities."""
    return _encode(value).encode()
