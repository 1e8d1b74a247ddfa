"""Apps of the old server in pages of another origin, with cookies allowed, real peer connections and media."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page

from tests.browser.people import PATIENCE_MS, VIEWPORT
from tests.browser.project import Project
from tests.browser.system import System
from tests.support.old_app import SCENARIOS, WAYS, OldApp
from tests.support.service_process import REPOSITORY

JS = REPOSITORY / "tests" / "e2e" / "js"
_ENTRY = """
import { io } from "socket.io-client";
import { media } from "./browser_media.mjs";
import { OldApp } from "./old_app.mjs";
window.open = (url, options, userId, habits) => (window.app = new OldApp({ io, url, options, userId, media, habits }));
"""
_OPEN = "([url, options, user, habits]) => void window.open(url, options, user, habits)"


class PageOldApp(OldApp):
    """An app in a page of its own."""

    def __init__(self, page: Page, user: str) -> None:
        self.page = page
        self.user = user

    async def do(self, method: str, *args: Any) -> Any:
        return await self.page.evaluate("([method, args]) => app[method](...args)", [method, list(args)])


class Apps:
    """Opens apps on one gateway after the other."""

    def __init__(self, browser: Browser, origin: str, urls: list[str], way: str) -> None:
        self._browser = browser
        self._origin = origin
        self._urls = urls
        self._way = way
        self._token = secrets.token_hex(4)
        self._contexts: list[BrowserContext] = []

    async def page(self, name: str, **habits: Any) -> PageOldApp:
        """An app that may or may not be let in."""
        context = await self._browser.new_context(viewport=VIEWPORT)
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        await page.goto(f"{self._origin}/old.html")
        await page.wait_for_function("() => window.open.length === 4")
        url = self._urls[len(self._contexts) % len(self._urls)]
        self._contexts.append(context)
        app = PageOldApp(page, f"{name}-{self._token}")
        await page.evaluate(_OPEN, [url, WAYS[self._way], app.user, habits])
        return app

    async def open(self, name: str, **habits: Any) -> PageOldApp:
        """An app that has joined."""
        app = await self.page(name, **habits)
        assert await app.do("joined")
        return app

    async def close(self) -> None:
        """Close all pages."""
        for context in self._contexts:
            await context.close()


@pytest.fixture(scope="module")
def old_page(project: Project) -> Project:
    """The app, built, with the socket.io-client that the browser client has."""
    for name in ("old_app.mjs", "browser_media.mjs"):
        project.write(name, (JS / name).read_text())
    project.write("old_entry.js", _ENTRY)
    project.bundle("old_entry.js")
    project.write("old.html", '<script src="old_entry.js" type="module"></script>')
    return project


@pytest.fixture(params=["default", "websocket-polling"])
def way(request: pytest.FixtureRequest) -> str:
    """How apps connect."""
    return str(request.param)


@pytest_asyncio.fixture(loop_scope="session")
async def apps(chromium: Browser, old_page: Project, system: System, way: str) -> AsyncIterator[Apps]:
    apps = Apps(chromium, old_page.origin, system.urls, way)
    yield apps
    await apps.close()


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_an_old_app(apps: Apps, scenario: str) -> None:
    await SCENARIOS[scenario](apps.open)


async def test_a_page_of_an_origin_that_may_not_connect(
    chromium: Browser, old_page: Project, system: System, way: str
) -> None:
    """``CLIENT_URL`` names the origin with its host: the same page by another name of the host is not let in."""
    apps = Apps(chromium, old_page.origin.replace("localhost", "127.0.0.1"), system.urls, way)
    try:
        app = await apps.page("eve")
        assert await app.do("refused")
        assert await app.count("user:joined") == 0
    finally:
        await apps.close()


_NEW = """async ([url, userId]) => {
    window.client = new lib.SignallingClient({ url, userId });
    client.on("incoming", (call) => (window.call = call).accept());
    await client.join();
}"""


@pytest.mark.parametrize("old_calls", [True, False], ids=["old calls", "new calls"])
async def test_an_old_app_and_the_browser_client(
    chromium: Browser, old_page: Project, system: System, old_calls: bool
) -> None:
    """The old app understands every candidate that the browser client sends."""
    old_page.write("lib.js", 'import * as lib from "@hellotalk/signalling-client"; window.lib = lib;')
    old_page.bundle("lib.js")
    old_page.write("lib.html", '<script src="lib.js" type="module"></script>')
    apps = Apps(chromium, old_page.origin, system.urls, "default")
    context = await chromium.new_context(viewport=VIEWPORT)
    try:
        alice = await apps.open("alice")
        page = await context.new_page()
        await page.goto(f"{old_page.origin}/lib.html")
        await page.wait_for_function("() => window.lib !== undefined")
        new = f"new-{alice.user}"
        await page.evaluate(_NEW, [system.urls[1], new])
        if old_calls:
            await alice.do("initiate", new, "video")
        else:
            await page.evaluate(
                "async (name) => void (window.call = client.call(name, { audio: true, video: true }))",
                alice.user,
            )
            await alice.nth("call:incoming")
            await alice.do("accept")
        await alice.do("flows")
        await alice.nth("ice:candidate")
        await page.wait_for_function("() => window.call?.state === 'connected'", timeout=PATIENCE_MS)
        await alice.do("end")
        await page.wait_for_function("() => window.call.state === 'ended'", timeout=PATIENCE_MS)
        state = await alice.do("snapshot")
        assert state["errors"] == [], state
    finally:
        await context.close()
        await apps.close()
