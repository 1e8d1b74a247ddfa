"""Who gets in with which token, for how long, and what refusing costs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.gateway.auth import authenticator as auth
from services.gateway.auth.jwks_client import JwksClient
from shared.contracts.client import TOKEN_MAX
from tests.integration.gateway.conftest import Connect, Services, Start
from tests.support.issuer import SECRET, Issuer, Pair, claims, hs256, unsigned
from tests.support.logged import Logged
from tests.support.raw_client import RawClient

JWT = {"auth_mode": "jwt", "jwt_secret": SECRET, "jwt_leeway_seconds": 0}
Show = Callable[..., Awaitable[RawClient]]


@pytest.fixture
def show(connect: Connect) -> Show:
    """Connects with ``auth``, without joining."""

    async def one(url: str, *, auth: dict[str, Any] | None = None) -> RawClient:
        client = await connect(url)
        if auth is not None:
            await client.close()
            client.auth = auth
            await client.connect(url)
        return client

    return one


async def test_a_token_in_the_handshake_authenticates_its_user(gateway: Start, show: Show) -> None:
    url = await gateway(**JWT)
    client = await show(url, auth={"token": hs256(claims("alice", 60))})
    await client.ok("user:join", {"userId": "alice"})
    joined = await client.expect("user:joined")
    assert 55 <= joined["tokenSeconds"] <= 60
    await client.ok("user:join", {"userId": "alice"})  # once more: it is known who that is


async def test_the_token_of_the_join_precedes_that_of_the_handshake(gateway: Start, show: Show) -> None:
    url = await gateway(**JWT)
    client = await show(url, auth={"token": hs256(claims("alice", -60))})
    await client.refused("user:join", {"userId": "alice"}, code="token_expired")
    await client.ok("user:join", {"userId": "alice", "token": hs256(claims("alice"))})


async def test_an_expired_token_has_its_own_error_if_it_is_valid_otherwise(
    gateway: Start, connect: Connect, services: Services
) -> None:
    """Only then is it known that a fresh one would do; to others it says nothing about what they forged."""
    url = await gateway(**JWT, jwt_issuer="us", jwt_audience="calls", strikes_max=100)
    good: dict[str, Any] = {"iss": "us", "aud": "calls", "seconds": -5}
    client = await connect(url)

    async def refused(event: str, payload: dict[str, Any]) -> dict[str, Any]:
        return await client.refused(event, payload)

    expired = {"code": "token_expired", "message": "Token expired", "retryable": False}
    bad = {"code": "unauthorized", "message": "Unauthorized", "retryable": False}
    told = [
        (expired, hs256(claims(**good))),
        (bad, hs256(claims(**good), "another secret, just as long as ours")),
        (bad, hs256(claims("bob", **good))),
        (bad, hs256(claims(**good | {"iss": "them"}))),
        (bad, hs256(claims(**good | {"aud": "chat"}))),
        (bad, hs256(claims(**good | {"iss": None}))),
        (bad, hs256({k: v for k, v in claims(**good).items() if k != "sub"})),
        (bad, hs256(claims(**good | {"nbf": time.time() + 60}))),
        (bad, unsigned(claims(**good))),
    ]
    for error, token in told:
        assert await refused("user:join", {"userId": "alice", "token": token}) == error
    assert services.verbs() == []
    await client.ok("user:join", {"userId": "alice", "token": hs256(claims(**good | {"seconds": 60}))})
    await client.expect("user:joined")
    for error, token in told:
        assert await refused("user:refresh", {"token": token}) == error
    fresh = hs256(claims(**good | {"seconds": 600}))
    await client.ok("user:refresh", {"token": fresh})


async def test_the_handshake_token_may_be_any_json(gateway: Start, show: Show, services: Services) -> None:
    url = await gateway(**JWT)
    for shown in ({}, {"token": 7}, {"token": None}, {"token": ""}, {"token": ["x"]}, {"TOKEN": "x"}):
        client = await show(url, auth=shown)
        await client.refused("user:join", {"userId": "alice"}, code="unauthorized")
    assert "join" not in services.verbs()


async def test_a_token_whose_join_failed_authenticates_no_other_user(
    gateway: Start, connect: Connect, services: Services
) -> None:
    client = await connect(await gateway(**JWT))
    services.answers["join"] = ("rate_limited", "Too many requests")
    await client.refused("user:join", {"userId": "alice", "token": hs256(claims())}, code="rate_limited")
    del services.answers["join"]
    await client.refused("user:join", {"userId": "bob"}, code="unauthorized")
    await client.ok("user:join", {"userId": "alice"})


async def test_invalid_tokens_are_refused_alike_without_requests(
    gateway: Start, connect: Connect, services: Services
) -> None:
    url = await gateway(**JWT, jwt_issuer="us", jwt_audience="calls", strikes_max=100)
    good = {"iss": "us", "aud": "calls"}
    bad = (
        None,
        unsigned(claims(**good)),
        hs256(claims(**good), "another secret, just as long as ours"),
        hs256(claims("bob", **good)),
        hs256(claims(**good | {"iss": "them"})),
        hs256(claims(**good | {"aud": "chat"})),
        hs256(claims(nbf=time.time() + 60, **good)),
        Pair("RS256").sign(claims(**good)),
        "junk",
    )
    client = await connect(url)
    errors = []
    for token in bad:
        join = {"userId": "alice", **({} if token is None else {"token": token})}
        errors.append(await client.refused("user:join", join))
    assert errors == [{"code": "unauthorized", "message": "Unauthorized", "retryable": False}] * len(bad)
    await client.refused("user:status", {"userId": "bob"}, code="not_authenticated")
    assert services.verbs() == []
    await client.ok("user:join", {"userId": "alice", "token": hs256(claims(**good))})


async def test_a_token_that_is_too_large_is_invalid(gateway: Start, show: Show) -> None:
    url = await gateway(**JWT)
    giant = hs256(claims(padding="x" * TOKEN_MAX))
    client = await show(url, auth={"token": giant})
    await client.refused("user:join", {"userId": "alice"}, code="unauthorized")
    error = await client.refused("user:join", {"userId": "alice", "token": giant}, code="bad_request")
    assert "token" in error["message"] and "xxx" not in error["message"]


async def test_repeated_invalid_tokens_close_the_connection_and_share_a_log_line(
    gateway: Start, connect: Connect, logged: Logged
) -> None:
    url = await gateway(**JWT, strikes_max=10)
    hostile = await connect(url)
    for _ in range(50):
        await hostile.emit("user:join", {"userId": "alice", "token": "junk"})
    await hostile.expect_closed()
    assert logged.count("tokens refused") == 1 and "junk" not in logged.text()


# --- until when ---------------------------------------------------------------------------------------------------


async def joined_for(client: RawClient, seconds: float) -> None:
    token = hs256(claims("alice", seconds + 1))
    await client.ok("user:join", {"userId": "alice", "token": token})
    await client.expect("user:joined")


async def test_the_session_ends_with_the_token(gateway: Start, connect: Connect, services: Services) -> None:
    client = await connect(await gateway(**JWT))
    begun = time.time()
    await joined_for(client, 1)
    session = (await client.expect("session:expired", timeout=8))["sessionId"]
    assert time.time() - begun > 0.9
    left = await services.wait_for("leave")
    assert (left["user"], left["session"]) == ("alice", session)
    await client.expect_closed()
    assert services.verbs() == ["join", "leave"], "and its grace does not begin"


async def test_a_new_token_prolongs_the_session(gateway: Start, connect: Connect, services: Services) -> None:
    client = await connect(await gateway(**JWT))
    await joined_for(client, 1)
    ack = await client.ok("user:refresh", {"token": hs256(claims("alice", 60))})
    assert ack == {"ok": True, **await client.expect("user:refresh")} and 55 <= ack["tokenSeconds"] <= 60
    await asyncio.sleep(2.6)
    await client.ok("user:status", {"userId": "bob"})
    assert not client.closed.is_set()


async def test_an_invalid_refresh_changes_nothing(gateway: Start, connect: Connect) -> None:
    client = await connect(await gateway(**JWT))
    await joined_for(client, 1)
    for token in (hs256(claims("bob", 60)), unsigned(claims("alice", 60)), "x"):
        await client.refused("user:refresh", {"token": token}, code="unauthorized")
    await client.refused("user:refresh", {"token": hs256(claims("alice", -1))}, code="token_expired")
    await client.refused("user:refresh", {}, code="bad_request")
    await client.ok("user:status", {"userId": "bob"})
    await client.expect("session:expired", timeout=8)


async def test_a_token_that_expires_during_its_join_is_refused(
    gateway: Start, connect: Connect, services: Services
) -> None:
    """Nobody watches a socket that has not joined: what was good when it was looked at would be good for ever."""
    client = await connect(await gateway(**JWT, request_timeout_seconds=8))
    services.slow["join"] = 3.0
    join = {"userId": "alice", "token": hs256(claims("alice", 2))}
    await client.refused("user:join", join, code="token_expired")
    assert (await services.wait_for("leave"))["user"] == "alice"
    await client.refused("user:status", {"userId": "bob"}, code="not_authenticated")


async def test_a_refresh_after_expiry_is_refused(
    gateway: Start, connect: Connect, services: Services
) -> None:
    one, two = Pair("ES256", "one"), Pair("ES256", "two")
    async with Issuer(one).running() as issuer:
        client = await connect(await gateway(auth_mode="jwt", jwt_jwks_url=issuer.url, jwt_leeway_seconds=0))
        await client.ok("user:join", {"userId": "alice", "token": one.sign(claims("alice", 7))})
        await asyncio.sleep(5.1)  # so that an unknown key is asked for
        issuer.pairs, issuer.delay = (one, two), 2.6
        error = await client.refused("user:refresh", {"token": two.sign(claims("alice", 60))})
        assert error["code"] == "token_expired"
        assert client.inbox.seen("session:expired")
        await client.expect_closed()
    assert services.verbs() == ["join", "leave"]


async def test_before_the_join_there_is_nothing_to_refresh(gateway: Start, connect: Connect) -> None:
    client = await connect(await gateway(**JWT))
    await client.refused("user:refresh", {"token": hs256(claims())}, code="not_authenticated")


async def test_tokens_of_closed_sockets_are_discarded(
    gateway: Start, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[auth.Authenticator] = []
    create = auth.Authenticator.__init__

    def noted(self: auth.Authenticator, *args: Any, **more: Any) -> None:
        create(self, *args, **more)
        made.append(self)

    monkeypatch.setattr(auth.Authenticator, "__init__", noted)
    url = await gateway(**JWT)
    (door,) = made
    joined = await show(url, auth={"token": hs256(claims("alice"))})
    idle = await show(url, auth={"token": hs256(claims("alice"))})
    await joined.ok("user:join", {"userId": "alice"})
    await show(url, auth={"token": "x" * (TOKEN_MAX + 1)})
    assert len(door._shown) == 1 and len(door._until) == 1, "nor of who has joined, nor of what is too large"
    await joined.disconnect()
    await idle.tear()
    async with asyncio.timeout(5):
        while door._shown or door._until:
            await asyncio.sleep(0.02)


# --- other keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_tokens_by_public_key(gateway: Start, connect: Connect, algorithm: str) -> None:
    pair = Pair(algorithm)
    client = await connect(await gateway(auth_mode="jwt", jwt_public_key=pair.pem))
    await client.refused(
        "user:join", {"userId": "alice", "token": hs256(claims(), pair.pem)}, code="unauthorized"
    )
    await client.ok("user:join", {"userId": "alice", "token": pair.sign(claims())})


async def test_published_keys_and_joins_are_unavailable_without_them(
    gateway: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(JwksClient.__init__.__kwdefaults__, "again", 0.1)
    issuer, pair = Issuer(), Pair("ES256", "one")
    async with issuer.running():
        pass
    # It is not ready without keys, and says so; who comes nevertheless is told to come again.
    client = await connect(await gateway(wait=False, auth_mode="jwt", jwt_jwks_url=issuer.url))
    join = {"userId": "alice", "token": pair.sign(claims())}
    error = await client.refused("user:join", join, code="unavailable")
    assert error["retryable"] is True
    issuer.pairs = (pair,)
    async with issuer.running(), asyncio.timeout(10):
        while (await client.ask("user:join", join))["ok"] is not True:
            await asyncio.sleep(0.1)


# --- open -----------------------------------------------------------------------------------------------------------


async def test_auth_mode_none_ignores_tokens(gateway: Start, show: Show) -> None:
    client = await show(await gateway(), auth={"token": "x" * 20_000})
    await client.ok("user:join", {"userId": "alice", "token": "junk"})
    assert "tokenSeconds" not in await client.expect("user:joined")
    assert await client.ok("user:refresh", {"token": "junk"}) == {"ok": True}
    assert await client.expect("user:refresh") == {}


async def test_auth_mode_none_on_a_public_address_logs_a_warning(gateway: Start, logged: Logged) -> None:
    await gateway(auth_mode="none", host="0.0.0.0")
    assert "ANY CLIENT" in logged.text()


async def test_a_token_is_in_no_log(gateway: Start, connect: Connect, logged: Logged) -> None:
    client = await connect(await gateway(**JWT, log_level="debug"))
    good, bad = hs256(claims("alice", 60)), hs256(claims("alice", -60))
    await client.refused("user:join", {"userId": "alice", "token": bad})
    await client.ok("user:join", {"userId": "alice", "token": good})
    await client.refused("user:refresh", {"token": bad})
    assert logged.count("tokens refused") == 1
    for token in (good, bad):
        assert token.split(".")[2] not in logged.text()


@pytest.mark.parametrize(("max_age", "low", "high"), [(100, 95, 100), (0, 10**9 - 10, 10**9)])
async def test_a_token_is_valid_no_longer_than_its_maximum_age(
    gateway: Start, connect: Connect, max_age: int, low: int, high: int
) -> None:
    url = await gateway(**JWT, jwt_max_age_seconds=max_age)
    far = hs256(claims("alice", 10**9))
    alice = await connect(url)
    await alice.ok("user:join", {"userId": "alice", "token": far})
    assert low <= (await alice.expect("user:joined"))["tokenSeconds"] <= high
    ack = await alice.ok("user:refresh", {"token": far})
    assert low <= ack["tokenSeconds"] <= high
    bob = await connect(url)
    await bob.ok("user:join", {"userId": "bob", "token": hs256(claims("bob", 60))})
    assert (await bob.expect("user:joined"))["tokenSeconds"] <= 60


async def test_a_session_ends_with_the_maximum_age(gateway: Start, connect: Connect) -> None:
    alice = await connect(await gateway(**JWT, jwt_max_age_seconds=1))
    token = hs256(claims("alice", 10**9))
    await alice.ok("user:join", {"userId": "alice", "token": token})
    await alice.expect("user:joined")
    await alice.ok("user:join", {"userId": "alice"})  # shows nothing, and prolongs nothing
    await alice.expect("session:expired", timeout=5)
