"""Hash and compare resume tokens; records of an older release have clear ones."""

import hashlib
import hmac

from shared.contracts.presence import Session

HASHED = "s1:"
"""Prefix of a stored token that is a hash. No clear token of an older release has a colon."""


def hash_token(token: str) -> str:
    """Return the hash to store of a clear token. A token has 256 random bits, so it needs no salt."""
    return HASHED + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def same(stored: str, shown: str | None) -> bool:
    """Return True if a shown token is the stored one. Compares in constant time, so that no guess is confirmed."""
    if shown is None:
        return False
    shown_as_stored = hash_token(shown) if stored.startswith(HASHED) else shown
    return hmac.compare_digest(stored.encode(), shown_as_stored.encode("utf-8", "surrogatepass"))


def hashed(session: Session) -> Session:
    """Return the session with all tokens hashed; a record of an older release has clear ones."""
    tokens = (session.resume_token, *session.spent, *session.alternates)
    if all(token.startswith(HASHED) for token in tokens):
        return session

    def as_stored(token: str) -> str:
        return token if token.startswith(HASHED) else hash_token(token)

    return session.model_copy(
        update={
            "resume_token": as_stored(session.resume_token),
            "spent": tuple(map(as_stored, session.spent)),
            "alternates": tuple(map(as_stored, session.alternates)),
        }
    )
