"""Verify JSON Web Tokens. No I/O.

The key decides the algorithm, never the token: a public key is never used as a secret, and a token without a
signature (``none``) is invalid.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from shared.contracts.client import TOKEN_MAX

SECRET_MIN_BYTES = 32
RSA_MIN_BITS = 2048


class KeyUnusable(Exception):
    """Raised if the key cannot be used; the text says why."""


class InvalidToken(Exception):
    """Raised if the token is invalid. The text says why in a few fixed words, for logs and not for the client."""


class ExpiredToken(InvalidToken):
    """Raised if the token has expired; signature, issuer and audience are valid. ``user``: its user."""

    def __init__(self, user: str) -> None:
        super().__init__("expired")
        self.user = user


class Claims(NamedTuple):
    """Claims of a valid token: its user, and when it expires (ms since the epoch, leeway included)."""

    user: str
    until: int


@dataclass(frozen=True, slots=True)
class SecretKey:
    """Verifies with a secret that issuer and gateway share."""

    secret: str
    algorithm: ClassVar[str] = "HS256"

    @classmethod
    def of(cls, secret: str) -> "SecretKey":
        """Return the key. Raises :class:`KeyUnusable` if the secret is too short, or is a PEM key."""
        if "-----BEGIN" in secret:
            raise KeyUnusable("must be a secret, not a PEM key")
        if len(secret.encode()) < SECRET_MIN_BYTES:
            raise KeyUnusable(f"must have {SECRET_MIN_BYTES} bytes or more")
        return cls(secret)

    @property
    def material(self) -> Any:
        """Return the key as PyJWT takes it."""
        return self.secret


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Verifies with a public key; its type decides the algorithm."""

    material: Any
    algorithm: str

    @classmethod
    def of(cls, key: object) -> "PublicKey":
        """Return the key. Raises :class:`KeyUnusable` for an unsupported type or size."""
        match key:
            case rsa.RSAPublicKey() if key.key_size < RSA_MIN_BITS:
                raise KeyUnusable(f"must be an RSA key of {RSA_MIN_BITS} bits or more")
            case rsa.RSAPublicKey():
                return cls(key, "RS256")
            case ec.EllipticCurvePublicKey() if key.curve.name == "secp256r1":
                return cls(key, "ES256")
            case ed25519.Ed25519PublicKey():
                return cls(key, "EdDSA")
        raise KeyUnusable("must be a public key: RSA, EC on P-256, or Ed25519")

    @classmethod
    def from_pem(cls, pem: str) -> "PublicKey":
        """Return the key in a PEM text. Raises :class:`KeyUnusable`."""
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise KeyUnusable("must be a public key in PEM") from None
        return cls.of(key)


Key = SecretKey | PublicKey


class Keys(Protocol):
    """Source of keys."""

    async def key(self, kid: str | None) -> Key | None:
        """Return the key of an id. Raises :class:`shared.errors.Unavailable` if keys cannot be read."""


class SingleKey:
    """Source of one key, whatever id a token names."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def key(self, _kid: str | None) -> Key | None:
        """Return the key."""
        return self._key


class Verifier:
    """Verifies tokens. ``issuer``, ``audience``: what a token must have, empty for any. ``leeway``: in seconds."""

    def __init__(self, keys: Keys, *, issuer: str = "", audience: str = "", leeway: float = 0) -> None:
        self._keys = keys
        self._issuer = issuer or None
        self._audience = audience or None
        self._leeway = leeway

    async def verify(self, token: str) -> Claims:
        """Return the claims of a valid token.

        Raises :class:`InvalidToken`, and :class:`ExpiredToken` for one that is valid but for its time.

        Raises :class:`shared.errors.Unavailable` if the keys cannot be read.
        """
        if len(token) > TOKEN_MAX:
            raise InvalidToken("too large")
        head = _head(token)
        kid = head.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise InvalidToken("malformed")
        key = await self._keys.key(kid)
        if key is None:
            raise InvalidToken("unknown key")
        if head.get("alg") != key.algorithm:
            raise InvalidToken("wrong algorithm")
        try:
            try:
                claims = self._decoded(token, key)
            except jwt.ExpiredSignatureError:
                # PyJWT looks at the time before issuer and audience.
                raise ExpiredToken(self._decoded(token, key, expired=True)["sub"]) from None
            return Claims(claims["sub"], int((int(claims["exp"]) + self._leeway) * 1000))
        except jwt.InvalidTokenError as error:
            raise InvalidToken(_REASONS.get(type(error), "malformed")) from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            # Signed payloads that the library did not expect.
            raise InvalidToken("malformed") from None

    def _decoded(self, token: str, key: Key, *, expired: bool = False) -> dict[str, Any]:
        """Return the claims, signature verified. ``expired``: True if an expired token is accepted."""
        claims: dict[str, Any] = jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],
            issuer=self._issuer,
            audience=self._audience,
            leeway=self._leeway,
            options={
                "require": ["exp", "sub"],
                "verify_aud": self._audience is not None,
                "verify_exp": not expired,
            },
        )
        return claims


def _head(token: str) -> dict[str, Any]:
    try:
        return jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
        raise InvalidToken("malformed") from None


_REASONS: dict[type[Exception], str] = {
    jwt.InvalidSignatureError: "wrong signature",
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not valid yet",
    jwt.InvalidIssuedAtError: "not valid yet",
    jwt.InvalidIssuerError: "wrong issuer",
    jwt.InvalidAudienceError: "wrong audience",
    jwt.exceptions.InvalidSubjectError: "wrong subject",
    jwt.MissingRequiredClaimError: "claim missing",
    jwt.InvalidAlgorithmError: "wrong algorithm",
}
