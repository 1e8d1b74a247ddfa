"""Tokens and policy on a whole system: published keys that rotate and go away, sessions that end, who may call whom."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from shared.contracts.client import TOKEN_MAX
from signalling.nats_users import POLICY
from tests.support.client import Client
from tests.support.cluster import Cluster
from tests.support.issuer import SECRET, Issuer, Pair, claims, hs256, unsigned
from tests.support.node_client import NodeDriver
from tests.support.scenario import Stage, end, talk
from tests.support.service_process import REPOSITORY, clean_environment

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

IDENTITY = {"iss": "https://id.example", "aud": "calls"}
SECONDS = 15.0


class System(NamedTuple):
    """Two gateways that know one issuer's keys, and the example of a policy service with its file."""

    cluster: Cluster
    issuer: Issuer
    pairs: tuple[Pair, Pair]
    blocked: Path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("auth")
    pairs = Pair("RS256", "one"), Pair("ES256", "two")
    issuer = Issuer(pairs[0])
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(issuer.running())
        cluster = Cluster(
            folder,
            gateways=2,
            AUTH_MODE="jwt",
            JWT_JWKS_URL=issuer.url,
            JWT_JWKS_REFRESH_SECONDS="1",
            JWT_ISSUER=IDENTITY["iss"],
            JWT_AUDIENCE=IDENTITY["aud"],
            JWT_LEEWAY_SECONDS="0",
            STRIKES_MAX="1000",
            POLICY="required",
            STATUS_VISIBILITY="contacts",
        )
        await cluster.start()
        stack.push_async_callback(cluster.stop)
        blocked = folder / "blocked.json"
        blocked.write_text("{}")
        env = {
            **cluster.tools_env(),
            "NATS_USER": POLICY,
            "NATS_PASSWORD": cluster.access.passwords.of(POLICY),
        }
        policy = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "examples" / "policy.py"), str(blocked)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            assert policy.stdout is not None
            assert await asyncio.wait_for(asyncio.to_thread(policy.stdout.readline), SECONDS) == b"ready\n"
            yield System(cluster, issuer, pairs, blocked)
        finally:
            policy.terminate()
            assert policy.wait(SECONDS) == 0
            policy.stdout.close()


@pytest_asyncio.fixture(loop_scope="session")
async def stage(system: System, kind: str, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """Clients of every kind."""
    async for stage in Stage.on(system.cluster, kind, driver):
        yield stage


@pytest_asyncio.fixture(loop_scope="session")
async def few(system: System, driver: NodeDriver | None) -> AsyncIterator[Stage]:
    """Clients of one kind, where it does not matter which."""
    async for stage in Stage.on(system.cluster, "python-websocket", driver):
        yield stage


def good(user: str, seconds: float = 60, **more: Any) -> dict[str, Any]:
    """What a token says that these gateways take."""
    return claims(user, seconds, **{**IDENTITY, **more})


async def enter(system: System, stage: Stage, name: str, seconds: float = 60) -> Client:
    """A user who has joined with the token of its connection."""
    user = stage.id(name)
    client = await stage.socket(name, auth={"token": system.pairs[0].sign(good(user, seconds))})
    await client.join(user)
    return client


async def test_with_tokens_a_call_is_a_call(system: System, stage: Stage) -> None:
    alice, bob = await enter(system, stage, "alice"), await enter(system, stage, "bob")
    call = await talk(alice, bob)
    await end(alice, bob, call=call)


@pytest.mark.parametrize("kind", ["node-polling", "python-websocket"], indirect=True)
async def test_a_session_ends_with_its_token_unless_there_is_a_fresh_one(
    system: System, stage: Stage
) -> None:
    alice, bob = await enter(system, stage, "alice", seconds=3), await enter(system, stage, "bob", seconds=3)
    call = await talk(alice, bob)
    ack = await alice.ok("user:refresh", {"token": system.pairs[0].sign(good(alice.user, 60))})
    assert (await alice.expect("user:refresh"))["tokenSeconds"] == ack["tokenSeconds"] >= 55
    await bob.refused(
        "user:refresh", {"token": system.pairs[0].sign(good(alice.user, 60))}, code="unauthorized"
    )
    assert (await bob.expect("session:expired", timeout=8))["sessionId"] == bob.session
    await alice.expect("call:ended", callId=call, reason="connection_lost")
    await bob.expect_closed()
    assert not alice.closed.is_set()
    await alice.ok("user:status", {"userId": bob.user})
    assert (await alice.expect("user:status", userId=bob.user))["isOnline"] is False
    bob.user = ""


async def test_a_session_in_its_grace_is_its_users_and_takes_a_good_token(system: System, few: Stage) -> None:
    """Its user may come back with a fresh token after the one that it began with has ended, and nobody else."""
    pair, user = system.pairs[0], few.id("alice")
    token = pair.sign(good(user, 3))
    alice = await few.socket("alice", gateway=0, auth={"token": token})
    joined = await alice.join(user)
    resume = {"sessionId": joined["sessionId"], "token": joined["resume"]["token"], "lastSeq": joined["seq"]}
    await alice.tear()
    mallory = few.id("mallory")
    other = await few.socket("mallory", gateway=1, auth={"token": pair.sign(good(mallory))})
    theirs = await other.join(mallory, resume=resume)
    assert theirs["sessionId"] != joined["sessionId"] and theirs["resumed"] is False
    assert theirs["userId"] == mallory
    await other.refused("user:join", {"userId": user, "resume": resume}, code="unauthorized")
    again = await few.socket("alice", gateway=1, auth={"token": pair.sign(good(mallory))})
    await again.refused("user:join", {"userId": user, "resume": resume}, code="unauthorized")
    await asyncio.sleep(3.2)
    late = {"userId": user, "resume": resume, "token": token}
    await again.refused("user:join", late, code="token_expired")
    back = await again.join(user, resume=resume, token=pair.sign(good(user, 60)))
    assert back["sessionId"] == joined["sessionId"] and back["resumed"] is True
    again.user = user


async def test_every_way_to_be_somebody_else_is_refused(system: System, few: Stage) -> None:
    ours, user = system.pairs[0], few.id("alice")
    mallory = Pair("RS256", ours.kid)
    bad = {
        "nothing": None,
        "none": unsigned(good(user)),
        "None": unsigned(good(user), "None"),
        "the public key as a secret": hs256(good(user), ours.pem, kid=ours.kid),
        "another's key": mallory.sign(good(user)),
        "a key brought along": mallory.sign(good(user), jwk=mallory.jwk()),
        "a key elsewhere": mallory.sign(good(user), jku="http://127.0.0.1:1/jwks.json"),
        "unknown kid": mallory.sign(good(user), kid="three"),
        "kid as a path": mallory.sign(good(user), kid="../../../../dev/null"),
        "another audience": ours.sign(good(user, aud="chat")),
        "another issuer": ours.sign(good(user, iss="https://evil.example")),
        "another subject": ours.sign(good(few.id("bob"))),
        "no subject": ours.sign({k: v for k, v in good(user).items() if k != "sub"}),
        "expired": ours.sign(good(user, -2)),
        "not yet": ours.sign(good(user, nbf=int(time.time()) + 60)),
        "no end": ours.sign({k: v for k, v in good(user).items() if k != "exp"}),
        "giant": ours.sign(good(user, padding="x" * TOKEN_MAX)),
        "junk": "e30.e30.e30",
    }
    errors = {}
    for name, token in bad.items():
        client = await few.socket(name, auth=None if token is None else {"token": token})
        while (error := await client.refused("user:join", {"userId": user}))["code"] == "unavailable":
            assert "kid" in name, "only a key may be newer than the last look"
            await asyncio.sleep(0.3)
        errors[name] = error
    wrong = {"code": "unauthorized", "message": "Unauthorized", "retryable": False}
    expired = {"code": "token_expired", "message": "Token expired", "retryable": False}
    assert errors == {**dict.fromkeys(bad, wrong), "expired": expired}
    assert await system.cluster.sessions() == []
    assert (await enter(system, few, "alice")).session


async def test_keys_rotate_and_may_be_away(system: System, few: Stage) -> None:
    one, two = system.pairs

    async def join(pair: Pair, gateway: int = 0) -> dict[str, Any]:
        client = await few.socket(pair.kid, gateway=gateway)
        answer = await client.ask(
            "user:join", {"userId": few.id(pair.kid), "token": pair.sign(good(few.id(pair.kid)))}
        )
        if answer["ok"]:
            client.user = few.id(pair.kid)
            await client.expect("user:joined")
            return {}
        await client.expect("error")
        error: dict[str, Any] = answer["error"]
        return error

    async def until(pair: Pair, code: str | None, gateway: int = 0) -> None:
        async with asyncio.timeout(SECONDS):
            while (await join(pair, gateway)).get("code") != code:
                await asyncio.sleep(0.2)

    assert await join(one) == {}
    system.issuer.pairs = (two,)
    try:
        await until(two, None)
        await until(one, "unauthorized")
        system.issuer.status = 503
        await until(one, "unavailable")
        assert await join(two) == {}, "what was known counts while the issuer is away"
    finally:
        system.issuer.pairs, system.issuer.status = (one,), 200
    for gateway in (0, 1):
        await until(one, None, gateway)  # each looks for itself; the next test may be on either


async def test_who_is_blocked_finds_nobody(system: System, few: Stage) -> None:
    alice, bob = await enter(system, few, "alice"), await enter(system, few, "bob")
    ring = {"to": bob.user, "callType": "audio"}
    nobody = await alice.refused("call:initiate", {**ring, "to": few.id("nobody")}, code="user_not_found")
    system.blocked.write_text(json.dumps({bob.user: [alice.user]}))
    try:
        assert await alice.refused("call:initiate", ring) == nobody
        for user in (bob.user, few.id("nobody")):
            status = await alice.ok("user:status", {"userId": user})
            assert status == {"ok": True, "userId": user, "isOnline": False, "isInCall": False}
            await alice.expect("user:status", userId=user)
        await end(bob, alice, call=await talk(bob, alice))
    finally:
        system.blocked.write_text("{}")
    await end(alice, bob, call=await talk(alice, bob))


# --- the operator's tools ---------------------------------------------------------------------------------------------


async def signalling(*arguments: str, status: int = 0, **env: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "signalling", *arguments],
        cwd=REPOSITORY,
        env={**clean_environment(), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == status, done.stdout.decode() + done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return (done.stdout or done.stderr).decode().strip()


async def test_the_probe_shows_the_tokens_it_is_given(system: System) -> None:
    url, pair = system.cluster.gateways[0].url, system.pairs[0]
    given = [pair.sign(good(f"probe-{n}")) for n in range(2)]
    assert await signalling("probe", "--url", url, PROBE_TOKENS=" ".join(given))
    assert "unauthorized" in await signalling("probe", "--url", url, status=1)
    assert "needs two" in await signalling("probe", "--url", url, "--token", given[0], status=2)
    assert "no JWT" in await signalling("probe", "--token", "junk", "--token", "junk", status=1)


async def test_development_tokens_open_a_gateway_with_the_same_secret(
    tmp_path: Path, system: System, driver: NodeDriver | None
) -> None:
    settings = {"AUTH_MODE": "jwt", "JWT_SECRET": SECRET, "JWT_ISSUER": "us", "JWT_AUDIENCE": "calls"}
    cluster = Cluster(tmp_path, **settings)
    await cluster.start()
    try:
        async for stage in Stage.on(cluster, "python-websocket", driver):
            user = stage.id("alice")
            token = await signalling("token", "--user", user, **settings)
            client = await stage.socket("alice", auth={"token": token})
            assert 3500 < (await client.join(user))["tokenSeconds"] <= 3605
            assert json.loads(
                await signalling("probe", "--url", cluster.gateways[0].url, "--json", **settings)
            )["ok"]
    finally:
        await cluster.stop()
    assert "JWT_SECRET" in await signalling("token", "--user", "alice", status=1)
