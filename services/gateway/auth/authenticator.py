"""Authenticate sockets by tokens, and expire them."""

from collections.abc import Callable

from services.gateway.auth.jwks_client import JwksClient
from services.gateway.auth.jwt_verifier import ExpiredToken, InvalidToken, SingleKey, Verifier
from services.gateway.auth.settings import AuthSettings, is_loopback
from shared.clock import now_ms
from shared.contracts.client import TOKEN_MAX
from shared.errors import TokenExpired, Unauthorized, Unavailable
from shared.observability import logs
from shared.observability.log_throttle import LogThrottle
from shared.periodic_task import PeriodicTask

log = logs.get(__name__)

TICK_SECONDS = 0.5


class TokenRefused(Unauthorized):
    """Raised if the token is missing, invalid, or of another user. Only the log has the reason."""


class Authenticator:
    """Verifies tokens, and calls ``expired`` with each socket whose token has expired.

    ``verifier``: ``None`` if no token is needed. ``max_age``: seconds for which a token is valid at most after its
    client sent it; 0 for no such bound.
    """

    def __init__(
        self,
        verifier: Verifier | None,
        expired: Callable[[str], None],
        jwks: JwksClient | None = None,
        *,
        max_age: int = 0,
    ) -> None:
        self._verifier = verifier
        self._expired = expired
        self._max_age_ms = max_age * 1000
        self._jwks = jwks
        self._shown: dict[str, str] = {}
        """Socket → the token in its handshake, until the socket has joined."""
        self._until: dict[str, tuple[str, int]] = {}
        """Socket → its user, and when its token expires (ms since the epoch)."""
        self._refusals = LogThrottle(lambda why: log.warning("tokens refused", why=why))
        self._ticks = PeriodicTask("token expiry", TICK_SECONDS, self._expire)

    @classmethod
    def of(cls, settings: AuthSettings, expired: Callable[[str], None]) -> "Authenticator":
        """Return the authenticator for the settings. Logs a warning if any host may join without a token."""
        if settings.auth_mode == "none":
            if not is_loopback(settings.host):
                log.warning(
                    "AUTH_MODE=none: ANY CLIENT THAT REACHES THIS GATEWAY CAN JOIN AS ANY USER, ring as them and take "
                    "their calls",
                    host=settings.host,
                )
            return cls(None, expired)
        key, url = settings.jwt_key(), settings.jwt_jwks_url
        jwks = JwksClient(url, refresh=settings.jwt_jwks_refresh_seconds) if key is None else None
        keys = SingleKey(key) if key is not None else jwks
        assert keys is not None, "the settings have a key or a URL"
        verifier = Verifier(
            keys,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway=settings.jwt_leeway_seconds,
        )
        return cls(verifier, expired, jwks, max_age=settings.jwt_max_age_seconds)

    def missing(self) -> list[str]:
        """Return why tokens cannot be verified, in words; empty if they can."""
        return (
            ["no keys for tokens have been read yet"]
            if self._jwks is not None and not self._jwks.read
            else []
        )

    def start(self) -> None:
        """Begin to expire tokens, and to read keys."""
        if self._jwks is not None:
            self._jwks.start()
        if self._verifier is not None:
            self._ticks.start()

    async def stop(self) -> None:
        """Stop."""
        await self._ticks.stop()
        if self._jwks is not None:
            await self._jwks.stop()
        self._refusals.stop()

    def connected(self, sid: str, auth: object) -> None:
        """Keep the token in a handshake, ``auth``. It is verified when the client joins."""
        token = auth.get("token") if isinstance(auth, dict) else None
        # A token that is too large is invalid, and is not kept.
        if self._verifier is not None and isinstance(token, str) and len(token) <= TOKEN_MAX:
            self._shown[sid] = token

    def gone(self, sid: str) -> None:
        """Discard the tokens of a socket that is gone, or whose token has expired."""
        self._shown.pop(sid, None)
        self._until.pop(sid, None)

    async def joining(self, sid: str, user: str, token: str | None) -> None:
        """Authenticate a socket as ``user``: by ``token``, else by the token that it has sent before.

        Raises :class:`TokenRefused`, :class:`shared.errors.TokenExpired`, and :class:`shared.errors.Unavailable` if
        the keys cannot be read.
        """
        if self._verifier is None:
            return
        token = token if token is not None else self._shown.get(sid)
        if token is None and (known := self._until.get(sid)) is not None and known[0] == user:
            return
        self._until[sid] = (user, await self._checked(user, token))

    async def handshake_user(self, sid: str) -> str | None:
        """Return the user of the token in a handshake; ``None`` if there is no valid one."""
        token = self._shown.get(sid)
        if self._verifier is None or token is None:
            return None
        try:
            return (await self._verifier.verify(token)).user
        except (InvalidToken, Unavailable):
            return None

    def joined(self, sid: str) -> None:
        """Discard the handshake token of a socket that has joined. Raises ``TokenExpired`` if its token has expired."""
        if self._verifier is not None and sid not in self._until:
            self._refusals.note("expired while joining")
            raise TokenExpired
        self._shown.pop(sid, None)

    async def refresh(self, sid: str, user: str, token: str) -> None:
        """Replace the token of a socket by a new one of the same user. Raises like :meth:`joining`.

        Raises ``TokenExpired`` also if the earlier token has expired meanwhile.
        """
        if self._verifier is None:
            return
        until = await self._checked(user, token)
        if sid not in self._until:
            self._refusals.note("refreshed too late")
            raise TokenExpired
        self._until[sid] = (user, until)

    def seconds_left(self, sid: str) -> int | None:
        """Return for how many seconds the token of a socket is valid; ``None`` if it needs none."""
        known = self._until.get(sid)
        return None if known is None else max(0, (known[1] - now_ms()) // 1000)

    async def _checked(self, user: str, token: str | None) -> int:
        """Return when the token of ``user`` expires (ms since the epoch). Raises like :meth:`joining`."""
        assert self._verifier is not None
        try:
            if token is None:
                raise InvalidToken("none shown")
            claims = await self._verifier.verify(token)
            if claims.user != user:
                raise InvalidToken("another user's")
        except InvalidToken as refused:
            self._refusals.note(str(refused))
            if isinstance(refused, ExpiredToken) and refused.user == user:
                raise TokenExpired from None
            raise TokenRefused from None
        return min(claims.until, now_ms() + self._max_age_ms) if self._max_age_ms else claims.until

    def _expire(self) -> None:
        now = now_ms()
        for sid in [sid for sid, (_, until) in self._until.items() if until <= now]:
            self.gone(sid)
            self._expired(sid)
