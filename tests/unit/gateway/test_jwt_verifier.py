"""Tokens: the good ones, and every way in which one can be bad."""

import base64
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.gateway.auth.jwt_verifier import (
    InvalidToken,
    KeyUnusable,
    PublicKey,
    SecretKey,
    SingleKey,
    Verifier,
)
from shared.contracts.client import TOKEN_MAX
from tests.support.issuer import ALGORITHMS, SECRET, Pair, claims, hs256, unsigned

PAIRS = {name: Pair(name) for name in ALGORITHMS}


def verifier(key: str = "HS256", **options: Any) -> Verifier:
    known = SecretKey.of(SECRET) if key == "HS256" else PublicKey.from_pem(PAIRS[key].pem)
    return Verifier(SingleKey(known), **options)


def sign(key: str, says: dict[str, Any]) -> str:
    return hs256(says) if key == "HS256" else PAIRS[key].sign(says)


@pytest.mark.parametrize("key", ["HS256", *ALGORITHMS])
async def test_a_valid_token_has_user_and_expiry(key: str) -> None:
    says = claims("alice", 60)
    assert await verifier(key, leeway=5).verify(sign(key, says)) == ("alice", (says["exp"] + 5) * 1000)


async def refused(token: str, why: str, key: str = "HS256", **options: Any) -> None:
    with pytest.raises(InvalidToken) as raised:
        await verifier(key, **options).verify(token)
    assert str(raised.value) == why


@pytest.mark.parametrize("key", ["HS256", *ALGORITHMS])
@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS384", "RS512", "PS256", "ES256K"])
async def test_an_algorithm_other_than_the_keys_is_refused(key: str, algorithm: str) -> None:
    for signature in ("", "A" * 43):
        await refused(unsigned(claims(), algorithm, signature), "wrong algorithm", key)


@pytest.mark.parametrize("key", ALGORITHMS)
async def test_a_public_key_is_no_secret(key: str) -> None:
    """Whoever can read the public key could sign, if the token said how it is to be checked."""
    pem = PAIRS[key].pem
    for secret in (pem, pem.strip(), pem.replace("\n", "")):
        await refused(hs256(claims(), secret), "wrong algorithm", key)


@pytest.mark.parametrize("key", ALGORITHMS)
async def test_a_token_of_another_key_type_is_refused(key: str) -> None:
    for other in ALGORITHMS:
        if other != key:
            await refused(PAIRS[other].sign(claims()), "wrong algorithm", key)
    await refused(PAIRS[key].sign(claims()), "wrong algorithm", "HS256")


@pytest.mark.parametrize("key", ["HS256", *ALGORITHMS])
async def test_a_signature_is_by_the_key_and_over_all(key: str) -> None:
    forged = (
        hs256(claims(), "another secret, just as long as ours")
        if key == "HS256"
        else Pair(key).sign(claims())
    )
    await refused(forged, "wrong signature", key)
    head, _, rest = sign(key, claims("alice")).partition(".")
    other = sign(key, claims("mallory")).split(".")[1]
    await refused(f"{head}.{other}.{rest.partition('.')[2]}", "wrong signature", key)


async def test_a_key_in_a_token_is_ignored() -> None:
    mallory = Pair("RS256")
    for head in ({"jwk": mallory.jwk()}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}):
        await refused(mallory.sign(claims(), **head), "wrong signature", "RS256")


async def test_unknown_critical_headers_are_refused() -> None:
    for head in (
        {"crit": ["x"], "x": 1},
        {"crit": "x"},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"b64": False},
    ):
        await refused(hs256(claims(), **head), "malformed")


async def test_required_claims() -> None:
    good = claims()
    await refused(hs256({"sub": "alice"}), "claim missing")
    await refused(hs256({"exp": good["exp"]}), "claim missing")
    await refused(hs256({**good, "exp": None}), "claim missing")
    for subject in (7, True, ["alice"], {"a": "alice"}):
        await refused(hs256({**good, "sub": subject}), "wrong subject")


@pytest.mark.parametrize("at", ["soon", [], {}, float("inf"), float("nan"), 10**400])
async def test_an_invalid_expiry_is_refused(at: object) -> None:
    await refused(hs256({**claims(), "exp": at}), "malformed", leeway=0.5)


async def test_times_are_checked_with_leeway() -> None:
    now = time.time()
    await refused(hs256(claims(seconds=-6)), "expired", leeway=5)
    await refused(hs256(claims(seconds=0)), "expired")
    assert await verifier(leeway=5).verify(hs256(claims(seconds=-2)))
    for name in ("nbf", "iat"):
        await refused(hs256(claims(**{name: now + 9})), "not valid yet", leeway=5)
        assert await verifier(leeway=5).verify(hs256(claims(**{name: now + 2})))


async def test_issuer_and_audience_are_checked_where_they_are_set() -> None:
    strict = {"issuer": "https://id.example", "audience": "calls"}
    good = {"iss": "https://id.example", "aud": "calls"}
    assert await verifier(**strict).verify(hs256(claims(**good)))
    assert await verifier(**strict).verify(hs256(claims(**{**good, "aud": ["calls", "chat"]})))
    for wrong in ("https://id.example/", "https://evil.example", ["https://id.example"], ""):
        with pytest.raises(InvalidToken):
            await verifier(**strict).verify(hs256(claims(**{**good, "iss": wrong})))
    for wrong in ("chat", ["chat"], [], "Calls", {"calls": 1}):
        with pytest.raises(InvalidToken):
            await verifier(**strict).verify(hs256(claims(**{**good, "aud": wrong})))
    await refused(hs256(claims(aud="calls")), "claim missing", **strict)
    await refused(hs256(claims(iss="https://id.example")), "claim missing", **strict)
    assert await verifier().verify(hs256(claims(iss="anybody", aud="anything")))


def _nested(depth: int) -> str:
    return base64.urlsafe_b64encode(b'{"alg":"HS256","x":' + b"[" * depth).decode().rstrip("=")


@pytest.mark.parametrize(
    "token",
    [
        "", ".", "..", "...", "a.b.c", "\ud800.\ud800.\ud800", "é.é.é", "a" * 8000, _nested(5000) + ".e30.x",
        hs256(claims()).rpartition(".")[0], hs256(claims()) + ".x", hs256({}, kid=7), hs256({}, kid=["k1"]),
        "bnVsbA.e30.x", "W10.e30.x", hs256(claims()).replace(".", ".."),
    ],
    ids=len,  # by themselves they would have the time in their names
)  # fmt: skip
async def test_malformed_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        await verifier().verify(token)


async def test_a_token_that_is_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    token = hs256(claims(padding="x" * TOKEN_MAX))
    monkeypatch.setattr(jwt, "get_unverified_header", lambda _: pytest.fail("read"))
    await refused(token, "too large")


@pytest.mark.parametrize(
    "payload", [b"[" * 2500 + b"]" * 2500, b'{"sub":' + b"[" * 2500, b"", b"null", b"\xff"]
)
async def test_a_signed_payload_that_is_malformed_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidToken):
        await verifier().verify(hs256(payload))


# --- keys ---------------------------------------------------------------------------------------------------------


def _pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        ("", "PEM"),
        ("-----BEGIN PUBLIC KEY-----\nxx\n-----END PUBLIC KEY-----", "PEM"),
        (PAIRS["ES256"].private_pem, "PEM"),
        (_pem(rsa.generate_private_key(65537, 1024)), "2048"),
        (_pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
    ],
)
def test_unsupported_key_types_are_refused(pem: str, why: str) -> None:
    with pytest.raises(KeyUnusable, match=why):
        PublicKey.from_pem(pem)


def test_a_secret_is_long_and_not_a_pem_key() -> None:
    with pytest.raises(KeyUnusable, match="32 bytes"):
        SecretKey.of("x" * 31)
    with pytest.raises(KeyUnusable, match="PEM"):
        SecretKey.of(PAIRS["RS256"].pem)
