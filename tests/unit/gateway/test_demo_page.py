"""The page is served with what keeps other scripts out, and says so where it is not built."""

from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from services.gateway.transport import demo_page


async def _get(folder: Path, path: str) -> tuple[int, str, dict[str, str]]:
    app = web.Application()
    demo_page.add_routes(app, folder)
    async with TestClient(TestServer(app)) as client, client.get(path) as answer:
        return answer.status, await answer.text(), dict(answer.headers)


async def test_the_page_and_its_files(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>hello</p>")
    (tmp_path / "page.js").write_text("1")
    (tmp_path / "secret.txt").write_text("no")
    status, text, headers = await _get(tmp_path, "/")
    assert (status, text, headers["Content-Type"]) == (200, "<p>hello</p>", "text/html; charset=utf-8")
    assert (
        "script-src 'self';" in headers["Content-Security-Policy"]
        and "unsafe" not in headers["Content-Security-Policy"]
    )
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, text, headers = await _get(tmp_path, "/page/page.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    for other in ("/page/secret.txt", "/page/..%2Findex.html", "/page/nothing.js"):
        assert (await _get(tmp_path, other))[0] == 404


async def test_a_page_that_is_not_built(tmp_path: Path) -> None:
    assert not demo_page.built(tmp_path)
    assert (await _get(tmp_path, "/"))[:2] == (404, demo_page.NOT_BUILT)
