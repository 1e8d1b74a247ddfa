"""Connect to NATS, with defaults that suit signalling."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shared import subjects
from shared.errors import Unavailable
from shared.ids import new_id
from shared.nats.compat.client import SupervisedClient, subscription_id
from shared.nats.compat.publisher import Publisher
from shared.nats.fast_parser import DirectHandler
from shared.nats.requests import Requests
from shared.nats.storage_full import StorageFull
from shared.observability import logs

log = logs.get(__name__)

CONNECT_SECONDS = 10.0
RECONNECT_WAIT_SECONDS = 0.25
PING_SECONDS = 5
# One gateway's worth of a bad moment; past it the server's slow-consumer rule is the right answer.
PENDING_MESSAGES = 65_536
PENDING_BYTES = 64 * 1024 * 1024

Handler = Callable[[Msg], Awaitable[None]]
Hook = Callable[[], Awaitable[None]]


class Login(NamedTuple):
    """A user of NATS."""

    user: str
    password: str


class Bus(Publisher):
    """One NATS connection of one service instance.

    Nothing is buffered while NATS is away, because a call message sent late is a wrong message: publishing raises
    :class:`Unavailable`, and messages unsent at a disconnect are dropped. A server that hangs may still read later
    what was sent to it; so messages that can go stale carry a time or a number.
    """

    def __init__(self, client: SupervisedClient) -> None:
        super().__init__(client)
        self._requests = Requests(self.publish, self._loop)
        self.ask = self._requests.ask
        self.request = self._requests.request
        self.request_many = self._requests.request_many
        self.expect = self._requests.expect
        self.forget = self._requests.forget
        self.on_reconnect: list[Hook] = []
        self.connected_since = time.monotonic()
        """When the current connection, or else the last one, was made (monotonic seconds)."""
        self.disconnected_at = 0.0
        """When the connection before it was lost (monotonic seconds)."""
        self.full = StorageFull()
        """The streams that refuse writes because they are full."""
        self._closing = False
        self.errors: Counter[str] = Counter()
        """Errors of nats-py by kind: ``slow_consumer``, a message dropped because too many waited, or ``other``."""
        self.hung = 0
        """Count of hangs: NATS did not answer although the connection was open."""
        self.broken = client.broken
        """Count of client tasks that ended unexpectedly: see :mod:`shared.nats.compat.client`."""

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        inboxes: str = "",
        login: Login | None = None,
        timeout: float = CONNECT_SECONDS,
    ) -> "Bus":
        """Connect to any of the comma separated servers. Raises :class:`Unavailable` after ``timeout`` seconds.

        ``inboxes``: the service, under whose name NATS lets it have inboxes. ``login``: goes before a user in ``url``.
        """
        client = SupervisedClient()
        bus = cls(client)
        bus._requests.inbox = f"_INBOX.{inboxes}" if inboxes else "_INBOX"
        reason = ""

        async def on_error(error: Exception) -> None:
            nonlocal reason
            text = str(error) or type(error).__name__
            bus.errors["slow_consumer" if isinstance(error, nats.errors.SlowConsumerError) else "other"] += 1
            if not reason or not isinstance(error, OSError):  # a server that refuses also hangs up
                reason = text
            # Each try to connect fails with an error of its own; that the connection is gone is said once.
            (log.warning if client.is_connected else log.debug)("nats error", error=text)

        async def on_disconnect() -> None:
            bus.disconnected_at = time.monotonic()
            if not bus._closing:
                log.warning("nats disconnected")
            client.drop_pending()
            bus._requests.give_up()

        async def on_reconnect() -> None:
            client.read_ahead()
            bus.connected_since = time.monotonic()
            server = client.connected_url
            log.info("nats reconnected", server=f"{server.hostname}:{server.port}" if server else None)
            for hook in bus.on_reconnect:
                try:
                    await hook()
                except Exception:
                    log.exception("hook of a reconnect failed")

        try:
            async with asyncio.timeout(timeout):
                await client.connect(
                    [part.strip() for part in url.split(",")],
                    name=name,
                    inbox_prefix=f"{bus._requests.inbox}.{subjects.ZONE_NATS}.{name}",
                    user=login.user if login is not None else None,
                    password=login.password if login is not None else None,
                    error_cb=on_error,
                    disconnected_cb=on_disconnect,
                    reconnected_cb=on_reconnect,
                    connect_timeout=2,
                    reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # seconds, fractions work
                    max_reconnect_attempts=-1,
                    pending_size=0,  # nothing is kept to be sent after a reconnect
                    ping_interval=PING_SECONDS,
                    max_outstanding_pings=2,
                )
                client.read_ahead()
                await bus._open_inbox()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await bus.close()
            raise Unavailable(
                f"NATS at {without_passwords(url)} does not answer: {reason or str(error) or 'no connection in time'}"
            ) from error
        return bus

    async def _open_inbox(self) -> None:
        requests = self._requests
        requests.mine = new_id()
        await self.subscribe_direct(f"{requests.inbox}.*.{requests.mine}.*", requests.hear)

    @property
    def connected(self) -> bool:
        """True if a message published now would be sent now."""
        return self.client.is_connected and not self._hangs

    def hangs(self, hangs: bool) -> None:
        """Note that NATS does not answer although the connection is open (True), or answers again (False).

        See :class:`shared.nats.hang_detector.HangDetector`.
        """
        self._hangs = hangs
        if hangs:
            self.hung += 1
            self._requests.give_up()

    @property
    def asking(self) -> int:
        """Return the number of requests under way."""
        return len(self._requests)

    def unhandled(self) -> tuple[int, int]:
        """Return the number of messages that wait for their handlers, and their bytes."""
        return self.client.unhandled()

    async def ping(self) -> asyncio.Future[bool] | None:
        """Ping NATS. Returns a future that is done when NATS answers; ``None`` without a connection."""
        return await self.client.ping() if self.client.is_connected else None

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Call ``handler`` for each message, one at a time and in order, also after reconnects."""

        async def handle(msg: Msg) -> None:
            try:
                await handler(msg)
            except asyncio.CancelledError:
                # nats-py ends the subscription then, also if the handler awaited something that was given up.
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                log.warning("message not handled: what its handler waited for was cancelled", subject=subject)

        return await self.client.subscribe(
            subject,
            queue=queue,
            cb=handle,
            pending_msgs_limit=PENDING_MESSAGES,
            pending_bytes_limit=PENDING_BYTES,
        )

    async def subscribe_direct(self, subject: str, handler: DirectHandler) -> Subscription:
        """Call ``handler`` for each message as it is read, in the order of all such subscriptions of this bus.

        For handlers that never wait. Exceptions are logged.
        """

        async def early(msg: Msg) -> None:
            handler(msg.subject, msg.reply, msg.data, b"")

        subscription = await self.client.subscribe(subject, cb=early)
        self.take_directly(subscription, handler)
        return subscription

    def take_directly(self, subscription: Subscription, handler: DirectHandler) -> None:
        """Call ``handler`` for the messages of a subscription, instead of its own callback."""
        self.client.parser.direct[subscription_id(subscription)] = handler

    async def flush(self, timeout: float = 2.0) -> None:
        """Wait until the server has read all that was sent. Raises :class:`Unavailable`."""
        try:
            await self.client.flush(timeout=timeout)  # type: ignore[arg-type]  # seconds, fractions work
        except nats.errors.Error as error:
            raise Unavailable from error

    async def close(self, timeout: float = 2.0) -> None:
        """Send the messages that wait, and close; waits ``timeout`` seconds at most."""
        self._closing = True
        self.full.stop()
        try:
            async with asyncio.timeout(timeout):
                if self.client.is_connected:
                    await self.client.flush()
                await self.client.close()
        except (
            TimeoutError,
            OSError,
            RuntimeError,
            nats.errors.Error,
        ):  # RuntimeError: uvloop, while NATS is away
            log.warning("nats connection closed with messages unsent")


def without_passwords(url: str) -> str:
    """Return comma separated servers without their passwords."""
    return ",".join(_without_password(part.strip()) for part in url.split(","))


def _without_password(server: str) -> str:
    scheme, there, rest = server.rpartition("://")
    return f"{scheme}{there}{rest.rpartition('@')[2]}"
