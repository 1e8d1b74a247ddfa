"""The code in docs/clients.md does what it is said to do."""

import asyncio
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser.people import FRAMES, PATIENCE_MS
from tests.browser.project import GUIDE, README, Project, code
from tests.browser.system import System
from tests.support.service_process import clean_environment

SECONDS = 20.0


@pytest.fixture(scope="module")
def apps(project: Project) -> Project:
    """The two apps of the guide, built: with the client, and with socket.io-client alone."""
    [page], [typed], [plain] = code("html"), code("ts"), code("js")
    project.write("index.html", page)
    project.write("app.ts", typed)
    project.check_types("app.ts")
    project.bundle("app.ts")
    project.write("plain.js", plain)
    project.write("entry.js", 'import { start } from "./plain.js"; window.start = start;')
    project.bundle("entry.js")
    project.write(
        "plain.html",
        '<video id="remote" autoplay playsinline></video><script src="entry.js" type="module"></script>',
    )
    return project


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser, apps: Project) -> AsyncIterator[BrowserContext]:
    context = await chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    yield context
    await context.close()


def _name(name: str) -> str:
    return f"{name}-{secrets.token_hex(2)}"


async def _app(context: BrowserContext, apps: Project, name: str) -> Page:
    page = await context.new_page()
    await page.goto(f"{apps.origin}/#{name}")
    await expect(page.locator("#state")).to_have_text("ready")
    return page


async def _plain(context: BrowserContext, apps: Project, gateway: str, name: str) -> Page:
    page = await context.new_page()
    await page.goto(f"{apps.origin}/plain.html")
    await page.wait_for_function("() => window.start !== undefined")
    await page.evaluate(
        """([url, name]) => {
            window.client = start(url, name, {
                onIncoming: (from) => new Promise((resolve) => (window.decide = resolve)),
                onRemote: (stream) => (document.querySelector("#remote").srcObject = stream),
                onEnded: (reason) => (window.reason = reason),
            });
        }""",
        [gateway, name],
    )
    return page


async def test_the_guide_says_what_to_do_in_the_order_to_do_it() -> None:
    text = GUIDE.read_text()
    order = [
        "`index.html`:",
        "`app.ts`:",
        "npm install …/web/client",
        "npx esbuild",
        "CLIENT_URL=http://localhost:5173 make up",
    ]
    at = [text.index(words) for words in order[:-1]] + [text.rindex(order[-1])]
    assert at == sorted(at)


async def _sees(page: Page) -> None:
    await page.wait_for_function(f"() => {FRAMES} > 5", timeout=PATIENCE_MS)


async def _call(page: Page, name: str) -> None:
    await page.get_by_label("Who to call").fill(name)
    await page.get_by_role("button", name="Call", exact=True).click()


async def test_the_app_with_the_client(context: BrowserContext, apps: Project) -> None:
    bobs = _name("bob")
    alice, bob = await _app(context, apps, _name("alice")), await _app(context, apps, bobs)
    await _call(alice, _name("nobody"))
    await expect(alice.locator("#state")).to_contain_text("user_not_found")
    await _call(alice, bobs)
    await expect(bob.locator("#state")).to_contain_text("is calling")
    await expect(alice.locator("#state")).to_have_text("ringing")
    await bob.get_by_role("button", name="Decline").click()
    await expect(alice.locator("#state")).to_have_text(f"rejected, {bobs}")
    await _call(alice, bobs)
    await bob.get_by_role("button", name="Accept").click()
    await expect(bob.get_by_role("button", name="Decline")).to_be_hidden()
    for page in (alice, bob):
        await expect(page.locator("#state")).to_have_text("connected")
        await _sees(page)
    await bob.get_by_role("button", name="Hang up").click()
    await expect(alice.locator("#state")).to_have_text(f"hangup, {bobs}")


async def test_a_plain_socketio_client_calls_and_is_called(
    context: BrowserContext, apps: Project, system: System
) -> None:
    url = system.urls[1]
    alices, carols = _name("alice"), _name("carol")
    alice, carol = await _app(context, apps, alices), await _plain(context, apps, url, carols)
    await _call(alice, carols)
    await carol.wait_for_function("() => window.decide !== undefined")
    await carol.evaluate("decide(true)")
    for page in (alice, carol):
        await _sees(page)
    await alice.get_by_role("button", name="Hang up").click()
    await carol.wait_for_function("() => window.reason === 'hangup'")
    await carol.evaluate("name => client.call(name)", alices)
    await expect(alice.locator("#state")).to_contain_text("is calling")
    await alice.get_by_role("button", name="Accept").click()
    await expect(alice.locator("#state")).to_have_text("connected")
    for page in (alice, carol):
        await _sees(page)
    await carol.evaluate("client.hangup()")
    await expect(alice.locator("#state")).to_have_text(f"hangup, {carols}")


async def test_the_python_client(context: BrowserContext, apps: Project) -> None:
    [snippet] = code("python")
    apps.write("secretary.py", snippet)
    running = subprocess.Popen(
        [sys.executable, str(apps.folder / "secretary.py")],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        assert "'ok': True" in await asyncio.wait_for(asyncio.to_thread(running.stdout.readline), SECONDS)
        alices = _name("alice")
        alice = await _app(context, apps, alices)
        await _call(alice, "secretary")
        await expect(alice.locator("#state")).to_have_text("not_now, secretary")
        assert (
            await asyncio.wait_for(asyncio.to_thread(running.stdout.readline), SECONDS) == f"{alices} calls\n"
        )
    finally:
        running.kill()
        running.communicate(timeout=SECONDS)


async def test_the_call_in_the_readme(apps: Project) -> None:
    [snippet] = code("python", README)
    apps.write("readme.py", snippet)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(apps.folder / "readme.py")],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    told = [line.split(" {")[0] for line in done.stdout.splitlines()]
    for line in (
        "bob   <- call:incoming",
        "alice <- call:accepted",
        "bob   <- call:offer",
        "bob   <- call:ended",
    ):
        assert line in told, done.stdout + done.stderr
