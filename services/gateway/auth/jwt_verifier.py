"""What makes a token good: who signed it, for whom, until when. It does no I/O.

Which algorithm a token may be signed with is a matter of the key, never of the token: a public key is never taken for
a secret, and what has no key (``none``) is nothing.
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
    """It cannot sign tokens here; the text says why."""


class InvalidToken(Exception):
    """The token is not good. The text says why in a few fixed words: for logs, not for who showed it."""


class ExpiredToken(InvalidToken):
    """The token is good but for its time: signature, issuer and audience are right. ``user``: whose it is."""

    def __init__(self, user: str) -> None:
        super().__init__("expired")
        self.user = user


class Claims(NamedTuple):
    """What a good token says: the user, and until when (milliseconds since the epoch, leeway included)."""

    user: str
    until: int


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A secret that both who signs and who checks have."""

    secret: str
    algorithm: ClassVar[str] = "HS256"

    @classmethod
    def of(cls, secret: str) -> "SecretKey":
        """Raises :class:`KeyUnusable` for one that can be guessed, or that is no secret."""
        if "-----BEGIN" in secret:
            raise KeyUnusable("must be a secret, not a PEM key")
        if len(secret.encode()) < SECRET_MIN_BYTES:
            raise KeyUnusable(f"must have {SECRET_MIN_BYTES} bytes or more")
        return cls(secret)

    @property
    def material(self) -> Any:
        """What PyJWT takes."""
        return self.secret


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of a pair; its kind says what signs with the other half."""

    material: Any
    algorithm: str

    @classmethod
    def of(cls, key: object) -> "PublicKey":
        """Raises :class:`KeyUnusable` for a kind or size that is not taken here."""
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
        """Raises :class:`KeyUnusable`."""
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise KeyUnusable("must be a public key in PEM") from None
        return cls.of(key)


Key = SecretKey | PublicKey


class Keys(Protocol):
    """Where keys come from."""

    async def key(self, kid: str | None) -> Key | None:
        """The key of this id. Raises :class:`shared.errors.Unavailable` where that cannot be said now."""


class SingleKey:
    """The one key that there is, whatever id a token names: what counts is whether it signed it."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def key(self, _kid: str | None) -> Key | None:
        """It."""
        return self._key


class Verifier:
    """Checks tokens. ``issuer`` and ``audience``: what a token must be from and for; ``leeway``: in seconds."""

    def __init__(self, keys: Keys, *, issuer: str = "", audience: str = "", leeway: float = 0) -> None:
        self._keys = keys
        self._issuer = issuer or None
        self._audience = audience or None
        self._leeway = leeway

    async def verify(self, token: str) -> Claims:
        """Return the claims of a valid token.

        Raises :class:`InvalidToken`, and :class:`ExpiredToken` for one that is valid but for its time.

        Raises :class:`shared.errors.Unavailable` if the keys are away.
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
            # What a library did not expect in a payload that somebody signed all the same.
            raise InvalidToken("malformed") from None

    def _decoded(self, token: str, key: Key, *, expired: bool = False) -> dict[str, Any]:
        """Return the claims, signature verified. ``expired``: True if the time does not matter."""
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
