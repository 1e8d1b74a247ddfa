"""People in front of the page: each a browser context of its own, who do what people do and see what they see."""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect

PATIENCE_MS = 20_000.0
# Not much to encode, and not much to draw, as there is no GPU.
VIEWPORT = {"width": 960, "height": 640}
ARGS = [
    "--no-sandbox",
    "--use-fake-device-for-media-stream=device-count=3,fps=10",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
]
GRANT = "--use-fake-ui-for-media-stream"
FRAMES = "document.querySelector('#remote').getVideoPlaybackQuality().totalVideoFrames"
_LEVEL = "[...document.querySelectorAll('#figures dt')].find(e => e.textContent == 'Level')"
LEVEL = f"Number({_LEVEL}?.nextSibling.textContent)"

expect.set_options(timeout=PATIENCE_MS)


def chromium() -> str | None:
    """Where Debian's Chromium is."""
    return shutil.which("chromium")


@asynccontextmanager
async def browser(*, granting: bool = True) -> AsyncIterator[Browser]:
    """A headless Chromium with a camera and a microphone that are not there; ``granting`` leave to use them."""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(
            executable_path=chromium(), args=[*ARGS, *([GRANT] if granting else [])]
        )
        yield running
        await running.close()


class Person:
    """Somebody with the page open."""

    def __init__(self, name: str, page: Page) -> None:
        self.name = name
        self.page = page
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    # --- doing ---

    async def sign_in(self, url: str, query: str = "") -> None:
        await self.page.goto(f"{url}/{query}")
        await self.page.get_by_label("Your name").fill(self.name)
        await self.page.get_by_role("button", name="Start").click()
        await expect(self.page.get_by_role("heading", name="Contacts")).to_be_visible()

    async def add(self, other: "Person") -> None:
        await self.add_name(other.name)

    async def add_name(self, name: str) -> None:
        await self.page.get_by_label("Name of a contact to add").fill(name)
        await self.page.get_by_role("button", name="Add", exact=True).click()

    async def dial(self, other: "Person", kind: str = "video") -> None:
        await self.dial_name(other.name, kind)

    async def dial_name(self, name: str, kind: str = "video") -> None:
        await self.page.get_by_role("button", name=f"Call {name} by {kind}").click()

    async def dial_at(self, other: "Person", moment_ms: float) -> None:
        """Click at that moment, ms since the epoch."""
        await self.page.get_by_role("button", name=f"Call {other.name} by video").evaluate(
            "(button, at) => setTimeout(() => button.click(), at - Date.now())", moment_ms
        )

    async def click(self, name: str) -> None:
        await self.page.get_by_role("button", name=name, exact=True).click()

    # --- seeing ---

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    @property
    def state(self) -> Locator:
        return self.page.locator("#call-state")

    async def rung_by(self, other: "Person") -> None:
        await expect(self.dialog).to_be_visible()
        await expect(self.dialog).to_contain_text(other.name)

    async def connected(self) -> None:
        await expect(self.page.get_by_role("timer")).to_contain_text(":")
        await expect(self.page.locator("#call-banner")).to_be_hidden()

    async def sees(self) -> None:
        """Frames of the other side come."""
        await self.until(f"{FRAMES} > 0")
        await self.sees_more()
        await expect(self.page.locator("#call.seen")).to_be_visible()

    async def sees_more(self) -> None:
        """More frames come than have come until now."""
        await self.until(f"{FRAMES} > {await self.page.evaluate(FRAMES)} + 5")

    async def hears(self) -> None:
        """The other side's sound comes, and is not always the same."""
        await self.until(f"{LEVEL} > 0.001")
        level = await self.page.evaluate(LEVEL)
        await self.until(f"Math.abs({LEVEL} - {level}) > 0.0001")

    async def until(self, condition: str) -> None:
        await self.page.wait_for_function(f"() => {condition}", timeout=PATIENCE_MS)

    async def ended(self, words: str) -> None:
        await expect(self.state).to_contain_text(words)


class People:
    """Everybody of one test, on names that no other test has."""

    def __init__(self, browser: Browser, urls: list[str], token: str | None = None) -> None:
        self._browser = browser
        self.urls = urls
        self._token = f"-{secrets.token_hex(2)}" if token is None else token
        self._contexts: list[BrowserContext] = []
        self.all: list[Person] = []

    async def person(
        self,
        name: str,
        *,
        gateway: int = 0,
        sign_in: bool = True,
        query: str = "",
        script: str | None = None,
        **options: Any,
    ) -> Person:
        """Somebody, signed in at the page with ``query``; ``script`` runs before the page's own."""
        context = await self._browser.new_context(**{"viewport": VIEWPORT, **options})
        self._contexts.append(context)
        if script is not None:
            await context.add_init_script(script)
        person = Person(f"{name}{self._token}", await context.new_page())
        self.all.append(person)
        if sign_in:
            await person.sign_in(self.urls[gateway], query)
        return person

    async def tab(self, of: Person, *, gateway: int = 0) -> Person:
        """One more tab of the same person."""
        person = Person(of.name, await of.page.context.new_page())
        self.all.append(person)
        await person.sign_in(self.urls[gateway])
        return person

    async def pair(self, **options: Any) -> tuple[Person, Person]:
        """Alice on one gateway and Bob on the other, each the other's contact."""
        alice, bob = await asyncio.gather(
            self.person("alice", **options), self.person("bob", gateway=len(self.urls) - 1, **options)
        )
        await asyncio.gather(alice.add(bob), bob.add(alice))
        return alice, bob

    async def leave(self) -> None:
        await asyncio.gather(*(context.close() for context in self._contexts))


async def talk(caller: Person, callee: Person, kind: str = "video") -> None:
    """A call that both are in."""
    await caller.dial(callee, kind)
    await callee.rung_by(caller)
    await callee.click("Accept")
    await asyncio.gather(caller.connected(), callee.connected())


async def see_each_other(*persons: Person) -> None:
    """Both are in the call, and frames come to both."""
    await asyncio.gather(*(person.connected() for person in persons))
    await asyncio.gather(*(person.sees() for person in persons))


async def hear_each_other(*persons: Person) -> None:
    """Sound comes to both, and is not always the same."""
    await asyncio.gather(*(person.hears() for person in persons))
