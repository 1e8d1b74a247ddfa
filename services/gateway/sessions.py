"""Who is joined on this gateway, and from which socket."""

import asyncio
import random
from collections import deque
from dataclasses import dataclass

from services.gateway.link import Link
from shared import logs, rpc
from shared.clock import now_ms
from shared.contracts.presence import LeaveRequest
from shared.contracts.rpc import Done
from shared.errors import SignallingError, Unavailable
from shared.ids import new_id

log = logs.get(__name__)

EARLY_MAX = 1_024
LEAVES_AT_ONCE = 64
LEAVE_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class Member:
    """A session on its socket. ``peer``: (user, call) of the call last looked up. ``sent``: relays so far."""

    user: str
    session: str
    link: Link
    sid: str
    peer: tuple[str, str] | None = None
    sent: int = 0
    unacknowledged: int = 0


@dataclass(slots=True, frozen=True)
class Early:
    """A message for a session that presence knows already and this gateway not yet."""

    session: str
    event: str
    payload: bytes
    reply: str


class Sessions:
    """The registry. While somebody is joining, messages for unknown sessions wait instead of being dropped."""

    def __init__(self) -> None:
        self._by_session: dict[str, Member] = {}
        self._by_link: dict[Link, Member] = {}
        self._by_sid: dict[str, Member] = {}
        self._joining = 0
        self._early: deque[Early] = deque(maxlen=EARLY_MAX)

    def __len__(self) -> int:
        return len(self._by_link)

    def of(self, link: Link) -> Member | None:
        """Who is joined on this link."""
        return self._by_link.get(link)

    def on(self, sid: str) -> Member | None:
        """Who is joined on the socket of this id."""
        return self._by_sid.get(sid)

    def get(self, session: str) -> Member | None:
        """Where a session is."""
        return self._by_session.get(session)

    def bind(self, member: Member) -> None:
        """Let a session be on a socket."""
        self._by_session[member.session] = member
        self._by_link[member.link] = member
        self._by_sid[member.sid] = member

    def unbind(self, member: Member) -> None:
        """Forget a socket; its session too, unless it is on another socket by now."""
        if self._by_session.get(member.session) is member:
            del self._by_session[member.session]
        self._by_link.pop(member.link, None)
        self._by_sid.pop(member.sid, None)

    # --- messages that are faster than the answer to a join ---

    def join_begins(self) -> None:
        """Somebody asks presence to join."""
        self._joining += 1

    def join_ends(self) -> None:
        """Presence has answered, or not."""
        self._joining -= 1
        if not self._joining:
            self._early.clear()

    def keep(self, early: Early) -> bool:
        """Keep a message for a session that is not here yet; whether it may still come."""
        if self._joining:
            self._early.append(early)
        return bool(self._joining)

    def take(self, session: str) -> list[Early]:
        """The messages kept for a session."""
        return [early for early in self._early if early.session == session]


class Leaver:
    """Tells presence who has left: in the background, a bounded number at once, again until it has been heard."""

    def __init__(self, client: rpc.Client, gateway: str) -> None:
        self._client = client
        self._gateway = gateway
        self._free = asyncio.Semaphore(LEAVES_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def leave(self, user: str, session: str, sid: str, reason: str) -> None:
        """Say that the session left the socket ``sid``."""
        request = LeaveRequest(
            request_id=new_id(), user=user, session=session, gateway=self._gateway, socket=sid, reason=reason
        )
        task = asyncio.create_task(self._leave(request), name="leave")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout: float) -> None:
        """Wait until all have been heard, ``timeout`` seconds at most."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _leave(self, request: LeaveRequest) -> None:
        until = now_ms() + int(LEAVE_SECONDS * 1000)
        pause = 0.1
        while True:
            try:
                async with self._free:
                    await self._client.ask("presence", "leave", request, Done)
            except SignallingError as error:
                if not isinstance(error, Unavailable) or now_ms() > until:
                    log.warning("leave not heard", user=request.user, session=request.session, code=error.code)
                    return
            else:
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, 3.0)
