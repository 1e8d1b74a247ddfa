"""Who is told whether a user is online."""

import pytest

from shared.errors import Unavailable
from shared.nats.connection import Bus
from tests.integration.presence.conftest import Gateway, Start
from tests.support.policy import PolicyService


async def test_everyone_sees_the_status_without_a_policy_request(
    bus: Bus, presence: Start, gw1: Gateway
) -> None:
    service = PolicyService()
    await service.answer(bus.client)
    service.blocked.add(("ann", "bob"))
    await presence()
    await gw1.join("bob", "s1")
    assert await gw1.status("bob", asker="ann") == (True, False)
    assert service.asked == []


async def test_only_contacts_see_the_status(bus: Bus, presence: Start, gw1: Gateway) -> None:
    service = PolicyService()
    await service.answer(bus.client)
    service.blocked |= {("ann", "bob"), ("ann", "nobody"), ("bob", "bob")}
    await presence(status_visibility="contacts")
    await gw1.join("bob", "s1")
    assert await gw1.status("bob", asker="ann") == await gw1.status("nobody", asker="ann") == (False, False)
    assert await gw1.status("bob", asker="cem") == (True, False)
    assert service.asked == [
        ("may_see", {"asker": asker, "user": user})
        for asker, user in (("ann", "bob"), ("ann", "nobody"), ("cem", "bob"))
    ]
    assert await gw1.status("bob", asker="bob") == (True, False), "all know of themselves"


async def test_without_a_policy_reply_the_user_is_offline(presence: Start, gw1: Gateway) -> None:
    await presence(status_visibility="contacts")
    await gw1.join("bob", "s1")
    with pytest.raises(Unavailable):
        await gw1.status("bob", asker="ann")
    assert await gw1.status("bob", asker="bob") == (True, False)
