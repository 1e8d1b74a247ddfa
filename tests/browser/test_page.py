"""What holds for the page in every state: who may use it, and what may run in it."""

import asyncio
import secrets
import time
from pathlib import Path

import jwt
from playwright.async_api import Browser, expect

from tests.browser.people import People, Person, browser, talk
from tests.browser.system import System
from tests.support.service_process import REPOSITORY

AXE = Path(REPOSITORY) / "web" / "client" / "node_modules" / "axe-core" / "axe.min.js"


async def _violations(person: Person) -> list[str]:
    """What axe-core finds serious or critical, light and dark."""
    await person.page.evaluate(AXE.read_text())
    violations = []
    # Only the colours are different in the dark.
    for scheme, only in (("light", ""), ("dark", ", runOnly: ['color-contrast']")):
        await person.page.emulate_media(color_scheme=scheme)
        found = await person.page.evaluate(f"axe.run(document, {{resultTypes: ['violations']{only}}})")
        violations += [
            f"{scheme}: {one['id']}: {node['target']} {node['failureSummary']}"
            for one in found["violations"]
            for node in one["nodes"]
            if one["impact"] in ("serious", "critical")
        ]
    return violations


async def test_nothing_keeps_anybody_out(people: People) -> None:
    alice = await people.person("alice", sign_in=False)
    await alice.page.goto(people.urls[0])
    assert await _violations(alice) == []
    await alice.sign_in(people.urls[0])
    bob = await people.person("bob", gateway=1)
    await alice.add(bob)
    await bob.add(alice)
    await expect(alice.page.get_by_role("list", name="Contacts")).to_contain_text("Online")
    await alice.click("Developer log")
    assert await _violations(alice) == []
    await alice.click("Close the developer log")
    await talk(alice, bob)
    await bob.click("Devices")
    assert await _violations(bob) == []
    await alice.click("Hang up")
    await bob.ended("hung up")
    assert await _violations(alice) == []


async def test_nobody_answers(people: People) -> None:
    alice, bob = await people.pair()
    await alice.dial(bob, "audio")
    await bob.rung_by(alice)
    assert await _violations(bob) == []  # while there is time
    await alice.ended(f"{bob.name} didn’t answer")
    await expect(bob.dialog).to_be_hidden()
    await expect(bob.page.get_by_role("list", name="Recent calls")).to_contain_text("Missed audio")
    assert await _violations(bob) == []


async def test_the_keyboard_is_enough(people: People) -> None:
    alice = await people.person("alice", sign_in=False)
    await alice.page.goto(people.urls[0])
    await alice.page.keyboard.type(alice.name)
    await alice.page.keyboard.press("Enter")
    bob = await people.person("bob", gateway=1)
    await expect(alice.page.get_by_label("Name of a contact to add")).to_be_focused()
    await alice.page.keyboard.type(bob.name)
    await alice.page.keyboard.press("Enter")
    for _ in range(3):  # the button to add, then two of the contact
        await alice.page.keyboard.press("Tab")
    await expect(alice.page.get_by_role("button", name=f"Call {bob.name} by video")).to_be_focused()
    await alice.page.keyboard.press("Enter")
    await bob.rung_by(alice)
    await bob.page.keyboard.press("Escape")
    await expect(bob.page.get_by_role("button", name="Accept")).to_be_focused()
    await bob.page.keyboard.press("Enter")
    await alice.connected()
    await expect(alice.page.get_by_role("button", name="Hang up")).to_be_focused()
    await alice.page.keyboard.press("Enter")
    await bob.ended("hung up")


async def test_without_leave_to_use_the_camera(people: People) -> None:
    async with browser(granting=False) as strict:
        careful = People(strict, people.urls)
        alice, bob = await asyncio.gather(careful.person("alice"), people.person("bob", gateway=1))
        await alice.page.context.grant_permissions(["microphone"])
        await alice.add(bob)
        await alice.dial(bob)
        await bob.rung_by(alice)
        await bob.click("Accept")
        await asyncio.gather(alice.sees(), bob.hears())
        await expect(alice.page.locator("#call-banner")).to_contain_text("No access to your camera")


async def test_an_injected_script_does_not_run(people: People) -> None:
    alice = await people.person("alice")
    violated = await alice.page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
            setTimeout(() => resolve("nothing was blocked"), 5000);
            const script = document.createElement("script");
            script.textContent = "window.injected = true";
            document.body.append(script);
        })"""
    )
    assert violated == "script-src-elem"
    assert await alice.page.evaluate("window.injected") is None


async def test_the_log_shows_what_passes_and_no_secrets(people: People) -> None:
    alice, bob = await people.pair()
    await alice.click("Developer log")
    await talk(alice, bob)
    log = alice.page.get_by_role("list", name="Events, latest first")
    for event in (
        "user:join",
        "call:initiate",
        "call:accepted",
        "call:offer",
        "call:answer",
        "ice:candidate",
    ):
        await expect(log.get_by_text(event, exact=True).first).to_be_visible()
    await log.get_by_text("call:offer", exact=True).first.click()
    await expect(log.locator("details[open] pre")).to_contain_text("a=fingerprint")
    secrets = '[...document.querySelectorAll(\'#log pre\')].filter(e => /"token": "[^…]/.test(e.textContent)).length'
    assert await alice.page.evaluate(secrets) == 0


async def test_where_tokens_are_wanted_one_is_asked_for(chromium: Browser, tmp_path: Path) -> None:
    secret = secrets.token_hex(32)
    system = System(tmp_path / "up.log", gateways=1, AUTH_MODE="jwt", JWT_SECRET=secret)
    try:
        await asyncio.to_thread(system.ready)
        people = People(chromium, system.urls)
        alice = await people.person("alice", sign_in=False)
        await alice.page.goto(system.urls[0])
        field = alice.page.get_by_label("Token")
        await expect(field).to_be_hidden()
        await alice.page.get_by_label("Your name").fill(alice.name)
        await alice.click("Start")
        await expect(field).to_be_focused()
        assert await _violations(alice) == []
        for user, wrong in (("bob", "not for that name"), (alice.name, None)):
            soon = {"sub": user, "exp": int(time.time()) + 600}
            await field.fill(jwt.encode(soon, secret, algorithm="HS256"))
            await alice.click("Start")
            if wrong is not None:
                await expect(alice.page.get_by_role("alert")).to_contain_text(wrong)
        contacts = alice.page.get_by_role("heading", name="Contacts")
        await expect(contacts).to_be_visible()
        await alice.page.reload()
        await expect(contacts).to_be_visible()
        await people.leave()
    finally:
        await asyncio.to_thread(system.stop)
