"""Check the ``Origin`` of requests, and add the CORS headers to each answer."""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

OriginAllowed = Callable[[str | None, str | None], bool]
"""Of an ``Origin`` and a ``Host`` header: True if a page from there may connect."""


def origin_check(allowed: tuple[str, ...]) -> OriginAllowed:
    """Return a check for origins: those of ``allowed`` (``*``: any) and the gateway's own host pass."""

    def check(origin: str | None, host: str | None) -> bool:
        if origin is None or "*" in allowed or origin in allowed:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and bool(host) and parts.netloc.lower() == str(host).lower()

    return check


def cors(check: OriginAllowed, path: str) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return a handler for ``on_response_prepare`` that adds the CORS headers to answers below ``path``.

    Errors have them too, and so has "not found" anywhere: without them a page cannot tell a refusal from a
    server that is down. ``Vary`` stands on every such answer, with or without an ``Origin``, for caches between.
    """

    async def add_headers(request: web.Request, answer: web.StreamResponse) -> None:
        if not request.path.startswith(path) and answer.status != 404:
            return
        headers, origin = answer.headers, request.headers.get("Origin")
        headers.add("Vary", "Origin")
        if origin is None or not check(origin, request.headers.get("Host")):
            return
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
            headers.add("Vary", "Access-Control-Request-Headers")
            if wanted := request.headers.get("Access-Control-Request-Headers"):
                headers["Access-Control-Allow-Headers"] = wanted
        elif "Retry-After" in headers:
            headers["Access-Control-Expose-Headers"] = "Retry-After"

    return add_headers
