"""What the client does that the page has no button for, as installed by somebody else."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page

from tests.browser.people import PATIENCE_MS
from tests.browser.project import Project
from tests.browser.system import System
from tests.support.service_process import REPOSITORY

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
    # Playwright's own waits take the promise of an answer for the answer.
    await page.evaluate(
        f"""async () => {{
            for (const end = Date.now() + {PATIENCE_MS}; Date.now() < end; ) {{
                if ({condition}) return;
                await new Promise((resolve) => setTimeout(resolve, 50));
            }}
            throw new Error({condition!r} + " is still not so");
        }}"""
    )


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
    await alice.evaluate("() => { window.call = client.call('bob-on-hold', { audio: true, video: false }); }")
    await _until(alice, "call.state === 'connected'")
    await _until(bob, "window.call?.state === 'connected'")  # it may not have heard of the call yet
    await bob.evaluate("call.addVideo()")
    await _flows(alice)
    live = "call.local.getTracks().length"
    tracks = await alice.evaluate_handle("call.local.getTracks()")
    await alice.evaluate("call.hold()")
    assert await tracks.evaluate("tracks => tracks.map(track => track.readyState)") == ["ended"]
    assert await alice.evaluate(live) == 0
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


_USES = """{how}
const client = new lib.SignallingClient({{ url: "http://localhost", userId: "alice" }});
if (typeof client.join !== "function" || typeof client.off !== "function" || typeof client.once !== "function") {{
    throw new Error("no client");
}}
client.leave();
"""


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("required.cjs", 'const lib = require("@hellotalk/signalling-client");'),
        ("imported.mjs", 'import * as lib from "@hellotalk/signalling-client";'),
        (
            "later.cjs",
            '(async () => { const lib = await import("@hellotalk/signalling-client"); lib.Call.name; })();',
        ),
    ],
)
async def test_it_can_be_required_and_imported(project: Project, name: str, how: str) -> None:
    project.write(name, how if name == "later.cjs" else _USES.format(how=how))
    project.node(name)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("types.cts", 'import lib = require("@hellotalk/signalling-client");'),
        ("types.mts", 'import * as lib from "@hellotalk/signalling-client";'),
    ],
)
async def test_it_has_types_for_both(project: Project, name: str, how: str) -> None:
    project.write(
        name,
        f"""{how}
        const client = new lib.SignallingClient({{ url: "", userId: "alice" }});
        const signal = new AbortController().signal;
        const call = client.call("bob", {{ audio: true, video: false }}, undefined, {{ signal }});
        const off: () => void = call.once("ended", ({{ reason }}) => reason.length);
        client.off("incoming", () => off());
        // @ts-expect-error what is internal is in no declaration
        call.finish("", "");
        """,
    )
    project.check_types(name, "--module", "node16", "--moduleResolution", "node16", "--skipLibCheck")


async def test_the_package_says_what_it_is(project: Project) -> None:
    package = json.loads((project.package / "package.json").read_text())
    assert package["engines"]["node"] and package["repository"]["directory"] == "web/client"
    assert (project.package / "LICENSE").read_bytes() == (REPOSITORY / "LICENSE").read_bytes()
    declared = [path.read_text() for path in (project.package / "dist").rglob("*.d.ts")]
    assert declared and not any("@internal" in text for text in declared)
