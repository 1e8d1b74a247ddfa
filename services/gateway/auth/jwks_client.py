"""Read the keys that an issuer publishes as JWKS, and cache them."""

import asyncio
import json
from typing import Any

import aiohttp
import jwt

from services.gateway.auth.jwt_verifier import Key, KeyUnusable, PublicKey
from shared.errors import Unavailable
from shared.observability import logs
from shared.observability.log_throttle import LogThrottle
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

FETCH_SECONDS = 3.0
AGAIN_SECONDS = 5.0
"""Least time between two reads, because a token can name any key."""
DOCUMENT_MAX_BYTES = 256 * 1024
KEYS_MAX = 100
MISSED_MAX = 1_000
"""Ids of keys that are kept as missing."""


class JwksClient:
    """Returns keys by id, from ``url``. An unknown id has it read the keys, every ``again`` seconds at most.

    While the issuer cannot be reached, the keys that were read last count. ``refresh``: seconds between two reads.
    ``missed_max``: ids that are kept as missing.
    """

    def __init__(
        self, url: str, *, refresh: float, again: float = AGAIN_SECONDS, missed_max: int = MISSED_MAX
    ) -> None:
        self._url = url
        self._refresh = refresh
        self._again = again
        self._missed_max = missed_max
        self._keys: dict[str | None, Key] | None = None
        self._current = False
        """True if the last read succeeded."""
        self._wanted: set[str | None] = set()
        """Unknown ids that were requested since the last read began."""
        self._missed: set[str | None] = set()
        """Ids that the last read was for, and that it did not find."""
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._ticks = PeriodicTask("jwks", self._pause, self._refresh_once, at_once=True)
        self._failures = LogThrottle(lambda why: log.warning("keys of tokens not read", url=url, why=why))

    def start(self) -> None:
        """Begin to read the keys."""
        self._ticks.start()

    async def stop(self) -> None:
        """Stop."""
        await self._ticks.stop()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._failures.stop()

    async def key(self, kid: str | None) -> Key | None:
        """Return the key of an id; without an id the key if there is only one. ``None`` if there is no such key.

        Raises :class:`Unavailable` if that is unknown: the issuer cannot be reached, or was asked too recently. Issuers
        use a new key at once, so it may be newer than the last read.
        """
        if (found := self._known(kid)) is not None:
            return found
        if kid is None and self._current and self._keys:
            return None  # the token has to name one of several keys
        if len(self._wanted) < self._missed_max:
            self._wanted.add(kid)
        await self._refresh_once(soon=True)
        if (found := self._known(kid)) is not None:
            return found
        if not self._current:
            raise Unavailable
        if kid in self._missed:
            return None
        wait = self._read_at + self._again - asyncio.get_running_loop().time()
        raise Unavailable(retry_after_ms=int(max(0.0, wait) * 1000) + 1)

    @property
    def read(self) -> bool:
        """True once keys have been read."""
        return self._keys is not None

    def _known(self, kid: str | None) -> Key | None:
        keys = self._keys or {}
        if kid is None:
            return next(iter(keys.values())) if len(keys) == 1 else None
        return keys.get(kid)

    def _pause(self) -> float:
        return self._refresh if self._current else min(self._refresh, self._again)

    async def _refresh_once(self, *, soon: bool = False) -> None:
        """Read the keys once for all waiters. ``soon``: True if a recent read is good enough."""
        loop = asyncio.get_running_loop()
        if self._reading is None or self._reading.done():
            if soon and loop.time() - self._read_at < self._again:
                return
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        # Ids that are requested during this read need another one, because a new key may be newer than what it reads.
        wanted, self._wanted = self._wanted, set()
        try:
            self._keys, self._current = _keys(await self._fetch()), True
            self._missed = wanted
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._current = False
            self._failures.note(type(error).__name__)
        finally:
            self._read_at = asyncio.get_running_loop().time()

    async def _fetch(self) -> bytes:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(self._url, allow_redirects=False, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            body = b""
            async for part in answer.content.iter_any():
                body += part
                if len(body) > DOCUMENT_MAX_BYTES:
                    raise ValueError("too large")
            return body


def _keys(document: bytes) -> dict[str | None, Key]:
    """Return the usable keys of a JWKS. Raises ``ValueError`` if it is malformed or has none."""
    try:
        entries = json.loads(document)["keys"]
    except (KeyError, TypeError, RecursionError):
        raise ValueError("not a JWKS") from None
    if not isinstance(entries, list):
        raise ValueError("not a JWKS")
    keys: dict[str | None, Key] = {}
    for entry in entries[:KEYS_MAX]:
        if isinstance(entry, dict) and (key := _key(entry)) is not None:
            kid = entry.get("kid")
            keys[kid if isinstance(kid, str) else None] = key
    if not keys:
        raise ValueError("no key for tokens in it")
    return keys


def _key(entry: dict[str, Any]) -> Key | None:
    """Return a key for signatures, ``None`` if it cannot be used. A published secret (``oct``) cannot."""
    if entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    try:
        key = PublicKey.of(jwt.PyJWK.from_dict(entry).key)
    except (jwt.PyJWTError, KeyUnusable, ValueError, TypeError, KeyError):
        return None
    return key if entry.get("alg", key.algorithm) == key.algorithm else None
