"""Published keys: rotated, withdrawn, away, oversized, and asked for by whoever likes to."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt
import pytest

from services.gateway.auth.jwks_client import DOCUMENT_MAX_BYTES, MISSED_MAX, JwksClient
from services.gateway.auth.jwt_verifier import InvalidToken, Key, Verifier
from shared.errors import Unavailable
from tests.support.issuer import Issuer, Pair, claims, hs256

AGAIN = 0.2
ONE, TWO = Pair("RS256", "one"), Pair("ES256", "two")


@asynccontextmanager
async def reading(
    issuer: Issuer, *, refresh: float = 60, again: float = AGAIN, missed_max: int = MISSED_MAX
) -> AsyncIterator[JwksClient]:
    keys = JwksClient(issuer.url, refresh=refresh, again=again, missed_max=missed_max)
    keys.start()
    try:
        yield keys
    finally:
        await keys.stop()


async def gone(keys: JwksClient, kid: str) -> None:
    """Wait until a key does not count any more."""
    async with asyncio.timeout(5):
        while True:
            try:
                if await keys.key(kid) is None:
                    return
            except Unavailable:
                pass  # nobody has looked yet
            await asyncio.sleep(0.02)


async def has(keys: JwksClient, kid: str | None) -> Key | None:
    """The key; there may be none to ask yet, or not so soon again."""
    async with asyncio.timeout(5):
        while True:
            try:
                if (found := await keys.key(kid)) is not None:
                    return found
            except Unavailable:
                pass
            await asyncio.sleep(0.02)


async def test_keys_by_their_id_each_with_its_own_algorithm() -> None:
    async with Issuer(ONE, TWO).running() as issuer, reading(issuer) as keys:
        verifier = Verifier(keys)
        for pair in (ONE, TWO):
            assert (await verifier.verify(pair.sign(claims()))).user == "alice"
        with pytest.raises(InvalidToken, match="wrong algorithm"):
            await verifier.verify(ONE.sign(claims(), kid="two"))
        with pytest.raises(InvalidToken, match="wrong algorithm"):
            await verifier.verify(hs256(claims(), ONE.pem, kid="one"))
        with pytest.raises(Unavailable):
            await verifier.verify(ONE.sign(claims(), kid="three"))
        await asyncio.sleep(AGAIN)
        with pytest.raises(InvalidToken, match="unknown key"):
            await verifier.verify(ONE.sign(claims(), kid="three"))


async def test_a_token_without_an_id_needs_a_single_key() -> None:
    nameless = jwt.encode(claims(), ONE.private, algorithm="RS256")
    async with Issuer(ONE).running() as issuer, reading(issuer) as keys:
        assert (await Verifier(keys).verify(nameless)).user == "alice"
    async with Issuer(ONE, TWO).running() as issuer, reading(issuer) as keys:
        assert await has(keys, "one")
        with pytest.raises(InvalidToken, match="unknown key"):
            await Verifier(keys).verify(nameless)


async def test_a_key_newer_than_the_last_read_is_not_unknown() -> None:
    """An issuer may sign with a key the moment it has published it; so a client may come before the next look."""
    async with Issuer(ONE).running() as issuer, reading(issuer, again=0.5) as keys:
        verifier = Verifier(keys)
        assert await has(keys, "one")
        issuer.pairs = (ONE, TWO)
        with pytest.raises(Unavailable) as told:
            await verifier.verify(TWO.sign(claims()))
        wait = told.value.retry_after_ms
        assert told.value.retryable and wait is not None and 0 < wait <= 500
        assert issuer.asked == 1, "tokens do not make it look sooner"
        await asyncio.sleep(wait / 1000)
        assert (await verifier.verify(TWO.sign(claims()))).user == "alice"


async def test_a_missing_key_is_unknown_until_the_next_read() -> None:
    async with Issuer(ONE).running() as issuer, reading(issuer, again=0.3) as keys:
        verifier = Verifier(keys)
        assert await has(keys, "one")
        await asyncio.sleep(0.3)
        for _ in range(3):
            with pytest.raises(InvalidToken, match="unknown key"):
                await verifier.verify(TWO.sign(claims()))
        assert issuer.asked == 2
        with pytest.raises(Unavailable):
            await verifier.verify(TWO.sign(claims(), kid="another"))
        issuer.pairs = (TWO,)
        assert await has(keys, "two")


async def test_a_missing_key_is_unknown_although_reads_on_demand_are_rare() -> None:
    """Keys that are read more often than tokens may ask for."""
    async with Issuer(ONE).running() as issuer, reading(issuer, refresh=0.2, again=60) as keys:
        assert await has(keys, "one")
        async with asyncio.timeout(3):
            await gone(keys, "two")
            await gone(keys, "two")
            issuer.pairs = (TWO,)
            await gone(keys, "one")


async def test_a_running_read_does_not_answer_later_ids() -> None:
    async with Issuer(ONE).running() as issuer, reading(issuer, again=0.2) as keys:
        assert await has(keys, "one")
        await asyncio.sleep(0.2)
        issuer.delay = 0.2
        first = asyncio.create_task(keys.key("x"))
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable):
            await keys.key("y")
        assert await first is None


async def test_missing_ids_are_bounded() -> None:
    async with Issuer(ONE).running() as issuer, reading(issuer, again=0.1, missed_max=1) as keys:
        assert await has(keys, "one")
        for n in range(5):
            await asyncio.sleep(0.12)
            assert await keys.key(f"x{n}") is None
        assert len(keys._missed) == 1


async def test_a_new_key_counts_at_once_and_a_withdrawn_one_until_the_next_read() -> None:
    async with Issuer(ONE).running() as issuer, reading(issuer, refresh=0.5) as keys:
        assert await has(keys, "one")
        issuer.pairs = (TWO,)
        assert await has(keys, "two")
        await gone(keys, "one")


async def test_without_the_issuer_the_cached_keys_count() -> None:
    issuer = Issuer(ONE)
    async with issuer.running():
        keys = JwksClient(issuer.url, refresh=0.1, again=0.1)
        keys.start()
        assert await has(keys, "one")
    try:
        async with asyncio.timeout(5):
            while True:  # until it has noticed
                try:
                    assert await keys.key("two") is None
                except Unavailable:
                    break
                await asyncio.sleep(0.02)
        assert await keys.key("one"), "known before"
        issuer.pairs = (ONE, TWO)
        async with issuer.running():
            assert await has(keys, "two"), "and it is asked again"
    finally:
        await keys.stop()


async def test_without_keys_tokens_are_unavailable() -> None:
    issuer = Issuer(ONE)
    async with issuer.running():
        pass
    async with reading(issuer) as keys:
        with pytest.raises(Unavailable):
            await keys.key("one")


@pytest.mark.parametrize(
    "document",
    [
        b"", b"null", b"[]", b'{"keys": {}}', b'{"keys": []}', b"[" * 100_000,
        json.dumps({"keys": [ONE.jwk()]}).encode() + b" " * DOCUMENT_MAX_BYTES,
        json.dumps({"keys": [None, 7, {}, {"kty": "RSA", "n": "x"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "one"},
                             {**ONE.jwk(), "use": "enc"}, {**ONE.jwk(), "alg": "RS512"}]}).encode(),
    ],
    ids=["empty", "null", "list", "object", "none", "deep", "large", "useless"],
)  # fmt: skip
async def test_a_malformed_jwks_changes_no_key(document: bytes) -> None:
    issuer = Issuer(ONE)
    issuer.document = document
    async with issuer.running(), reading(issuer, refresh=0.1, again=0.05) as keys:
        with pytest.raises(Unavailable):
            await keys.key("one")
        issuer.document = None
        assert await has(keys, "one")
        issuer.document, asked = document, issuer.asked
        async with asyncio.timeout(5):
            while issuer.asked < asked + 3:
                await asyncio.sleep(0.02)
        assert await keys.key("one")


async def test_a_failed_response_counts_as_an_outage() -> None:
    issuer = Issuer(ONE)
    issuer.status = 500
    async with issuer.running(), reading(issuer) as keys:
        with pytest.raises(Unavailable):
            await keys.key("one")


async def test_unknown_keys_do_not_increase_reads() -> None:
    async with Issuer(ONE).running() as issuer, reading(issuer, again=0.5) as keys:
        assert await has(keys, "one")
        before, begun = issuer.asked, asyncio.get_running_loop().time()
        for n in range(20):
            asked = (keys.key(f"{n}-{m}") for m in range(50))
            for said in await asyncio.gather(*asked, return_exceptions=True):
                assert said is None or isinstance(said, Unavailable)
        looks = (asyncio.get_running_loop().time() - begun) / 0.5 + 1
        assert issuer.asked - before <= looks
        assert await keys.key("one")
