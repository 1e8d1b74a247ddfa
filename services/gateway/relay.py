"""Offers, answers and candidates on their way to call control, and the receipts that come back.

A relay is published, not requested: nothing waits for it. It carries a receipt subject on which may come back a
refusal, the receipt of the peer's gateway if the client wants an acknowledgement, or NATS's word that the instance
is gone; then this relay and all that went the same way after it go to the next one, in the order they were sent.
"""

import asyncio
import json
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg

from services.gateway.replies import Asked, Replies, dumps
from services.gateway.sessions import Registry, Socket
from shared import logs, subjects
from shared.bus import Bus
from shared.contracts.calls import CallReply, FindRequest
from shared.contracts.client import Answer, Candidate, Offer, Relayed
from shared.errors import BadRequest, RateLimited, ReceiverNotFound, SignallingError, Unavailable
from shared.ids import encode, new_id
from shared.members import Members
from shared.rpc import Client

log = logs.get(__name__)

CALLCORE = "callcore"
RECENT_SECONDS = 5.0
RECENT_MAX = 4_096
RECENT_MAX_BYTES = 4 * 1024 * 1024
ACKS_PER_SOCKET = 1_024
OWNERS_MAX = 50_000
_TICK_SECONDS = 0.25


@dataclass(slots=True)
class Sent:
    """A relay that may have to be sent again. ``moved``: how many "no responders" of earlier tries are to come."""

    at: float
    owner: str
    call: str
    subject_after_owner: str
    payload: bytes
    receipt: str
    moved: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """An acknowledgement that a client waits for."""

    asked: Asked
    until: float


class Relays:
    """Sends relays. ``ack_seconds``: how long a client's acknowledgement may take."""

    def __init__(
        self,
        instance: str,
        bus: Bus,
        members: Members,
        registry: Registry,
        replies: Replies,
        services: Client,
        *,
        ack_seconds: float,
    ) -> None:
        self._instance = instance
        self._bus = bus
        self._members = members
        self._registry = registry
        self._replies = replies
        self._services = services
        self._ack_seconds = ack_seconds
        self._owners: dict[str, str | None] = {}
        self._generation = -1
        self._recent: deque[Sent] = deque()
        self._recent_bytes = 0
        self._wanted: OrderedDict[str, Wanted] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen for receipts."""
        await self._bus.subscribe(subjects.receipt_all(self._instance), self._on_receipt)
        self._task = asyncio.create_task(self._expire(), name="relay acknowledgements")

    async def stop(self) -> None:
        """Stop waiting for acknowledgements."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- sending --------------------------------------------------------------------------------------------------

    async def send(self, asked: Asked, relayed: Relayed) -> None:
        """Publish a relay. The acknowledgement, if one is wanted, comes when the peer's gateway has it."""
        socket = asked.socket
        assert socket.user is not None and socket.session is not None
        call = relayed.call_id or await self._find(socket, relayed.to)
        payload = _payload(relayed, socket.user, call)
        if asked.ack_id is not None and socket.acks_pending >= ACKS_PER_SOCKET:
            raise RateLimited("Too many acknowledgements are waiting", retry_after_ms=1000)
        socket.relays += 1
        number = 2 * socket.relays + (asked.ack_id is not None)
        receipt = subjects.receipt(self._instance, socket.session, number)
        owner = self._owner(call)
        subject = subjects.relay(owner, call, socket.user, socket.session, relayed.to, asked.event)
        await self._bus.publish(subject, payload, receipt)
        now = asyncio.get_running_loop().time()
        self._remember(Sent(now, owner, call, subject.split(".", 2)[2], payload, receipt))
        if asked.ack_id is not None:
            socket.acks_pending += 1
            self._wanted[receipt] = Wanted(asked, now + self._ack_seconds)

    async def _find(self, socket: Socket, peer: str) -> str:
        """The call with ``peer``. Raises :class:`shared.errors.ReceiverNotFound`."""
        call = socket.calls.get(peer)
        if call is None:
            assert socket.user is not None and socket.session is not None
            request = FindRequest(
                request_id=new_id(), user=socket.user, session=socket.session, gateway=self._instance, to=peer
            )
            call = (await self._services.ask("calls", "find", request, CallReply)).call
            socket.remember_call(peer, call)
        return call

    def _owner(self, call: str) -> str:
        """The callcore in charge of a call's lane. Raises :class:`Unavailable` if there is none."""
        if self._generation != self._members.generation or len(self._owners) > OWNERS_MAX:
            self._generation = self._members.generation
            self._owners.clear()
        if call not in self._owners:
            self._owners[call] = self._members.owner(CALLCORE, encode(call))
        owner = self._owners[call]
        if owner is None:
            raise Unavailable
        return owner

    def _remember(self, sent: Sent) -> None:
        self._recent.append(sent)
        self._recent_bytes += len(sent.payload)
        while self._recent and (
            len(self._recent) > RECENT_MAX
            or self._recent_bytes > RECENT_MAX_BYTES
            or self._recent[0].at < sent.at - RECENT_SECONDS
        ):
            self._recent_bytes -= len(self._recent.popleft().payload)

    # --- receipts -------------------------------------------------------------------------------------------------

    async def _on_receipt(self, msg: Msg) -> None:
        if msg.headers is not None and msg.headers.get("Status") == "503":
            await self._move(msg.subject)
            return
        wanted = self._done(msg.subject)
        if not msg.data:
            if wanted is not None:
                await self._replies.ok(wanted.asked)
            return
        wire = json.loads(msg.data)
        await self._refuse(msg.subject, wanted, SignallingError.from_wire(wire), wire.get("event", ""))

    async def _refuse(self, receipt: str, wanted: Wanted | None, error: SignallingError, event: str) -> None:
        """Tell the sender, also the one who wanted no acknowledgement."""
        session, _ = subjects.parse_receipt(receipt)
        socket = wanted.asked.socket if wanted is not None else self._registry.by_session(session)
        if socket is not None:
            if isinstance(error, ReceiverNotFound):
                socket.calls.clear()
            asked = wanted.asked if wanted is not None else Asked(socket, event, None)
            await self._replies.refuse(asked, error)

    def _done(self, receipt: str) -> Wanted | None:
        wanted = self._wanted.pop(receipt, None)
        if wanted is not None:
            wanted.asked.socket.acks_pending -= 1
        return wanted

    async def _move(self, receipt: str) -> None:
        """The instance that a relay went to is not there: send it, and what went there after it, to the next."""
        first = next((i for i, sent in enumerate(self._recent) if sent.receipt == receipt), None)
        if first is None:
            await self._lost(receipt, "")
            return
        lost = self._recent[first]
        if lost.moved:
            lost.moved -= 1
            return
        gone = lost.owner
        self._members.drop(CALLCORE, gone)
        behind = [sent for i, sent in enumerate(self._recent) if i >= first and sent.owner == gone]
        log.info("callcore is gone: relays go to the next one", callcore=gone, relays=len(behind))
        for sent in behind:
            if sent is not lost:
                sent.moved += 1
            try:
                sent.owner = self._owner(sent.call)
                await self._bus.publish(
                    f"relay.{sent.owner}.{sent.subject_after_owner}", sent.payload, sent.receipt
                )
            except Unavailable:
                await self._lost(sent.receipt, sent.subject_after_owner.rsplit(".", 1)[1])

    async def _lost(self, receipt: str, event: str) -> None:
        """A relay that nobody can take."""
        await self._refuse(receipt, self._done(receipt), Unavailable(), event)

    async def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            while self._wanted:
                receipt, wanted = next(iter(self._wanted.items()))
                if wanted.until > loop.time():
                    break
                self._done(receipt)
                await self._replies.refuse(wanted.asked, Unavailable())


def _payload(relayed: Relayed, user: str, call: str) -> bytes:
    """Exactly what the peer will see, but for ``seq``."""
    match relayed:
        case Offer():
            body: dict[str, Any] = {"offer": relayed.offer}
            if relayed.call_type is not None:
                body["callType"] = relayed.call_type
        case Answer():
            body = {"answer": relayed.answer}
        case Candidate(candidates=None):
            body = {"candidate": relayed.candidate}
        case Candidate():
            body = {"candidates": relayed.candidates}
        case _:
            raise AssertionError("not relayed")
    try:
        return dumps({**body, "from": user, "callId": call})
    except ValueError:
        raise BadRequest("payload: numbers must be finite") from None
