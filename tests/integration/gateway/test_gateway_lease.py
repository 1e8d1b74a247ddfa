"""A gateway asserts its sessions for every lease that it gets, whichever answers reach it."""

import asyncio

import pytest

from services.presence.handlers import Handlers
from services.presence.leases import Leases
from shared import subjects
from shared.clock import now_ms
from shared.contracts.presence import RenewReply, RenewRequest
from shared.errors import Late
from shared.messaging.timers import set_deadline
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from tests.integration.gateway.conftest import Connect, Services, Start, ready
from tests.integration.presence.test_grace import eventually, sessions
from tests.integration.test_metrics import System

pytestmark = pytest.mark.timeout(60)


async def test_another_lease_than_the_last_one_is_asserted_although_presence_knows_the_gateway(
    gateway: Start, services: Services, connect: Connect
) -> None:
    services.answers["renew"] = {"known": True, "since": 1}
    url = await gateway()
    await connect(url, "alice")
    await asyncio.sleep(2.5)
    assert "reassert" not in services.verbs()
    services.answers["renew"] = {"known": True, "since": 2}
    services.answers["reassert"] = {"moved": False}
    assert (await services.wait_for("reassert"))["user"] == "alice"
    await asyncio.sleep(2.5)
    assert services.verbs().count("reassert") == 1, "once for each lease"


async def test_a_lease_lost_during_a_reassert_is_reasserted_again(
    gateway: Start, services: Services, connect: Connect
) -> None:
    services.answers["renew"] = {"known": True, "since": 1}
    url = await gateway()
    await connect(url, "alice")
    services.answers["reassert"], services.slow["reassert"] = {"moved": False}, 0.3
    services.answers["renew"] = {"known": False, "since": 2}
    await services.wait_for("reassert")
    services.answers["renew"] = {"known": True, "since": 3}
    async with asyncio.timeout(8):
        while services.verbs().count("reassert") < 2:
            await asyncio.sleep(0.05)


async def test_sessions_survive_a_lost_lease_if_the_answer_that_says_so_is_lost(
    nats_url: str, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(nats_url)
    renew, armed, unanswered = Handlers.renew, False, 0

    async def first_answer_is_lost(self: Handlers, request: RenewRequest) -> RenewReply:
        nonlocal unanswered
        reply = await renew(self, request)
        if armed and not reply.known and not unanswered:
            unanswered += 1
            raise Late  # the deed is done, and its answer does not come
        return reply

    async def is_dead(self: Leases, gateway: str) -> bool:
        return True

    monkeypatch.setattr(Handlers, "renew", first_answer_is_lost)
    try:
        for name in ("callcore-1", "presence-1", "gateway-1"):
            await system.start(name, resume_window_seconds=8)
        await ready(system.urls[0])
        await system.join("alice")
        armed = True
        with monkeypatch.context() as patch:
            patch.setattr(Leases, "_is_dead", is_dead)
            await set_deadline(bus, subjects.LEASE, "gateway-1", now_ms())

            async def given_up() -> bool:
                return [s.lost_at is not None for s in await sessions(bus, "alice")] == [True]

            await eventually(given_up, 10)

        async def continued() -> bool:
            return [s.lost_at for s in await sessions(bus, "alice")] == [None]

        await eventually(continued, 7)
        lease = await Bucket(bus, subjects.BUCKET_SESSIONS).get(subjects.key_gateway("gateway-1"), fresh=True)
        assert lease.value
        assert unanswered
    finally:
        await system.stop()
