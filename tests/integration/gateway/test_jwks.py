"""Published keys: rotated, withdrawn, away, oversized, and asked for by whoever likes to."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt
import pytest

from services.gateway import jwks as module
from services.gateway.jwks import Jwks
from services.gateway.tokens import Key, Refused, Verifier
from shared.errors import Unavailable
from tests.support.issuer import Issuer, Pair, claims, hs256

AGAIN = 0.2
ONE, TWO = Pair("RS256", "one"), Pair("ES256", "two")


@asynccontextmanager
async def reading(issuer: Issuer, *, refresh: float = 60, again: float = AGAIN) -> AsyncIterator[Jwks]:
    keys = Jwks(issuer.url, refresh=refresh, again=again)
    keys.start()
    try:
        yield keys
    finally:
        await keys.stop()


async def gone(keys: Jwks, kid: str) -> None:
    """Wait until a key does not count any more."""
    async with asyncio.timeout(5):
        while await keys.key(kid) is not None:
            await asyncio.sleep(0.02)


async def has(keys: Jwks, kid: str | None) -> Key | None:
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
        with pytest.raises(Refused, match="wrong algorithm"):
            await verifier.verify(ONE.sign(claims(), kid="two"))
        with pytest.raises(Refused, match="wrong algorithm"):
            await verifier.verify(hs256(claims(), ONE.pem, kid="one"))
        with pytest.raises(Refused, match="unknown key"):
            await verifier.verify(ONE.sign(claims(), kid="three"))


async def test_a_token_without_an_id_needs_a_single_key() -> None:
    nameless = jwt.encode(claims(), ONE.private, algorithm="RS256")
    async with Issuer(ONE).running() as issuer, reading(issuer) as keys:
        assert (await Verifier(keys).verify(nameless)).user == "alice"
    async with Issuer(ONE, TWO).running() as issuer, reading(issuer) as keys:
        with pytest.raises(Refused, match="unknown key"):
            await Verifier(keys).verify(nameless)


async def test_a_new_key_counts_as_soon_as_a_token_names_it_and_a_withdrawn_one_until_the_next_look() -> None:
    async with Issuer(ONE).running() as issuer, reading(issuer, refresh=0.5) as keys:
        assert await has(keys, "one")
        issuer.pairs = (TWO,)
        assert await has(keys, "two")
        await gone(keys, "one")


async def test_while_the_issuer_is_away_what_was_known_counts() -> None:
    issuer = Issuer(ONE)
    async with issuer.running():
        keys = Jwks(issuer.url, refresh=0.1, again=0.1)
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


async def test_without_any_key_it_cannot_be_said() -> None:
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
        json.dumps({"keys": [ONE.jwk()]}).encode() + b" " * module.DOCUMENT_MAX_BYTES,
        json.dumps({"keys": [None, 7, {}, {"kty": "RSA", "n": "x"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "one"},
                             {**ONE.jwk(), "use": "enc"}, {**ONE.jwk(), "alg": "RS512"}]}).encode(),
    ],
    ids=["empty", "null", "list", "object", "none", "deep", "large", "useless"],
)  # fmt: skip
async def test_what_is_no_jwks_gives_no_key_and_takes_none_away(document: bytes) -> None:
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


async def test_an_answer_that_is_none_counts_as_away() -> None:
    issuer = Issuer(ONE)
    issuer.status = 500
    async with issuer.running(), reading(issuer) as keys:
        with pytest.raises(Unavailable):
            await keys.key("one")


async def test_tokens_that_name_unknown_keys_do_not_make_it_ask_more_often() -> None:
    async with Issuer(ONE).running() as issuer, reading(issuer, again=0.5) as keys:
        assert await has(keys, "one")
        before, begun = issuer.asked, asyncio.get_running_loop().time()
        for n in range(20):
            assert await asyncio.gather(*(keys.key(f"{n}-{m}") for m in range(50))) == [None] * 50
        looks = (asyncio.get_running_loop().time() - begun) / 0.5 + 1
        assert issuer.asked - before <= looks
        assert await keys.key("one")
