"""What a join that failed, or a socket that broke at the wrong moment, leaves behind."""

import asyncio

import pytest

from services.gateway.sessions.gateway_lease import GatewayLease
from tests.integration.gateway.conftest import Connect, Services, Start

pytestmark = pytest.mark.timeout(60)


async def test_a_failed_join_occupies_no_connection_of_its_user(
    services: Services, gateway: Start, connect: Connect
) -> None:
    """Its socket stays; another one of the same user, or the same for another user, gets in."""
    url = await gateway(connections_per_user=1)
    services.answers["join"] = ("rate_limited", "too many sessions")
    failed = await connect(url)
    for _ in range(3):
        ack = await failed.ask("user:join", {"userId": "ann"})
        assert (ack["ok"], ack["error"]["message"]) == (False, "too many sessions")
    del services.answers["join"]
    await connect(url, "ann")
    ack = await failed.ask("user:join", {"userId": "ann"})
    assert ack["error"]["message"].startswith("Too many connections"), "now there is one"
    await failed.join("bob")


async def test_a_failed_join_of_a_joined_socket_keeps_its_connection(
    services: Services, gateway: Start, connect: Connect
) -> None:
    url = await gateway(connections_per_user=1)
    ann = await connect(url, "ann")
    services.answers["join"] = ("unavailable", "not now")
    assert not (await ann.ask("user:join", {"userId": "ann"}))["ok"]
    del services.answers["join"]
    other = await connect(url)
    ack = await other.ask("user:join", {"userId": "ann"})
    assert ack["error"]["message"].startswith("Too many connections")


@pytest.mark.parametrize("answered", [True, False])
async def test_a_socket_that_breaks_during_a_reassert_is_lost(
    services: Services, gateway: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """Presence may hear first that it broke, and then that it is there: the last word must be that it broke.

    Also where presence has done it, and only its answer is lost.
    """
    monkeypatch.setitem(GatewayLease.__init__.__kwdefaults__, "renew_seconds", 0.2)
    ann = await connect(await gateway(), "ann")
    services.slow["reassert"] = 0.4
    services.answers["reassert"] = {"moved": False} if answered else {"nonsense": True}
    services.answers["renew"] = {"known": False}
    await services.wait_for("reassert")
    del services.answers["renew"]
    await ann.tear()
    await services.wait_for("lost")
    async with asyncio.timeout(5):
        while services.verbs().count("lost") < 2:
            await asyncio.sleep(0.02)
    sessions = {request["session"] for verb, request in services.asked if verb in ("lost", "reassert")}
    assert sessions == {f"s-{ann.socket_id}"}
    assert services.verbs()[-1] == "lost"


async def test_a_session_that_moved_during_a_reassert_is_replaced(
    services: Services, gateway: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GatewayLease.__init__.__kwdefaults__, "renew_seconds", 0.2)
    ann = await connect(await gateway(), "ann")
    services.answers["reassert"] = {"moved": True}
    services.answers["renew"] = {"known": False}
    await ann.expect("session:replaced")
