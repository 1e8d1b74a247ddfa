"""User ids that look like another user's, because of characters that nobody sees."""

import pytest

from tests.integration.gateway.conftest import Connect, Services, Start

INVISIBLE = [0x61C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
EMOJI = (
    "\U0001f469\u200d\U0001f467",
    "\U0001f469\U0001f3fd\u200d\U0001f680",
    "\u2764\ufe0f\u200d\U0001f525",
    "\U0001f3f3\ufe0f\u200d\u26a7\ufe0f",
    "\U0001f642\u200d\u2194\ufe0f",
)


async def test_ids_that_look_like_another_are_refused(
    gateway: Start, connect: Connect, services: Services
) -> None:
    client = await connect(await gateway(strikes_max=1000))
    joiners = [
        "\u200d",
        "\U0001f469\u200d",
        "\u200d\U0001f469",
        "a\u200d\U0001f469",
        "\U0001f469\u200d\u200d\U0001f469",
    ]
    for user in [f"ali{chr(code)}ce" for code in INVISIBLE] + joiners:
        error = await client.refused("user:join", {"userId": user}, code="bad_request")
        assert error["message"].startswith("userId: must not contain bidirectional"), ascii(user)
    assert services.verbs() == []
    await client.join("alice")
    await client.ok("user:status", {"userId": "ali\u200bce"})  # who is there from before can be reached


@pytest.mark.parametrize("user", [*EMOJI, "\u0645\u0631\u062d\u0628\u0627", "a\u0308"], ids=ascii)
async def test_visible_ids_may_join(gateway: Start, connect: Connect, user: str) -> None:
    await connect(await gateway(), user)


async def test_invisible_characters_can_be_allowed(gateway: Start, connect: Connect) -> None:
    await connect(await gateway(user_id_invisible="allow"), "ali\u200bce")
