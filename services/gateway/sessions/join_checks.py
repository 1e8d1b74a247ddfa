"""Check whether a client may join."""

from services.gateway.auth.authenticator import Authenticator
from services.gateway.clients.registry import Socket
from services.gateway.limits.client_limits import ClientLimits
from services.gateway.protocol.invisible_characters import has_invisible
from shared.contracts import client
from shared.errors import BadRequest, NotAuthenticated, Unauthorized


class JoinChecks:
    """Checks user id and token of a client that joins, and the limits of its user.

    ``refuse_invisible``: True if user ids must not contain invisible characters.
    """

    def __init__(self, auth: Authenticator, limits: ClientLimits, *, refuse_invisible: bool) -> None:
        self._auth = auth
        self._rates = limits.rates
        self._connections = limits.connections
        self._join_timeout = limits.join_timeout
        self._refuse_invisible = refuse_invisible

    async def admit(self, socket: Socket, join: client.Join) -> None:
        """Admit a socket, and count it as one of its user; call :meth:`join_ended` after the join.

        Raises :class:`shared.errors.BadRequest`, :class:`shared.errors.Unauthorized`,
        :class:`shared.errors.TokenExpired`, :class:`shared.errors.RateLimited` and :class:`shared.errors.Unavailable`.
        """
        if self._refuse_invisible and has_invisible(join.user_id):
            raise BadRequest("userId: must not contain bidirectional controls or zero-width characters")
        if socket.user is not None and socket.user != join.user_id:
            raise Unauthorized
        await self._auth.joining(socket.sid, join.user_id, join.token)
        if socket.gone:
            self._auth.gone(socket.sid)
            raise NotAuthenticated  # the client is gone: no reply reaches it
        self._rates.joined(socket.rates, join.user_id)
        self._connections.joining(socket.eio_sid)

    def join_ended(self, socket: Socket) -> None:
        """Release what :meth:`admit` counted, unless the socket has joined."""
        if socket.session is None:
            self._rates.left(socket.rates)
            self._connections.not_joined(socket.eio_sid)

    def check_token(self, socket: Socket) -> None:
        """Raise :class:`shared.errors.TokenExpired` if the token has expired since :meth:`admit`."""
        self._auth.joined(socket.sid)

    def joined(self, socket: Socket) -> None:
        """Stop the join timeout of a socket that has joined."""
        self._join_timeout.disarm(socket.eio_sid)

    async def refresh(self, socket: Socket, token: str) -> None:
        """Let the session of a socket last as long as a new token. Raises like :meth:`admit`."""
        assert socket.user is not None
        await self._auth.refresh(socket.sid, socket.user, token)
        if socket.gone:
            self._auth.gone(socket.sid)
            raise NotAuthenticated  # the client is gone: no reply reaches it

    def seconds_left(self, socket: Socket) -> int | None:
        """Return for how many seconds the token of a socket is valid; ``None`` if no token is needed."""
        return self._auth.seconds_left(socket.sid)
