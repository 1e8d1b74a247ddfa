"""Where browsers may come from."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit


def origin_check(allowed: tuple[str, ...]) -> Callable[[str | None, dict[str, Any]], bool]:
    """Whether a browser may come from where it says: from ``allowed`` (``*``: anywhere) or from this host itself."""

    def check(origin: str | None, environ: dict[str, Any]) -> bool:
        if origin is None or "*" in allowed or origin in allowed:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        host = environ.get("HTTP_HOST")
        return parts.scheme in ("http", "https") and bool(host) and parts.netloc.lower() == str(host).lower()

    return check
