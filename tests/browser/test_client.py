"""What the client does that the page has no button for, as installed by somebody else."""

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page

from tests.browser.people import PATIENCE_MS
from tests.browser.project import Project
from tests.browser.system import System

STILL_MS = 700
_JOIN = """async ([url, userId]) => {
    window.client = new lib.SignallingClient({ url, userId, token: () => "not looked at here" });
    client.on("incoming", (call) => (window.call = call).accept());
    await client.join();
}"""
_FRAMES = "call.stats().then(({ framesDecoded }) => framesDecoded)"
_PACKETS = "call.stats().then(({ packetsReceived }) => packetsReceived)"


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser, project: Project) -> AsyncIterator[BrowserContext]:
    project.write("lib.js", 'import * as lib from "@hellotalk/signalling-client"; window.lib = lib;')
    project.bundle("lib.js")
    project.write("lib.html", '<script src="lib.js" type="module"></script>')
    context = await chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    yield context
    await context.close()


async def _client(context: BrowserContext, origin: str, url: str, name: str) -> Page:
    page = await context.new_page()
    await page.goto(f"{origin}/lib.html")
    await page.wait_for_function("() => window.lib !== undefined")
    await page.evaluate(_JOIN, [url, name])
    return page


async def _until(page: Page, condition: str) -> None:
    await page.wait_for_function(f"async () => {condition}", timeout=PATIENCE_MS)


async def _flows(page: Page) -> None:
    await _until(page, f"await {_FRAMES} > {await page.evaluate(_FRAMES)} + 5")


async def _still(page: Page) -> None:
    """Nothing comes any more, as soon as what was on its way is here."""
    await page.evaluate(
        f"""async () => {{
            for (let tries = 0, before = -1; tries < 20; tries += 1) {{
                const now = await {_PACKETS};
                if (now === before) return;
                before = now;
                await new Promise((resolve) => setTimeout(resolve, {STILL_MS}));
            }}
            throw new Error("packets go on coming");
        }}"""
    )


async def test_hold_stops_everything_and_lets_it_flow_again(
    context: BrowserContext, system: System, project: Project
) -> None:
    alice = await _client(context, project.origin, system.urls[0], "alice-on-hold")
    bob = await _client(context, project.origin, system.urls[1], "bob-on-hold")
    await alice.evaluate(
        "async () => { window.call = await client.call('bob-on-hold', { audio: true, video: false }); }"
    )
    await _until(alice, "call.state === 'connected'")
    await _until(bob, "window.call?.state === 'connected'")  # it may not have heard of the call yet
    await bob.evaluate("call.addVideo()")
    await _flows(alice)
    await alice.evaluate("call.hold()")
    for page in (alice, bob):
        await _still(page)
    await alice.evaluate("call.addVideo()")  # kept back as well
    await _still(bob)
    assert await alice.evaluate("call.onHold") and await alice.evaluate("call.state") == "connected"
    await alice.evaluate("call.hold(false)")
    for page in (alice, bob):
        await _flows(page)
    await bob.evaluate("call.hangup()")
    await _until(alice, "call.state === 'ended'")
