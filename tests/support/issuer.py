"""Somebody who signs tokens, honestly or not, and publishes the keys to them."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

SECRET = "a secret of the tests, longer than 32 bytes"
ALGORITHMS = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}


class Pair:
    """A pair of keys of a kind (``RS256``, ``ES256``, ``EdDSA``) under an id."""

    def __init__(self, algorithm: str, kid: str = "k1") -> None:
        self.algorithm = algorithm
        self.kid = kid
        self.private: Any = {
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }[algorithm]()

    @property
    def pem(self) -> str:
        """The public key."""
        key = self.private.public_key()
        return str(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())

    @property
    def private_pem(self) -> str:
        return str(self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())

    def sign(self, claims: dict[str, Any], **head: Any) -> str:
        """A token; ``head`` adds to its header, or takes from it (``kid=None``)."""
        return jwt.encode(claims, self.private, algorithm=self.algorithm, headers={"kid": self.kid, **head})

    def jwk(self) -> dict[str, Any]:
        """The public key as a JWKS has it."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        found: dict[str, Any] = json.loads(algorithm.to_jwk(self.private.public_key()))
        return {**found, "kid": self.kid, "use": "sig", "alg": self.algorithm}


def claims(user: str = "alice", seconds: float = 60, **more: Any) -> dict[str, Any]:
    """What a good token says."""
    return {"sub": user, "exp": int(time.time() + seconds), **more}


def hs256(says: dict[str, Any] | bytes, secret: str = SECRET, **head: Any) -> str:
    """A token signed with a secret, by hand: a library would not sign with whatever is asked here."""
    signed = _part({"alg": "HS256", "typ": "JWT", **head}) + "." + _part(says)
    digest = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_b64(digest)}"


def unsigned(says: dict[str, Any], algorithm: str = "none", signature: str = "") -> str:
    """A token that nobody signed."""
    return f"{_part({'alg': algorithm, 'typ': 'JWT'})}.{_part(says)}.{signature}"


def _part(value: dict[str, Any] | bytes) -> str:
    return _b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Issuer:
    """Publishes keys over HTTP. ``document`` replaces the JWKS, ``status`` its status; ``asked`` counts.

    ``delay``: seconds until it answers.
    """

    def __init__(self, *pairs: Pair) -> None:
        self.pairs = pairs
        self.asked = 0
        self.status = 200
        self.delay = 0.0
        self.document: bytes | None = None
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Issuer"]:
        """On a free port of the loopback, for as long as this lasts."""
        app = web.Application()
        app.router.add_get("/jwks.json", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        port = int(self.url.rsplit(":", 1)[1].partition("/")[0]) if self.url else 0
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/jwks.json"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(self.delay)
        body = self.document
        if body is None:
            body = json.dumps({"keys": [pair.jwk() for pair in self.pairs]}).encode()
        return web.Response(body=body, status=self.status, content_type="application/json")
