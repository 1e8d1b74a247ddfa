"""Headers of every HTTP answer of a service."""

from aiohttp import web

SERVER = "signalling"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of all answers but those of the demo page, which has its own."""


def harden(answer: web.StreamResponse) -> None:
    """Add the security headers that an answer does not set itself, and name the server without its version."""
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    answer.headers["Server"] = SERVER


async def on_prepare(_: web.Request, answer: web.StreamResponse) -> None:
    """Call :func:`harden`; for ``app.on_response_prepare``."""
    harden(answer)
