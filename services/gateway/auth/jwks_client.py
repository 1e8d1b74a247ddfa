"""The keys that an issuer publishes: read now and then, kept while it cannot be reached."""

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
"""Least time between two looks, whatever tokens ask for: a token can name any key."""
DOCUMENT_MAX_BYTES = 256 * 1024
KEYS_MAX = 100
MISSED_MAX = 1_000
"""Ids of keys that are remembered not to be there."""


class JwksClient:
    """Keys by id, from ``url``. An id that it has not looked for yet makes it look, at most every ``again`` seconds.

    While the issuer is away, the keys known last count. ``refresh``: seconds after which all are read anew.
    """

    def __init__(self, url: str, *, refresh: float, again: float = AGAIN_SECONDS) -> None:
        self._url = url
        self._refresh = refresh
        self._again = again
        self._keys: dict[str | None, Key] | None = None
        self._current = False
        """Whether the last look succeeded."""
        self._wanted: set[str | None] = set()
        """Ids asked for in vain since the last look began."""
        self._missed: set[str | None] = set()
        """Ids that the last look was for, in vain."""
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._ticks = PeriodicTask("jwks", self._pause, self._look, at_once=True)
        self._told = LogThrottle(lambda why: log.warning("keys of tokens not read", url=url, why=why))

    def start(self) -> None:
        """Read the keys, now and from then on."""
        self._ticks.start()

    async def stop(self) -> None:
        """Stop reading."""
        await self._ticks.stop()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self._told.stop()

    async def key(self, kid: str | None) -> Key | None:
        """Return the key of this id; without one, the key if there is only one. ``None`` for one that is not there.

        Raises :class:`Unavailable` if that cannot be said yet: the issuer is away, or was asked too recently for
        another key to be asked again. A key is used at once by those who sign, so it may be newer than the last look.
        """
        if (found := self._known(kid)) is not None:
            return found
        if kid is None and self._current and self._keys:
            return None  # it has to name one of several
        if len(self._wanted) < MISSED_MAX:
            self._wanted.add(kid)
        await self._look(soon=True)
        if (found := self._known(kid)) is not None:
            return found
        if not self._current:
            raise Unavailable
        if kid in self._missed:
            return None
        wait = self._looked_at + self._again - asyncio.get_running_loop().time()
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

    async def _look(self, *, soon: bool = False) -> None:
        """Read the keys; all who want that at one time wait for one look. ``soon``: not if it was just done."""
        loop = asyncio.get_running_loop()
        if self._looking is None or self._looking.done():
            if soon and loop.time() - self._looked_at < self._again:
                return
            self._looking = asyncio.create_task(self._read())
        await asyncio.shield(self._looking)

    async def _read(self) -> None:
        # Who asks while this is under way is not answered by it: what it reads may be older than a new key.
        wanted, self._wanted = self._wanted, set()
        try:
            self._keys, self._current = _keys(await self._fetch()), True
            self._missed = wanted
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._current = False
            self._told.note(type(error).__name__)
        finally:
            self._looked_at = asyncio.get_running_loop().time()

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
    """The keys of a JWKS that can sign tokens here. Raises ``ValueError`` where it is none, or has none."""
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
    """A key for signatures, of a kind taken here. A secret (``oct``) is not: whoever reads it could sign."""
    if entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    try:
        key = PublicKey.of(jwt.PyJWK.from_dict(entry).key)
    except (jwt.PyJWTError, KeyUnusable, ValueError, TypeError, KeyError):
        return None
    return key if entry.get("alg", key.algorithm) == key.algorithm else None
