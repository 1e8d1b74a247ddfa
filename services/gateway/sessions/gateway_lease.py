"""Renew the lease of this gateway at presence, and reassert sessions if presence had ended it."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from services.gateway.clients.registry import Registry, Socket
from services.gateway.sessions.background_retry import BackgroundRetrier
from shared.contracts.presence import (
    RENEW_SECONDS,
    ReassertReply,
    ReassertRequest,
    RenewReply,
    RenewRequest,
)
from shared.errors import SignallingError
from shared.ids import new_id
from shared.messaging.rpc import RpcClient
from shared.observability import logs

log = logs.get(__name__)

REASSERT_PER_SECOND = 500
GOODBYE_SECONDS = 2.0


class GatewayLease:
    """Renews the lease. Without it clients cannot join, because presence ends sessions of a dead gateway by its lease.

    ``rpc``: two tries of it take less time than a lease lasts. ``presence_there``: returns True if an instance of
    presence is there. ``replaced``: closes a socket whose session has moved. ``lost``: begins the grace period of a
    session whose socket broke. ``renew_seconds``: the pause between two renewals.
    """

    def __init__(
        self,
        instance: str,
        rpc: RpcClient,
        registry: Registry,
        retrier: BackgroundRetrier,
        *,
        presence_there: Callable[[], bool],
        replaced: Callable[[Socket], Awaitable[None]],
        lost: Callable[[Socket], None],
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        self._instance = instance
        self._rpc = rpc
        self._registry = registry
        self._retrier = retrier
        self._presence_there = presence_there
        self._replaced = replaced
        self._lost = lost
        self._renew_seconds = renew_seconds
        self._task: asyncio.Task[None] | None = None
        self._renewing: asyncio.Event = asyncio.Event()
        self._reasserting: asyncio.Task[None] | None = None
        self._asserted: int | None = None
        """``since`` of the lease for which all sessions here have been asserted."""
        self._late = False
        self.held = False

    def missing(self) -> list[str]:
        """Return why clients cannot join here, in words; empty if the last renewal succeeded."""
        if not self.held:
            return ["presence has not granted a lease yet"]
        return ["presence does not renew the lease"] if self._late else []

    def start(self) -> None:
        """Begin to renew the lease."""
        self._task = asyncio.create_task(self._run(), name="lease")

    async def stop(self) -> None:
        """Give the lease back. Sessions that are still here then begin their grace periods."""
        for task in (self._task, self._reasserting):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if not self.held:
            return
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                request = RenewRequest(request_id=new_id(), gateway=self._instance, leaving=True)
                await self._rpc.ask("presence", "renew", request, RenewReply)
        except (TimeoutError, SignallingError):
            log.warning("lease not given back; it expires")

    async def renew_soon(self) -> None:
        """Renew the lease now, because NATS was away."""
        self._renewing.set()

    async def _run(self) -> None:
        while True:
            if self._presence_there():
                await self._renew()
            self._renewing.clear()
            try:
                async with asyncio.timeout(self._renew_seconds if self.held else self._renew_seconds / 10):
                    await self._renewing.wait()
                await asyncio.sleep(random.uniform(0, 0.2))
            except TimeoutError:
                pass

    async def _renew(self) -> None:
        request = RenewRequest(request_id=new_id(), gateway=self._instance)
        try:
            reply = await self._rpc.ask("presence", "renew", request, RenewReply)
        except SignallingError as error:
            if not self._late:
                log.warning("lease not renewed", reason=error.message)
            self._late = True
            return
        self._late = False
        if not self.held:
            self._asserted = reply.since  # no session is here yet
            self.held = True
        elif not reply.known or reply.since not in (None, self._asserted):
            self._reassert_all(reply.since)

    def _reassert_all(self, since: int | None) -> None:
        """Reassert all sessions that are here, because presence had ended the lease or lost its data.

        ``since``: of the new lease. If that changes meanwhile, a later renewal begins again.
        """
        if self._reasserting is None or self._reasserting.done():
            self._reasserting = asyncio.create_task(self._reassert_each(since), name="reassert")

    async def _reassert_each(self, since: int | None) -> None:
        sockets = self._registry.joined()
        log.warning("presence does not know this gateway: reasserting", sessions=len(sockets))
        tasks = []
        for socket in sockets:
            tasks.append(self._retrier.run("reassert", lambda socket=socket: self._reassert(socket)))  # type: ignore[misc]
            await asyncio.sleep(1 / REASSERT_PER_SECOND)
        begun = [task for task in tasks if task is not None]
        if begun:
            await asyncio.wait(begun)
        if len(begun) == len(sockets) and all(task.result() for task in begun):
            self._asserted = since

    async def _reassert(self, socket: Socket) -> None:
        user, session = socket.user, socket.session
        if user is None or session is None:
            return
        if socket.gone:
            self._lost(socket)  # presence may have handled an earlier try
            return
        if self._registry.by_session(session) is not socket:
            return
        request = ReassertRequest(
            request_id=new_id(),
            user=user,
            session=session,
            gateway=self._instance,
            socket=socket.sid,
            device=socket.device,
            resume_token=socket.token,
        )
        reply = await self._rpc.ask("presence", "reassert", request, ReassertReply)
        if socket.gone:
            self._lost(socket)  # it broke meanwhile, and that request may have come first
        elif reply.moved:
            await self._replaced(socket)
