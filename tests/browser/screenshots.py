"""Each state of the page as an image, on a phone and on a desk, light and dark: ``make screenshots``."""

import asyncio
import sys
from pathlib import Path

from playwright.async_api import expect

from tests.browser.people import People, Person, browser, talk
from tests.browser.system import System

FOLDER = Path("screenshots")
# As if the camera had been refused.
NO_CAMERA = """
const given = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = (wanted) =>
    wanted.video ? Promise.reject(new DOMException("Permission denied", "NotAllowedError")) : given(wanted);
navigator.permissions.query = async ({ name }) => ({ state: name === "camera" ? "denied" : "granted" });
"""
SIZES = {390: 844, 1280: 800}


class _Album:
    def __init__(self, width: int, scheme: str) -> None:
        self._prefix = f"{width}-{scheme}"

    async def take(self, person: Person, name: str) -> None:
        await person.page.screenshot(path=FOLDER / f"{self._prefix}-{name}.png")


async def _states(people: People, album: _Album, width: int, scheme: str) -> None:
    look = {"viewport": {"width": width, "height": SIZES[width]}, "color_scheme": scheme}
    alice = await people.person("Alice Moreau", sign_in=False, **look)
    await alice.page.goto(people.urls[0])
    await album.take(alice, "welcome")
    await alice.sign_in(people.urls[0])
    await album.take(alice, "home-empty")
    bob = await people.person("Bob Tanaka", gateway=1, **look)
    carol = await people.person("Carol", **look)
    dave = await people.person("Dave", sign_in=False, **look)
    for other in (bob, carol, dave):
        await alice.add(other)
    await carol.add(bob)
    await bob.add(alice)
    await alice.dial(bob)
    await bob.rung_by(alice)
    await expect(alice.state).to_contain_text("Ringing")
    await album.take(alice, "calling")
    await album.take(bob, "incoming")
    await bob.click("Decline")
    await alice.ended("declined")
    await album.take(alice, "declined")
    await alice.click("Close")
    await alice.dial(dave)
    await alice.ended("reached")
    await album.take(alice, "unreachable")
    await alice.click("Close")
    await alice.dial(carol, "audio")
    await carol.rung_by(alice)
    await alice.click("Hang up")
    await expect(carol.page.locator("#recents")).to_contain_text("Missed")
    await album.take(carol, "missed")
    await alice.click("Close")
    await talk(alice, bob)
    for person in (alice, bob):
        await person.sees()
    await expect(alice.page.get_by_role("img", name="Good connection")).to_be_visible()
    await album.take(alice, "video-call")
    await carol.dial(bob)
    await carol.ended("busy")
    await album.take(carol, "busy")
    await alice.click("Devices")
    await expect(alice.page.get_by_label("Microphone", exact=True).locator("option").first).to_be_attached()
    await album.take(alice, "devices")
    await alice.click("Devices")
    await alice.click("Developer log")
    await album.take(alice, "log")
    await alice.click("Close the developer log")
    await bob.page.context.set_offline(True)
    await expect(bob.page.locator("#call-banner")).to_contain_text("can wait")
    await album.take(bob, "reconnecting")
    await bob.page.context.set_offline(False)
    await expect(bob.page.locator("#call-banner")).to_be_hidden()
    await alice.click("Hang up")
    await alice.ended("ended")
    await album.take(alice, "ended")
    await bob.ended("hung up")
    await alice.click("Close")
    await expect(alice.page.locator(".dot.online").first).to_be_visible()
    await album.take(alice, "home")
    await bob.click("Close")
    await talk(alice, bob, "audio")
    await alice.hears()
    await album.take(alice, "audio-call")
    await alice.click("Hang up")
    await alice.click("Close")
    await bob.click("Close")
    other = await people.tab(bob)
    await alice.dial(bob, "audio")
    for tab in (bob, other):
        await tab.rung_by(alice)
    await other.click("Accept")
    await expect(bob.page.locator("#notices")).to_contain_text("Answered on another device")
    await album.take(bob, "answered-elsewhere")
    await other.click("Hang up")
    for person in (alice, other):
        await person.click("Close")
    await other.click("Sign out")
    eve = await people.person("Eve", script=NO_CAMERA, **look)
    await eve.add(bob)
    await eve.dial(bob)
    await bob.rung_by(eve)
    await bob.click("Accept")
    await eve.sees()
    await expect(eve.page.locator("#call-banner")).to_contain_text("No access to your camera")
    await album.take(eve, "no-camera")
    await eve.click("Hang up")
    await eve.click("Close")
    await bob.click("Close")
    for person in (alice, bob, carol, eve):
        await person.click("Sign out")


async def main(widths: list[int]) -> None:
    system = System(FOLDER / "up.log")
    try:
        system.ready()
        async with browser() as running:
            for width in widths or SIZES:
                for scheme in ("light", "dark"):
                    people = People(running, system.urls, token="")
                    await _states(people, _Album(width, scheme), width, scheme)
                    await people.leave()
    finally:
        system.stop()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    asyncio.run(main([int(argument) for argument in sys.argv[1:]]))
