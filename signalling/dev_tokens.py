"""Mint and read development tokens, for ``signalling token`` and the probe."""

import time

import jwt

from services.gateway.auth.jwt_verifier import SecretKey
from services.gateway.auth.settings import AuthSettings


class NoToken(Exception):
    """Raised if no token can be signed or read; the text says what to do."""


def mint(config: AuthSettings, user: str, seconds: int) -> str:
    """Return a token that gateways with these settings accept. Raises :class:`NoToken` without a signing key."""
    key = config.jwt_key()
    if not isinstance(key, SecretKey):
        raise NoToken(
            "needs JWT_SECRET; with JWT_PUBLIC_KEY or JWT_JWKS_URL only the owner of the private key can sign"
        )
    now = int(time.time())
    claims = {"sub": user, "iat": now, "exp": now + seconds}
    if config.jwt_issuer:
        claims["iss"] = config.jwt_issuer
    if config.jwt_audience:
        claims["aud"] = config.jwt_audience
    return jwt.encode(claims, key.secret, algorithm=key.algorithm)


def user_of(token: str) -> str:
    """Return the user that a token names, without verifying it. Raises :class:`NoToken`."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False, "verify_exp": False})["sub"])
    except (jwt.InvalidTokenError, KeyError, ValueError):
        raise NoToken("a token is no JWT with a sub") from None
