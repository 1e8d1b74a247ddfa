"""Calls between two browsers, through two gateways."""

import asyncio
import time

from playwright.async_api import expect

from tests.browser.people import People, hear_each_other, see_each_other, talk
from tests.browser.system import System

OWN = "document.querySelector('#self')"


async def test_a_video_call(people: People) -> None:
    alice, bob = await people.pair()
    await talk(alice, bob)
    await see_each_other(alice, bob)
    await hear_each_other(alice, bob)
    for person in (alice, bob):
        await expect(person.page.get_by_label("Your own video")).to_be_visible()
        await expect(person.page.get_by_role("img", name="connection")).to_be_visible()
    await alice.click("Hang up")
    await alice.ended("Call ended")
    await bob.ended(f"{alice.name} hung up")
    await bob.click("Close")
    await expect(bob.page.get_by_role("list", name="Recent calls")).to_contain_text("Incoming video")


async def test_video_is_added_and_the_microphone_muted(people: People) -> None:
    alice, bob = await people.pair()
    await talk(alice, bob, "audio")
    await alice.hears()
    await expect(alice.page.locator("#call.seen")).to_have_count(0)
    await bob.click("Turn camera on")
    await alice.sees()
    await alice.click("Turn camera on")
    await bob.sees()
    await bob.click("Mute microphone")
    await alice.until("Number(document.querySelector('#figures div:nth-child(6) dd').textContent) === 0")
    await bob.click("Unmute microphone")
    await alice.hears()
    await bob.click("Devices")
    cameras = bob.page.get_by_label("Camera", exact=True)
    # The second sees depths, which is no video to WebRTC.
    await expect(cameras.locator("option")).to_have_count(3)
    other = await cameras.locator("option").nth(2).get_attribute("value")
    assert await cameras.input_value() != other
    await cameras.select_option(index=2)
    await bob.until(f"{OWN}.srcObject.getVideoTracks()[0].getSettings().deviceId === '{other}'")
    own_frames = f"{OWN}.getVideoPlaybackQuality().totalVideoFrames"
    await bob.until(f"{own_frames} > {await bob.page.evaluate(own_frames)} + 5")
    await alice.sees_more()
    await bob.click("Hang up")
    await alice.ended(f"{bob.name} hung up")


async def test_declined(people: People) -> None:
    alice, bob = await people.pair()
    await alice.dial(bob, "audio")
    await bob.rung_by(alice)
    await bob.click("Decline")
    await alice.ended(f"{bob.name} declined")
    await expect(bob.dialog).to_be_hidden()


async def test_busy(people: People) -> None:
    (alice, bob), carol = await asyncio.gather(people.pair(), people.person("carol"))
    await carol.add(bob)
    await talk(alice, bob, "audio")
    await expect(carol.page.get_by_role("list", name="Contacts")).to_contain_text("In a call")
    await carol.dial(bob)
    await carol.ended(f"{bob.name} is busy")
    await alice.hears()


async def test_somebody_who_is_not_there(people: People) -> None:
    alice = await people.person("alice")
    nobody = await people.person("nobody", sign_in=False)
    await alice.add(nobody)
    await expect(alice.page.get_by_role("list", name="Contacts")).to_contain_text("Offline")
    await alice.dial(nobody)
    await alice.ended(f"{nobody.name} can’t be reached")


async def test_two_tabs_ring_and_one_answers(people: People) -> None:
    alice, bob = await people.pair()
    other = await people.tab(bob)
    await alice.dial(bob)
    await bob.rung_by(alice)
    await other.rung_by(alice)
    await other.click("Accept")
    await expect(bob.dialog).to_be_hidden()
    await expect(bob.page.locator("#notices")).to_contain_text("Answered on another device")
    await see_each_other(alice, other)


async def test_both_call_at_once(people: People) -> None:
    alice, bob = await people.pair()
    moment = (time.time() + 0.5) * 1000
    await asyncio.gather(alice.dial_at(bob, moment), bob.dial_at(alice, moment))
    await see_each_other(alice, bob)
    for person in (alice, bob):
        await expect(person.dialog).to_be_hidden()
    await bob.click("Hang up")
    await alice.ended(f"{bob.name} hung up")


async def test_a_reload_goes_on_with_the_call(people: People) -> None:
    alice, bob = await people.pair()
    await talk(alice, bob)
    await alice.click("Mute microphone")
    for person in (alice, bob):
        await person.page.reload()
        await see_each_other(alice, bob)
    await expect(alice.page.get_by_role("button", name="Unmute microphone")).to_be_visible()
    await bob.click("Hang up")
    await alice.ended(f"{bob.name} hung up")


async def test_both_reload_at_once(people: People) -> None:
    alice, bob = await people.pair()
    await talk(alice, bob)
    await asyncio.gather(alice.page.reload(), bob.page.reload())
    await see_each_other(alice, bob)
    await hear_each_other(alice, bob)


async def test_who_is_rung_reloads_and_answers(people: People) -> None:
    alice, bob = await people.pair()
    await alice.dial(bob)
    await bob.rung_by(alice)
    await bob.page.reload()
    await bob.rung_by(alice)
    await bob.click("Accept")
    await see_each_other(alice, bob)


async def test_a_gateway_is_killed(people: People, system: System) -> None:
    alice, bob = await people.pair()
    await talk(alice, bob, "audio")
    await alice.click("Turn camera on")
    await bob.sees()
    system.kill_gateway(1)
    await expect(bob.page.locator("#call-banner")).to_contain_text("The call can wait")
    await bob.sees_more()
    await bob.connected()
    await bob.click("Turn camera on")
    await alice.sees()
    await alice.click("Hang up")
    await bob.ended(f"{alice.name} hung up")
