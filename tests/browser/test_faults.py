"""What the page shows and does where something is slow, missing or in the way."""

import asyncio
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.people import People, Person, hear_each_other, see_each_other, talk
from tests.browser.system import System

# Tracks that the page was given, tones that it played, and how long it waits for a camera.
WATCH = """
window.given = []; window.tones = 0; window.delay = 0;
const media = navigator.mediaDevices;
const get = media.getUserMedia.bind(media);
media.getUserMedia = async (wanted) => {
    await new Promise((resolve) => setTimeout(resolve, window.delay));
    const stream = await get(wanted);
    window.given.push(...stream.getTracks());
    return stream;
};
const start = OscillatorNode.prototype.start;
OscillatorNode.prototype.start = function (at) { window.tones += 1; return start.call(this, at); };
"""
CAMERAS = "given.filter(track => track.kind === 'video' && track.readyState === 'live').length"
MICROPHONES = (
    "given.filter(track => track.kind === 'audio' && track.readyState === 'live' && track.enabled).length"
)
NEVER_MS = 3_000


async def _offline(person: Person, *, away: bool = True) -> None:
    await person.page.context.set_offline(away)
    await expect(person.page.locator("#link")).to_have_text("Reconnecting…" if away else "Connected")


async def _never_rung(person: Person) -> None:
    """Not now, and it has not been."""
    await asyncio.sleep(NEVER_MS / 1000)
    await expect(person.dialog).to_be_hidden()
    await expect(person.page.get_by_role("list", name="Recent calls").locator("li")).to_have_count(0)


async def test_escape_does_not_lose_an_incoming_call(people: People) -> None:
    alice, bob = await people.pair()
    await alice.dial(bob, "audio")
    await bob.rung_by(alice)
    for _ in range(4):
        await bob.page.keyboard.press("Escape")
    await bob.page.evaluate("document.querySelector('#incoming').close()")  # as a phone's back gesture does
    await bob.rung_by(alice)
    await expect(bob.page.get_by_role("button", name="Accept")).to_be_focused()
    await bob.page.keyboard.press("Enter")
    await asyncio.gather(alice.connected(), bob.connected())


async def test_a_call_dialled_offline_and_cancelled_rings_nobody(people: People) -> None:
    alice, bob = await people.pair(script=WATCH)
    await _offline(alice)
    await alice.dial(bob, "audio")
    await expect(alice.state).to_contain_text("No connection to the server")
    await asyncio.sleep(1)
    assert await alice.page.evaluate("tones") == 0
    await alice.click("Hang up")
    await alice.ended("Call cancelled")
    await _offline(alice, away=False)
    await _never_rung(bob)
    assert await alice.page.evaluate(MICROPHONES) == 0


async def test_a_call_dialled_offline_is_made_when_the_server_is_back(people: People) -> None:
    alice, bob = await people.pair(script=WATCH)
    await _offline(alice)
    await alice.dial(bob, "audio")
    await expect(alice.state).to_contain_text("No connection to the server")
    await _offline(alice, away=False)
    await bob.rung_by(alice)
    await expect(alice.state).to_have_text("Ringing…")
    await alice.until("tones > 0")


async def test_a_call_cancelled_while_the_camera_opens_rings_nobody(people: People) -> None:
    alice, bob = await people.pair(script=WATCH)
    await alice.page.evaluate("window.delay = 1500")
    await alice.dial(bob)
    await alice.click("Hang up")
    await alice.ended("Call cancelled")
    await alice.until("given.length > 0")
    await _never_rung(bob)
    assert await alice.page.evaluate(CAMERAS) == await alice.page.evaluate(MICROPHONES) == 0


async def test_a_camera_that_is_off_is_closed_and_the_peer_sees_none(people: People) -> None:
    alice, bob = await people.pair(script=WATCH)
    await talk(alice, bob)
    await see_each_other(alice, bob)
    assert await alice.page.evaluate(CAMERAS) == 1
    await alice.click("Turn camera off")
    await alice.until(f"{CAMERAS} === 0")
    await expect(bob.page.locator("#call.seen")).to_have_count(0)
    await expect(alice.page.get_by_label("Your own video")).to_be_hidden()
    await alice.click("Turn camera on")
    await bob.sees()
    await expect(alice.page.get_by_label("Your own video")).to_be_visible()
    await hear_each_other(alice, bob)


async def test_while_both_connect_the_buttons_are_what_is_so(people: People) -> None:
    # Through a TURN server that there is none of: they go on connecting.
    alice, bob = await people.pair(script=WATCH, query="?relay")
    await alice.dial(bob)
    for name in ("Mute microphone", "Turn camera off"):
        await expect(alice.page.get_by_role("button", name=name)).to_be_enabled()
    await bob.rung_by(alice)
    await bob.click("Accept")
    for person in (alice, bob):
        await expect(person.state).to_have_text("Connecting…")
        await person.click("Mute microphone")
        await person.until(f"{MICROPHONES} === 0")
        await person.click("Turn camera off")
        await person.until(f"{CAMERAS} === 0")
        await expect(person.page.get_by_role("button", name="Unmute microphone")).to_be_visible()
        await expect(person.page.get_by_role("button", name="Turn camera on")).to_be_visible()
        await person.click("Unmute microphone")
        await person.until(f"{MICROPHONES} === 1")
    await alice.click("Hang up")
    await bob.ended("hung up")


async def test_a_caller_who_reloads_is_shown_that_it_rings(people: People) -> None:
    alice, bob = await people.pair()
    await alice.dial(bob)
    await bob.rung_by(alice)
    await alice.page.reload()
    await expect(alice.state).to_have_text("Ringing…")
    await bob.click("Accept")
    await see_each_other(alice, bob)


def _statuses(page: Page) -> list[float]:
    """When each ``user:status`` was sent, from now on."""
    sent: list[float] = []

    def frame(payload: str | bytes) -> None:
        if "user:status" in str(payload):
            sent.append(asyncio.get_running_loop().time())

    page.on("websocket", lambda socket: socket.on("framesent", frame))
    return sent


async def test_many_contacts_and_a_break_do_not_flood_the_server(people: People) -> None:
    bob = await people.person("bob", gateway=1)
    alice = await people.person("alice", sign_in=False)
    names = json.dumps([*(f"friend-{n}" for n in range(60)), bob.name])
    key = json.dumps(f"contacts:{alice.name}")
    await alice.page.add_init_script(f"localStorage.setItem({key}, JSON.stringify({names}))")
    sent = _statuses(alice.page)
    await alice.sign_in(people.urls[0])
    await expect(alice.page.get_by_role("list", name="Contacts").locator("li")).to_have_count(61)
    await _offline(alice)
    await asyncio.sleep(22)
    sent.clear()
    await _offline(alice, away=False)
    await asyncio.sleep(1.5)
    assert 0 < len(sent) <= 15
    await alice.dial(bob, "audio")
    await bob.rung_by(alice)
    await expect(alice.state).to_have_text("Ringing…")
    sent.clear()
    await asyncio.sleep(4)
    assert len(sent) <= 40  # of 40 that the server allows in that time


async def test_a_server_that_is_out_of_reach_at_first_is_waited_for(people: People) -> None:
    alice = await people.person("alice", sign_in=False)
    await alice.page.goto(people.urls[0])
    await alice.page.context.set_offline(True)
    await alice.page.get_by_label("Your name").fill(alice.name)
    await alice.click("Start")
    await expect(alice.page.get_by_role("alert")).to_contain_text("out of reach. Trying again")
    await alice.page.context.set_offline(False)
    await expect(alice.page.get_by_role("heading", name="Contacts")).to_be_visible()


async def test_it_is_said_how_long_a_call_can_wait_for_the_server(chromium: Browser, tmp_path: Path) -> None:
    system = System(tmp_path / "up.log", gateways=1, RESUME_WINDOW_SECONDS="12")
    try:
        await asyncio.to_thread(system.ready)
        people = People(chromium, system.urls)
        alice, bob = await people.pair()
        await talk(alice, bob, "audio")
        await _offline(alice)
        banner = alice.page.locator("#call-banner")
        await expect(banner).to_have_text(re.compile(r"The call can wait (15|10) s for it\."))
        await expect(banner).to_have_text(re.compile(r"The call can wait 5 s for it\."))
        await expect(banner).to_contain_text("out of reach for too long. The call may be over.")
        assert "goes on" not in await alice.page.locator("body").inner_text()
        await bob.ended("The connection was lost")
        await _offline(alice, away=False)
        await alice.ended("The connection was lost")
        await people.leave()
    finally:
        await asyncio.to_thread(system.stop)


@pytest.mark.parametrize("width", [390, 320])
async def test_the_header_fits_a_phone(people: People, width: int) -> None:
    look = {"viewport": {"width": width, "height": 700}}
    alice = await people.person("alice-moreau-of-grenoble", **look)
    await _fits(alice, width)
    await _offline(alice)
    await _fits(alice, width)


async def _fits(person: Person, width: int) -> None:
    """Nothing in the header overlaps, is cut off, or is too small to hit; nothing scrolls sideways."""
    assert await person.page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = {}
    for name in (".brand", "#link", "#me", "#leave", "#drawer-open"):
        element = person.page.locator(name)
        box = await element.bounding_box()
        assert box is not None, f"{name} is not shown"
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, (name, box)
        boxes[name] = box
    across = sorted(boxes.items(), key=lambda one: one[1]["x"])
    for (left, before), (right, after) in pairwise(across):
        assert before["x"] + before["width"] <= after["x"] + 0.5, (left, before, right, after)
    for name in ("#leave", "#drawer-open"):
        assert boxes[name]["height"] >= 32 and boxes[name]["width"] >= 32


async def test_the_log_can_be_used_by_keyboard(people: People) -> None:
    alice = await people.person("alice")
    await alice.click("Developer log")
    await expect(alice.page.get_by_role("button", name="Close the developer log")).to_be_focused()
    await alice.page.keyboard.press("Tab")
    await expect(alice.page.get_by_role("list", name="Events, latest first")).to_be_focused()
    await alice.page.keyboard.press("Escape")
    await expect(alice.page.get_by_role("button", name="Developer log", exact=True)).to_be_focused()


# As after a crash: nothing is kept for the page that comes next.
FORGETS = """
const keep = Storage.prototype.setItem;
Storage.prototype.setItem = function (key, value) { if (key !== "tab") keep.call(this, key, value); };
"""


async def _comes_again(person: Person, people: People) -> None:
    """A page that is lost in a call, and another that knows nothing of it."""
    await person.page.close()
    person.page = await person.page.context.new_page()
    await person.sign_in(people.urls[0])
    await expect(person.dialog).to_contain_text("still in this call")


async def test_a_page_that_was_lost_in_a_call_is_asked_whether_to_go_on(people: People) -> None:
    alice, bob = await people.pair(script=FORGETS)
    await talk(alice, bob)
    await _comes_again(alice, people)
    await alice.page.keyboard.press("Escape")
    await alice.click("Rejoin")
    await see_each_other(alice, bob)
    await _comes_again(alice, people)
    await alice.click("End it")
    await bob.ended(f"{alice.name} hung up")
    await expect(alice.dialog).to_be_hidden()
