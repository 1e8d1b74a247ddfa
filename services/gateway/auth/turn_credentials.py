"""Issue ICE servers to clients, with TURN credentials that expire."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

USERNAME_MAX_BYTES = 509
"""Limit of TURN (RFC 8489, 14.3). A longer user id is cut; servers read only the time before the colon."""


class Issued(NamedTuple):
    """``servers`` in the shape of WebRTC's ``RTCIceServer``; ``expires_at`` in ms, ``None`` if they do not expire."""

    servers: list[dict[str, Any]]
    expires_at: int | None


class IceServers:
    """Issues ``static`` servers, and those of ``turn_urls`` with credentials for coturn's ``use-auth-secret``.

    ``now_ms``: the clock, in ms since the epoch.
    """

    def __init__(
        self,
        static: Sequence[dict[str, Any]],
        turn_urls: Sequence[str],
        secret: str,
        ttl_seconds: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._static = list(static)
        self._turn_urls = list(turn_urls)
        self._secret = secret.encode()
        self._ttl = ttl_seconds
        self._now_ms = now_ms

    def issue(self, user: str) -> Issued:
        """Return the servers for ``user``, with new credentials."""
        if not self._turn_urls:
            return Issued(self._static, None)
        expiry = self._now_ms() // 1000 + self._ttl
        username = f"{expiry}:{user}".encode()[:USERNAME_MAX_BYTES].decode(errors="ignore")
        digest = hmac.digest(self._secret, username.encode(), hashlib.sha1)
        turn = {
            "urls": self._turn_urls,
            "username": username,
            "credential": base64.b64encode(digest).decode(),
        }
        return Issued([*self._static, turn], expiry * 1000)
