"""Resume tokens as the bucket ``sessions`` holds them: hashed, or clear in records of an older release."""

import hashlib
import hmac

from shared.contracts.presence import Session

HASHED = "s1:"
"""Prefix of a stored token that is a hash. No clear token of an older release has a colon."""


def hash_token(token: str) -> str:
    """Return what is stored of a clear token. A token has 256 random bits, so the hash needs no salt."""
    return HASHED + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def same(stored: str, shown: str | None) -> bool:
    """Compare in constant time: how much of a guess was right must not show in how long the answer takes."""
    if shown is None:
        return False
    shown_as_stored = hash_token(shown) if stored.startswith(HASHED) else shown
    return hmac.compare_digest(stored.encode(), shown_as_stored.encode("utf-8", "surrogatepass"))


def hashed(session: Session) -> Session:
    """Return the session without clear tokens, which a record of an older release has."""
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
