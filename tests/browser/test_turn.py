"""Calls through a real coturn and nothing else, as somebody's network may want it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.people import People, hear_each_other, see_each_other, talk
from tests.browser.system import System
from tests.support import coturn
from tests.support.coturn import Coturn

pytestmark = pytest.mark.skipif(not coturn.installed(), reason="coturn is not installed")

_EXPIRED = """
const servers = %s;
window.refused = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(configuration) {
        super({ ...configuration, iceServers: servers });
        this.addEventListener("icecandidateerror", ({ errorCode }) => refused.push(errorCode));
        this.addEventListener("icecandidate", ({ candidate }) => candidate?.address && refused.push(candidate.address));
    }
};
"""


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    """Relays to itself, where the other side's relay is."""
    turn = Coturn(tmp_path_factory.mktemp("coturn"), "127.0.0.1")
    turn.start()
    yield turn
    turn.kill()


@pytest.fixture(scope="module")
def relaying(tmp_path_factory: pytest.TempPathFactory, turn: Coturn) -> Iterator[System]:
    """A gateway that tells its clients of it."""
    log = tmp_path_factory.mktemp("relaying") / "up.log"
    system = System(log, gateways=1, TURN_URLS=turn.url, TURN_SECRET=turn.secret)
    try:
        system.ready()
        yield system
    finally:
        system.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def people(chromium: Browser, relaying: System) -> AsyncIterator[People]:
    people = People(chromium, relaying.urls)
    yield people
    await people.leave()


async def test_a_call_goes_through_turn_and_outlives_it(people: People, turn: Coturn) -> None:
    alice, bob = await people.pair(query="?relay")
    await talk(alice, bob)
    await see_each_other(alice, bob)
    await hear_each_other(alice, bob)
    for person in (alice, bob):
        await expect(person.page.locator("#figures")).to_contain_text("relayed")
    turn.kill()
    for person in (alice, bob):
        await expect(person.page.locator("#call-banner")).to_contain_text("Reconnecting")
    turn.start()
    for person in (alice, bob):
        await person.connected()
    for person in (alice, bob):
        await person.sees_more()
    await alice.click("Hang up")
    await bob.ended(f"{alice.name} hung up")


async def test_expired_credentials_are_of_no_use(people: People, turn: Coturn) -> None:
    expired = _EXPIRED % json.dumps([turn.credentials(-1)])
    alice, bob = await asyncio.gather(
        people.person("alice", query="?relay", script=expired), people.person("bob", query="?relay")
    )
    await alice.add(bob)
    await alice.dial(bob)
    await bob.rung_by(alice)
    await bob.click("Accept")
    await alice.until("refused.length > 0")
    await expect(alice.state).to_contain_text("Connecting")
    assert set(await alice.page.evaluate("refused")) == {401}
    await alice.click("Hang up")
    await bob.ended(f"{alice.name} hung up")
