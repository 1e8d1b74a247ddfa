"""Send messages to the mailbox of a session, and read them back.

The memory stream ``DELIVER`` captures every message to a session, at any gateway.
"""

import asyncio
import json
import time
from base64 import b64decode
from collections import Counter
from datetime import UTC, datetime
from typing import Any, NamedTuple

from shared import subjects
from shared.clock import SeqClock
from shared.contracts.relays import LINE
from shared.errors import Unavailable
from shared.ids import new_id
from shared.messaging.mailbox_marks import Marks
from shared.nats import streams
from shared.nats.connection import Bus
from shared.observability import traces

READ_MAX = 4_096
"""Messages read back at most."""
READ_SECONDS = 2.0
_BATCH = 256
_FULL = 0.9
"""The share of its room from which on a stream may have dropped messages."""
_LOOK_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 0.02
_NOT_FOUND = 10037


class NotStored(Unavailable):
    """The stream answers, but has not stored a message that was sent: other messages may be missing, too."""


class MailboxMessage(NamedTuple):
    """One message of a mailbox: a client-visible event and its JSON, ``seq`` included."""

    event: str
    payload: bytes

    @property
    def seq(self) -> int:
        """Return its ``seq``, which is the last key of every message."""
        return seq_of(self.payload)

    @property
    def call(self) -> str:
        """Return the call of a call event, see :func:`call_of`."""
        return call_of(self.payload)


_CALL_ID = b'"callId":"'


def call_of(payload: bytes) -> str:
    """Return the call of a call event: the first ``callId``, because no JSON string has a bare quote in it."""
    start = payload.index(_CALL_ID) + len(_CALL_ID)
    return payload[start : payload.index(b'"', start)].decode()


def seq_of(payload: bytes) -> int:
    """Return the ``seq`` of a delivered payload. Raises ``ValueError`` if it has none."""
    return int(payload[payload.rindex(b":") + 1 : -1])


class MailboxPublisher:
    """Delivers events to sessions and mints their ``seq``."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._seq = SeqClock()

    def deliver(self, gateway: str, session: str, event: str, payload: bytes, reply: str = "") -> bytes:
        """Send ``payload`` with a fresh ``seq``. Returns the message that was sent.

        ``payload``: a JSON object that is not empty, or several, each on a line of its own and with its own ``seq``.
        ``reply``: the receipt subject that the gateway answers on. Raises :class:`shared.errors.Unavailable`.
        """
        if LINE in payload:
            lines = payload.split(LINE)
            message = LINE.join([b'%b,"seq":%d}' % (line[:-1], self._seq.next()) for line in lines])
        else:
            message = b'%b,"seq":%d}' % (payload[:-1], self._seq.next())
        head = traces.active.head() if traces.active is not None else b""
        self._bus.publish(subjects.deliver(gateway, session, event), message, reply, head)
        return message

    def again(self, gateway: str, session: str, event: str, message: bytes) -> None:
        """Redeliver a message that :meth:`deliver` returned. Raises :class:`shared.errors.Unavailable`."""
        self._bus.publish(subjects.deliver(gateway, session, event), message)


def settle(bus: Bus, session: str) -> MailboxMessage:
    """Send a last message to a mailbox, for :func:`read` to wait for. Raises :class:`Unavailable`."""
    message = MailboxMessage(subjects.SETTLED, b'{"id":"%b","seq":0}' % new_id().encode())
    bus.publish(subjects.settled(session), message.payload)
    return message


async def read(
    bus: Bus, session: str, *, since_ms: int = 0, limit: int = READ_MAX, upto: MailboxMessage | None = None
) -> list[MailboxMessage]:
    """Return the stored messages of a session from ``since_ms`` (ms since the epoch) on, oldest first.

    At most ``limit`` messages, the oldest ones, or a few more if the last is a batch. ``upto``: the message that
    :func:`settle` returned; the read waits for it. Most messages come in batches from any replica, which may be
    behind; the last ones are read from the stream's leader. Raises :class:`Unavailable`.
    """
    until = time.monotonic() + READ_SECONDS
    messages: list[MailboxMessage] = []
    where: dict[str, Any] = {"start_time": _time(since_ms)} if since_ms else {"seq": 1}
    while len(messages) < limit:
        query = {
            "next_by_subj": subjects.mailbox(session),
            **where,
            "batch": min(_BATCH, limit - len(messages)),
        }
        *batch, end = await bus.request_many(
            f"$JS.API.DIRECT.GET.{subjects.STREAM_DELIVER}",
            json.dumps(query).encode(),
            most=_BATCH + 1,
            timeout=READ_SECONDS,
        )
        if (end.headers or {}).get("Status") not in ("204", "404"):
            raise Unavailable(f"stream {subjects.STREAM_DELIVER} does not answer")
        if not batch:
            break
        for msg in batch:
            headers = msg.headers or {}
            messages += _messages(headers["Nats-Subject"], msg.data)
            where = {"seq": int(headers["Nats-Sequence"]) + 1}
    while len(messages) < limit:
        query = {"next_by_subj": subjects.mailbox(session), **where}
        answer = await streams.api(
            bus, f"STREAM.MSG.GET.{subjects.STREAM_DELIVER}", query, timeout=READ_SECONDS
        )
        if error := answer.get("error"):
            if error.get("err_code") == _NOT_FOUND:
                if upto is None or upto in messages:
                    break
                if time.monotonic() > until:
                    bus.full.refuse(
                        subjects.STREAM_DELIVER
                    )  # it acknowledges nothing, so this is how it shows
                    raise NotStored(f"stream {subjects.STREAM_DELIVER} does not store what is sent")
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                continue
            raise Unavailable(f"stream {subjects.STREAM_DELIVER}: {error.get('description')}")
        message = answer["message"]
        messages += _messages(message["subject"], b64decode(message.get("data", "")))
        where = {"seq": message["seq"] + 1}
    if bus.full and upto is not None:
        bus.full.stored(subjects.STREAM_DELIVER)
    return [message for message in messages if message.event != subjects.SETTLED]


def crowded(messages: list[MailboxMessage], after: int = 0) -> bool:
    """Return True if messages later than the ``seq`` ``after`` may have been evicted.

    A subject evicts its oldest message. So once one that is later than ``after`` is gone, all that its subject keeps
    are later, too: :data:`shared.nats.streams.MAILBOX_MAX` of one event.
    """
    counts = Counter(message.event for message in messages if message.seq > after)
    return any(count >= streams.MAILBOX_MAX for count in counts.values())


def _messages(subject: str, data: bytes) -> list[MailboxMessage]:
    _, event = subjects.parse_deliver(subject)
    return [MailboxMessage(event, line) for line in data.split(LINE)]


class MailboxReach:
    """Computes how far back mailboxes are complete. Reads the stream at most once a second."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: tuple[float, int, int] | None = None
        self._lossy_until = 0
        self._marks = Marks(bus)
        self._looking = asyncio.Lock()

    def lossy(self) -> None:
        """Note that the stream does not store messages now, so that earlier ones are not known to be complete."""
        self._lossy_until = int(time.time() * 1000)

    async def covers(self, since_ms: int) -> bool:
        """True if every message after ``since_ms`` is stored, but for those past the stream's age.

        Older messages are not needed, because the stream keeps them for longer than a session may be resumed.
        Raises :class:`Unavailable`.
        """
        async with self._looking:
            if self._known is None or time.monotonic() - self._known[0] > _LOOK_SECONDS:
                info = await _info(self._bus)
                await self._marks.look(_millis(info["created"]))
                self._known = (time.monotonic(), *_reach(info))
        _, complete_since, max_age = self._known
        complete_since = max(complete_since, self._lossy_until, self._marks.complete_since)
        return complete_since <= max(since_ms, int(time.time() * 1000) - max_age)


async def _info(bus: Bus) -> dict[str, Any]:
    answer = await streams.api(bus, f"STREAM.INFO.{subjects.STREAM_DELIVER}", {}, timeout=READ_SECONDS)
    if error := answer.get("error"):
        raise Unavailable(f"stream {subjects.STREAM_DELIVER}: {error.get('description')}")
    return answer


def _reach(info: dict[str, Any]) -> tuple[int, int]:
    """``(since when nothing was dropped but for its age, that age)`` in milliseconds."""
    config, state = info["config"], info["state"]
    since = _millis(info["created"])
    if state["bytes"] > _FULL * config["max_bytes"]:
        since = max(since, _millis(state["first_ts"]))
    return since, config["max_age"] // 1_000_000


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def _millis(text: str) -> int:
    return int(datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp() * 1000)
