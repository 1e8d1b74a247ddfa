"""The connection to NATS, with the defaults changed that do not suit signalling."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shared import subjects
from shared.errors import NotSent, Unavailable
from shared.ids import new_id
from shared.nats.client import SupervisedClient
from shared.nats.fast_parser import DirectHandler, FastParser
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

UNSENT_BYTES = 32 * 1024 * 1024
"""What may wait to be taken by NATS before nothing more is published."""
FLUSH_AGAIN_SECONDS = 0.01
TURNS_MAX = 4
"""Turns of the event loop for which publishes are gathered, as long as each brings more of them."""

Handler = Callable[[Msg], Awaitable[None]]
Hook = Callable[[], Awaitable[None]]


class Login(NamedTuple):
    """A user of NATS."""

    user: str
    password: str


class Bus:
    """One NATS connection of one service instance.

    Nothing is buffered while NATS is away: what cannot be sent now raises :class:`Unavailable`, because a call
    message sent late is a wrong message; and what had not left when it went never leaves. What a server that hangs
    has not read yet, it may still read when it goes on; so what can go stale carries a time, or a number.
    """

    def __init__(self, client: SupervisedClient) -> None:
        self.client = client
        self._reader = client._ps = FastParser(client)
        self._flushing = False
        self._hangs = False
        self._loop = asyncio.get_running_loop()
        self._requests = Requests(self.publish, self._loop)
        self.ask = self._requests.ask
        self.request = self._requests.request
        self.request_many = self._requests.request_many
        self.expect = self._requests.expect
        self.forget = self._requests.forget
        self.on_reconnect: list[Hook] = []
        self.connected_since = time.monotonic()
        """When the connection was made that is there now, or was last."""
        self.disconnected_at = 0.0
        """When the one before it was lost."""
        self.full = StorageFull()
        """The streams that refuse what is stored for want of room."""
        self._closing = False
        self.errors: Counter[str] = Counter()
        """What nats-py complained of: ``slow_consumer``, a message dropped for want of room, or ``other``."""
        self.hung = 0
        """How often NATS did not answer though it had not hung up."""
        self.broken = client.broken
        """How often a task of the client ended though it should not have: see :mod:`shared.nats.client`."""

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
            # nats-py would send it once it is connected again, and knows by itself what it has subscribed to.
            client._pending, client._pending_data_size = [], 0
            bus._requests.give_up()

        async def on_reconnect() -> None:
            bus._read_at_once()
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
                bus._read_at_once()
                await bus._open_inbox()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await bus.close()
            raise Unavailable(
                f"NATS at {without_passwords(url)} does not answer: {reason or str(error) or 'no connection in time'}"
            ) from error
        return bus

    def _read_at_once(self) -> None:
        stream = getattr(self.client._transport, "_io_reader", None)  # of TCP, with TLS or without
        if stream is not None:
            self._reader.read_at_once(stream)

    async def _open_inbox(self) -> None:
        requests = self._requests
        requests.mine = new_id()
        await self.subscribe_direct(f"{requests.inbox}.*.{requests.mine}.*", requests.hear)

    @property
    def connected(self) -> bool:
        """Whether something published now would leave now."""
        return self.client.is_connected and not self._hangs

    def hangs(self, hangs: bool) -> None:
        """NATS does not answer, though it has not hung up; or it answers again.

        See :class:`shared.nats.hang_detector.HangDetector`.
        """
        self._hangs = hangs
        if hangs:
            self.hung += 1
            self._requests.give_up()

    @property
    def asking(self) -> int:
        """Requests under way."""
        return len(self._requests)

    @property
    def unsent(self) -> int:
        """Bytes that NATS has still to take."""
        client = self.client
        written = 0
        if client.is_connected:
            writer = client._transport._io_writer  # type: ignore[union-attr]  # connected, and by TCP
            written = writer.transport.get_write_buffer_size()
        return client._pending_data_size + written

    def unhandled(self) -> tuple[int, int]:
        """Messages that have come and wait for their handler, and their bytes."""
        subscriptions = self.client._subs.values()
        return sum(s.pending_msgs for s in subscriptions), sum(s.pending_bytes for s in subscriptions)

    async def ping(self) -> asyncio.Future[bool] | None:
        """Ask NATS whether it is there; what is returned is done when it answers. ``None`` without a connection."""
        if not self.client.is_connected:
            return None
        pong: asyncio.Future[bool] = self._loop.create_future()
        await self.client._send_ping(pong)
        return pong

    def publish(self, subject: str, payload: bytes = b"", reply: str = "", head: bytes = b"") -> bytes:
        """Send, within a few turns of the event loop: together with what else they bring, if they bring more.

        ``subject`` and ``reply`` are taken as they are: from :mod:`shared.subjects`, which encodes what comes from
        outside. ``head``: NATS headers as :func:`shared.nats.pending_requests.head_of` writes them.
        Returned is what is sent, for
        :meth:`amend`. Raises :class:`Unavailable` while NATS is away, and when it does not take what is sent.
        """
        # nats-py's own publish costs more: a coroutine, a future and a task woken for each message.
        client = self.client
        size = len(payload)
        if self._hangs or not client.is_connected:
            raise NotSent
        if size > client._max_payload:
            raise Unavailable(f"a message of {size} bytes is more than NATS takes")
        if client._pending_data_size > UNSENT_BYTES:
            raise Unavailable("NATS does not take what is sent")
        if head:
            line = f"HPUB {subject} {reply} {len(head)} {len(head) + size}\r\n"
            message = b"%b%b%b\r\n" % (line.encode(), head, payload)
        else:
            message = b"%b%b\r\n" % (f"PUB {subject} {reply} {size}\r\n".encode(), payload)
        client._pending.append(message)
        client._pending_data_size += size
        client.stats["out_msgs"] += 1
        client.stats["out_bytes"] += size
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush, len(client._pending), 1)
        return message

    def amend(self, sent: bytes, subject: str, payload: bytes, reply: str = "") -> bytes | None:
        """Send this instead of ``sent``, which :meth:`publish` returned; what is sent now, for the next time.

        ``None`` if it was not the last thing to be sent, or has left.
        """
        client = self.client
        if not client._pending or client._pending[-1] is not sent:
            return None
        message = b"%b%b\r\n" % (f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload)
        more = len(message) - len(sent)
        client._pending[-1] = message
        client._pending_data_size += more
        client.stats["out_bytes"] += more
        return message

    def _flush(self, seen: int = 0, turn: int = TURNS_MAX) -> None:
        client = self.client
        if len(client._pending) > seen and turn < TURNS_MAX:
            self._loop.call_soon(self._flush, len(client._pending), turn + 1)
            return
        self._flushing = False
        if not client.is_connected or not client._pending:
            return
        writer = client._transport._io_writer  # type: ignore[union-attr]  # connected, and by TCP
        if writer.transport.is_closing():
            return  # nats-py is about to notice, and then what waits is dropped
        if writer.transport.get_write_buffer_size() > UNSENT_BYTES // 2:
            self._flushing = True
            self._loop.call_later(FLUSH_AGAIN_SECONDS, self._flush)
            return
        batch, client._pending, client._pending_data_size = client._pending, [], 0
        writer.write(b"".join(batch))

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Call ``handler`` for each message, one at a time and in order. It survives reconnects."""

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

        For handlers that never wait; what one raises is logged. Headers are not looked at.
        """

        async def early(msg: Msg) -> None:
            handler(msg.subject, msg.reply, msg.data, b"")

        subscription = await self.client.subscribe(subject, cb=early)
        self.take_directly(subscription, handler)
        return subscription

    def take_directly(self, subscription: Subscription, handler: DirectHandler) -> None:
        """Have ``handler`` called for the messages of a subscription instead of its own callback."""
        self._reader.direct[b"%d" % subscription._id] = handler

    async def flush(self, timeout: float = 2.0) -> None:
        """Wait until the server has seen all that was sent."""
        try:
            await self.client.flush(timeout=timeout)  # type: ignore[arg-type]  # seconds, fractions work
        except nats.errors.Error as error:
            raise Unavailable from error

    async def close(self, timeout: float = 2.0) -> None:
        """Send what is waiting and close; gives up waiting after ``timeout`` seconds."""
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
    """Comma separated servers as they may be shown."""
    return ",".join(_without_password(part.strip()) for part in url.split(","))


def _without_password(server: str) -> str:
    scheme, there, rest = server.rpartition("://")
    return f"{scheme}{there}{rest.rpartition('@')[2]}"


async def drain(subscription: Subscription) -> None:
    """Let no more messages come, and wait until those that came have been handled.

    nats-py's own drain can lose some: its ping overtakes its unsubscribe, and it no longer knows the subscription
    when the last messages arrive. So the unsubscribe goes out here first. Raises :class:`nats.errors.Error`.
    """
    client = subscription._conn
    try:
        await client._send_unsubscribe(subscription._id)
        await client._flush_pending(force_flush=True)
        await subscription.drain()  # type: ignore[no-untyped-call]
    finally:
        if isinstance(client._ps, FastParser):
            client._ps.direct.pop(b"%d" % subscription._id, None)
