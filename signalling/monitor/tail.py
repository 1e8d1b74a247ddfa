"""Print the messages on the bus as lines, for ``signalling tail``."""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

from nats.aio.msg import Msg

from shared import subjects
from shared.errors import Unavailable
from shared.nats.connection import Bus
from shared.observability.escaping import printable
from signalling.monitor import formatting
from signalling.monitor.stream_reader import scan

FAMILIES = ("event.>", "rpc.>", "relay.>", "deliver.>", "control.>")
"""Subjects followed by default: all but receipts, acknowledgements and heartbeats."""
NOISE = frozenset({subjects.rpc("presence", "renew")})
"""Subjects that every gateway publishes continuously; shown only on request, as marks are."""
SESSIONS_MAX = 100_000
_RECENT_MAX = 1_000

Say = Callable[[str], None]


class Tail:
    """Follows the bus. ``user``, ``call``: only messages that name them, or go to a session of that user."""

    def __init__(self, bus: Bus, say: Say, *, user: str | None, call: str | None, raw: bool) -> None:
        self._bus = bus
        self._say = say
        self._user = user
        self._call = call
        self._raw = raw
        self._all = True
        self._whose: OrderedDict[str, str] = OrderedDict()
        """Maps a session to its user, for sessions seen so far."""

    async def start(self, subject: str | None) -> None:
        """Read the user's sessions and subscribe. Raises :class:`Unavailable`."""
        self._all = subject is not None
        if self._user is not None:
            await self._remember(self._user)
        for each in (subject,) if subject is not None else FAMILIES:
            await self._bus.subscribe(each, self._on_message)
        await self._bus.flush()

    async def _remember(self, user: str) -> None:
        """Remember the sessions of the user that the stream has recorded."""
        try:
            async for message in scan(
                self._bus, subjects.STREAM_EVENTS, subjects.event_user(user, "*"), most=_RECENT_MAX
            ):
                self._learn(message.subject, message.payload)
        except Unavailable:
            return  # no such stream yet: no client has joined

    async def _on_message(self, msg: Msg) -> None:
        if not self._all and _is_noise(msg.subject):
            return
        self._learn(msg.subject, msg.data)
        owner = self._owner(msg.subject)
        users = formatting.users_of(msg.subject, msg.data) | ({owner} if owner else set())
        if self._user is not None and self._user not in users:
            return
        if self._call is not None and self._call not in formatting.calls_of(msg.subject, msg.data):
            return
        note = f"({printable(owner)})" if owner else ""
        self._say(
            formatting.line(msg.subject, msg.data, datetime.now().astimezone(), raw=self._raw, note=note)
        )

    def _learn(self, subject: str, payload: bytes) -> None:
        for session, user in formatting.sessions_of(subject, payload):
            self._whose[session] = user
            self._whose.move_to_end(session)
        while len(self._whose) > SESSIONS_MAX:
            self._whose.popitem(last=False)

    def _owner(self, subject: str) -> str | None:
        """Return the user of the session that a delivery is addressed to."""
        match subject.split("."):
            case ["deliver" | "control", _, session, _]:
                return self._whose.get(session)
        return None


def _is_noise(subject: str) -> bool:
    return subject in NOISE or (subject.startswith("deliver.") and subject.endswith(f".{subjects.MARK}"))


async def follow(
    bus: Bus, say: Say, *, user: str | None, call: str | None, subject: str | None, raw: bool
) -> None:
    """Print a line for each message until cancelled; on stderr, a line once subscribed. Raises :class:`Unavailable`."""
    await Tail(bus, say, user=user, call=call, raw=raw).start(subject)
    print("following", subject or " ".join(FAMILIES), file=sys.stderr, flush=True)
    await asyncio.Event().wait()
