"""Mint ids, and encode foreign ones for NATS subjects and keys."""

import os
import re
from binascii import b2a_base64
from collections.abc import Iterator
from functools import lru_cache

_SAFE = re.compile(r"[A-Za-z0-9_-]+")
_SAFE_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_ESCAPED = re.compile(rb"=([0-9A-F]{2})")


def new_id() -> str:
    """Return a fresh id of 128 random bits: 22 characters of ``[A-Za-z0-9_-]``, safe in subjects and keys as it is."""
    return b2a_base64(os.urandom(16), newline=False)[:22].translate(_URL_SAFE).decode()


def random_tokens() -> Iterator[str]:
    """Yield subject tokens of 64 random bits each: 16 characters. One system call serves 128 of them."""
    while True:
        block = os.urandom(1024).hex()
        for start in range(0, len(block), 16):
            yield block[start : start + 16]


def could_be_minted(text: str) -> bool:
    """Return True if a text from a client may be an id of ours. Any other names nothing and needs no look-up."""
    return len(text) <= 64 and _SAFE.fullmatch(text) is not None


@lru_cache(maxsize=16_384)
def encode(text: str) -> str:
    """Encode any text as one subject token (or key part).

    Bytes of the UTF-8 form outside ``[A-Za-z0-9_-]`` become ``=XX``; ``user123`` stays readable. The mapping is
    one to one, so two different texts never share a subject. A character can take up to 12 bytes.

    Raises ``ValueError`` for an empty text or one with a lone surrogate.
    """
    if _SAFE.fullmatch(text):
        return text
    if not text:
        raise ValueError("an empty text has no token")
    return "".join(chr(b) if b in _SAFE_BYTES else f"={b:02X}" for b in text.encode("utf-8"))


@lru_cache(maxsize=16_384)
def decode(token: str) -> str:
    """Return the text that :func:`encode` encodes as ``token``. Raises ``ValueError`` if there is none."""
    if _SAFE.fullmatch(token):
        return token
    text = _ESCAPED.sub(lambda m: bytes([int(m[1], 16)]), token.encode("ascii")).decode("utf-8")
    if encode(text) != token:
        raise ValueError("not an encoded token")
    return text
