"""Serve the demo page from files that are read once, with headers that let it run no other code."""

from pathlib import Path

from aiohttp import web

from shared.observability import logs

log = logs.get(__name__)

FOLDER = Path(__file__).resolve().parents[3] / "web" / "page" / "dist"
"""The output of `make page`."""
INDEX = "index.html"
NOT_BUILT = "The page is not built: run `make page`.\n"

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "media-src 'self' blob:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "Permissions-Policy": "camera=(self), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def built(folder: Path = FOLDER) -> bool:
    """Return True if the page is built."""
    return (folder / INDEX).is_file()


def add_routes(app: web.Application, folder: Path = FOLDER) -> None:
    """Serve the page at ``/`` and its files under ``/page/``; answer 404 with the reason if it is not built."""
    if not built(folder):
        log.warning("the page is not built", folder=str(folder))
    files = {path.name: path.read_bytes() for path in folder.glob("*") if path.suffix in _TYPES}

    async def serve(request: web.Request) -> web.Response:
        name = request.match_info.get("name", INDEX)
        if name not in files:
            return web.Response(status=404, text=NOT_BUILT if name == INDEX else "not found\n")
        return web.Response(
            body=files[name], content_type=_TYPES[Path(name).suffix], charset="utf-8", headers=HEADERS
        )

    app.router.add_get("/", serve)
    app.router.add_get("/page/{name}", serve)
