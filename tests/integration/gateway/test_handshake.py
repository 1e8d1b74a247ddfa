"""Joining in the handshake: what ``auth`` may hold, and what it must not change."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest

from tests.integration.gateway.conftest import GATEWAY, Connect, Services, Start
from tests.support.issuer import SECRET, claims, hs256
from tests.support.raw_client import RawClient

CALL = "abcdefghijklmnopqrstuv"
RESUME = {"sessionId": "s", "token": "t", "lastSeq": 7}


async def _open(connect: Connect, url: str, auth: Any) -> RawClient:
    """A client that shows ``auth`` and sends nothing else."""
    return await connect(url, auth=auth)


async def test_it_joins(gateway: Start, connect: Connect, services: Services) -> None:
    auth = {"userId": "alice", "deviceId": "d", "resume": RESUME, "token": "x", "theme": {"dark": True}}
    alice = await _open(connect, await gateway(), auth)
    joined = await alice.expect("user:joined")
    assert (joined["userId"], joined["socketId"]) == ("alice", alice.socket_id)
    request = await services.wait_for("join")
    said = {
        key: request[key] for key in ("user", "gateway", "socket", "device", "resumeSession", "resumeToken")
    }
    assert said == {
        "user": "alice", "gateway": GATEWAY, "socket": alice.socket_id, "device": "d", "resumeSession": "s",
        "resumeToken": "t",
    }  # fmt: skip
    await alice.ok("user:status", {"userId": "bob"})


@pytest.mark.parametrize(
    ("auth", "field"),
    [
        ({"userId": ""}, ""),
        ({"userId": 7}, "userId"),
        ({"userId": ["alice"]}, "userId"),
        ({"userId": "a\nb"}, "userId"),
        ({"userId": "x" * 129}, "userId"),
        ({"userId": "alice", "deviceId": 7}, "deviceId"),
        ({"userId": "alice", "token": {}}, "token"),
        ({"userId": "alice", "token": "x" * 9000}, "token"),
        ({"userId": "alice", "resume": "s"}, "resume"),
        ({"userId": "alice", "resume": {"sessionId": "s", "token": "t"}}, "resume.lastSeq"),
    ],
)
async def test_a_wrong_value_is_an_error_and_no_more(
    gateway: Start, connect: Connect, services: Services, auth: dict[str, Any], field: str
) -> None:
    alice = await _open(connect, await gateway(), auth)
    error = await alice.expect("error")
    assert error["event"] == "user:join" and error["retryable"] is False
    if field:
        assert error["code"] == "bad_request" and error["message"].startswith(f"{field}: ")
    else:
        assert error["code"] == "user_id_required"
    await alice.refused("user:status", {"userId": "bob"}, code="not_authenticated")
    assert "join" not in services.verbs()
    await alice.join("alice")
    await alice.quiet()


@pytest.mark.parametrize(
    "auth",
    [
        None, {}, {"token": "x"}, {"token": 7}, {"userId": None}, {"userID": "alice", "user": {"id": 7}},
        {"pid": "p", "offset": "o"}, {"resume": RESUME, "deviceId": []}, {"list": [{}, []], "": None},
    ],
    ids=str,
)  # fmt: skip
async def test_an_auth_without_a_user_asks_for_nothing(
    gateway: Start, connect: Connect, services: Services, auth: Any
) -> None:
    alice = await _open(connect, await gateway(), auth)
    await alice.refused("user:status", {"userId": "bob"}, code="not_authenticated")
    assert "join" not in services.verbs()
    await alice.join("alice")
    await alice.quiet()


async def test_the_event_counts_if_there_are_both(
    gateway: Start, connect: Connect, services: Services
) -> None:
    alice = await _open(connect, await gateway(), {"userId": "alice", "deviceId": "old"})
    await alice.ok("user:join", {"userId": "alice", "deviceId": "new"})
    for _ in range(2):
        await alice.expect("user:joined", userId="alice")
    devices = [request.get("device") for verb, request in services.asked if verb == "join"]
    assert devices == ["old", "new"]
    await alice.refused("user:join", {"userId": "bob"}, code="unauthorized")
    await alice.ok("user:status", {"userId": "bob"})


async def test_nothing_comes_before_it(gateway: Start, connect: Connect, services: Services) -> None:
    """What follows in the same breath waits for a join that takes long, also what may take the short way."""
    services.slow["join"] = 0.3
    alice = RawClient("alice")
    try:
        await alice.open(await gateway())
        candidate = {"candidate": {"candidate": "c"}, "from": "alice", "to": "bob", "callId": CALL}
        frames = [
            '40{"userId":"alice"}',
            f'420["call:end",{{"callId":"{CALL}"}}]',
            *[f'42["ice:candidate",{json.dumps(candidate, separators=(",", ":"))}]'] * 3,
            '421["user:status",{"userId":"bob"}]',
        ]
        for frame in frames:
            await alice.send(frame)
        await alice.expect("user:joined")
        await alice.expect("user:status", userId="bob")
        assert services.verbs()[:2] == ["join", "end"]
        assert not alice.inbox.seen("error", code="not_authenticated")
    finally:
        await alice.close()


async def test_nothing_comes_before_it_in_one_polling_request(gateway: Start, services: Services) -> None:
    services.slow["join"] = 0.3
    url = f"{await gateway()}/socket.io/?EIO=4&transport=polling"
    async with aiohttp.ClientSession() as http:
        opened = await (await http.get(url)).text()
        url += f"&sid={json.loads(opened[1:])['sid']}"
        body = f'40{{"userId":"alice"}}\x1e420["call:end",{{"callId":"{CALL}"}}]'
        assert (await http.post(url, data=body)).status == 200
        told = ""
        async with asyncio.timeout(10):
            while "430[" not in told:
                told += await (await http.get(url)).text() + "\x1e"
    packets = [packet[:16] for packet in told.split("\x1e") if packet]
    assert packets[0].startswith("40{") and packets[1].startswith('42["user:joined"'), packets
    assert services.verbs()[:2] == ["join", "end"] and "not_authenticated" not in told


async def test_presence_is_away(gateway: Start, connect: Connect, services: Services) -> None:
    services.slow["join"] = 2.0
    alice = await _open(connect, await gateway(), {"userId": "alice"})
    error = await alice.expect("error")
    assert (error["code"], error["event"], error["retryable"]) == ("unavailable", "user:join", True)
    services.slow.clear()
    await alice.join("alice")


async def test_who_does_not_get_in_is_sent_away_in_time(gateway: Start, connect: Connect) -> None:
    url = await gateway(join_timeout_seconds=1)
    alice = await _open(connect, url, {"userId": "alice"})
    eve = await _open(connect, url, {"userId": 7})
    await eve.expect("error")
    began = time.monotonic()
    await eve.expect_closed(5)
    assert time.monotonic() - began < 4
    await asyncio.sleep(0.5)
    assert not alice.closed.is_set()
    await alice.ok("user:status", {"userId": "bob"})


async def test_tokens(gateway: Start, connect: Connect) -> None:
    url = await gateway(auth_mode="jwt", jwt_secret=SECRET)
    good = hs256(claims("alice"))
    alice = await _open(connect, url, {"userId": "alice", "token": good})
    assert (await alice.expect("user:joined"))["tokenSeconds"] > 0
    for auth in ({"userId": "bob", "token": good}, {"userId": "alice"}, {"userId": "alice", "token": "x"}):
        eve = await _open(connect, url, auth)
        error = await eve.expect("error")
        assert (error["code"], error["event"]) == ("unauthorized", "user:join")
        await eve.refused("user:status", {"userId": "bob"}, code="not_authenticated")
        await eve.ok("user:join", {"userId": "alice", "token": good})
        await eve.expect("user:joined")


async def test_joins_are_limited_alike(gateway: Start, connect: Connect) -> None:
    """Connections of a user at one gateway, however they join."""
    url = await gateway(connections_per_user=2)
    for _ in range(2):
        await (await _open(connect, url, {"userId": "alice"})).expect("user:joined")
    third = await _open(connect, url, {"userId": "alice"})
    error = await third.expect("error")
    assert (error["code"], error["event"]) == ("rate_limited", "user:join")
