"""Faults planted in the code of the services: each must be found in the world that is named, and none without it."""

from typing import NamedTuple

from tests.explore.code import Change


class Fault(NamedTuple):
    """A mistake that a developer could make. ``world``: the smallest one in which it shows."""

    name: str
    world: str
    changes: tuple[Change, ...]


FAULTS = (
    Fault(
        "the fence is skipped: reservations of an earlier try are not written anew",
        "overtaken as the callee blinks",
        (
            Change(
                "call_setup",
                "self._store.reserve(\n"
                "                        user, Reservation(call=request.call, peer=peer, since=since), entry.revision\n"
                "                    )\n",
                "(\n"
                "                        self._store.reserve(\n"
                "                            user, Reservation(call=request.call, peer=peer, since=since), "
                "entry.revision\n"
                "                        )\n"
                "                        if entry.reservation is None or entry.reservation.call != request.call\n"
                "                        else self._kept(entry)\n"
                "                    )\n",
            ),
            Change(
                "call_setup",
                "    async def _build(",
                "    async def _kept(self, entry: ReservationEntry) -> int:\n        return entry.revision\n\n"
                "    async def _build(",
            ),
        ),
    ),
    Fault(
        "a refusal is not final: the last write of an overtaken try may come after it",
        "overtaken as the caller is gone",
        (Change("call_setup", "if not last or await self._abandon(request):", "if True:"),),
    ),
    Fault(
        "a user is reserved although another call reserves them",
        "two callers of one callee",
        (
            Change(
                "store",
                "return self._calls.put(subjects.key_user(user), reservation.dump(), revision)",
                "return self._calls.set(subjects.key_user(user), reservation.dump())",
            ),
        ),
    ),
    Fault(
        "a call is written whatever it has become",
        "accepted and cancelled",
        (
            Change(
                "store",
                "subjects.key_call(call.call), call.dump(), revision, ttl=ENDED_TTL_SECONDS if",
                "subjects.key_call(call.call), call.dump(), "
                "(await self._calls.get(subjects.key_call(call.call))).revision, ttl=ENDED_TTL_SECONDS if",
            ),
        ),
    ),
    Fault(
        "users are released before their call has ended",
        "both hang up",
        (
            Change(
                "store",
                "        ended = call.state is State.ENDED\n",
                "        ended = call.state is State.ENDED\n"
                "        if ended:\n            await self.release_both(call)\n",
            ),
        ),
    ),
    Fault(
        "no tombstone: a reservation that took too long is replaced, and its call may still be created",
        "overtaken as it looks around",
        (
            Change(
                "store",
                "            await self.create(_tombstone(reservation, now), ttl=ENDED_TTL_SECONDS)\n",
                "            pass\n",
            ),
        ),
    ),
    Fault(
        "a reservation whose call is being created counts as void",
        "two callers of one callee",
        (
            Change(
                "store", "        if now - reservation.since < FORMING_MS:\n            return False\n", ""
            ),
        ),
    ),
    Fault(
        "a user is released although another call reserves them",
        "cancelled and placed by another",
        (
            Change(
                "store",
                "if entry.reservation is not None and entry.reservation.call == call:",
                "if entry.reservation is not None:",
            ),
            Change(
                "store",
                "        if revision and await self.release(user, revision, note):\n            return True\n",
                "",
            ),
        ),
    ),
    Fault(
        "the deadline is set after the call",
        "placed, accepted, due",
        (
            Change(
                "call_setup",
                "deadline, creation = self._set_deadline(call), self._store.create(call)",
                "creation = self._store.create(call)",
            ),
            Change(
                "call_setup",
                "_, revision = await asyncio.gather(deadline, creation, return_exceptions=True)",
                "(revision,) = await asyncio.gather(creation, return_exceptions=True); self._set_deadline(call)",
            ),
        ),
    ),
    Fault(
        "reservations of a refused try are not released",
        "two callers of one callee",
        (
            Change(
                "call_setup",
                "                await self._store.release_all(taken)\n",
                "                pass\n",
            ),
            Change(
                "store",
                "        await finish_all(\n"
                "            self.release_from(user, reservation.call), "
                "self.release_from(reservation.peer, reservation.call)\n"
                "        )\n",
                "",
            ),
        ),
    ),
    Fault(
        "a joining user is checked for a reservation before the session is written",
        "the callee's device joins",
        (
            Change(
                "join_service",
                "        outcomes = await self._join_each(all_)\n",
                "        early = await self._store.busy_each(each.user for each in all_)\n"
                "        outcomes = await self._join_each(all_)\n",
            ),
            Change(
                "join_service",
                "        busy = await self._store.busy_each(each.user for each in all_)\n",
                "        busy = early\n",
            ),
        ),
    ),
    Fault(
        "devices are read before their user is reserved",
        "the callee's device joins",
        (
            Change(
                "call_setup",
                "        mine, theirs = await asyncio.gather(\n"
                "            self._store.sessions(request.user, fresh=True), "
                "self._store.sessions(request.to, fresh=True)\n        )\n",
                "        mine, theirs = self.early\n",
            ),
            Change(
                "call_setup",
                "        _check_time(request)\n        since = now_ms()",
                "        self.early = await asyncio.gather(self._store.sessions(request.user, fresh=True), "
                "self._store.sessions(request.to, fresh=True))\n"
                "        _check_time(request)\n        since = now_ms()",
            ),
        ),
    ),
    Fault(
        "a lost race counts as won",
        "two devices accept",
        (
            Change(
                "call_service",
                "            except Conflict:\n                await self._store.lost_race(attempt)\n"
                "        raise Unavailable\n\n"
                "    async def _apply_cached(",
                "            except Conflict:\n                return outcome\n        raise Unavailable\n\n"
                "    async def _apply_cached(",
            ),
        ),
    ),
    Fault(
        "the cached call counts without compare-and-set",
        "accepted where it was placed, cancelled",
        (
            Change(
                "call_service",
                "            return await self._commit(outcome, cached, call_input, expires_at, initiated)\n"
                "        except Conflict:\n            return None",
                "            return await self._commit(outcome, cached, call_input, expires_at, initiated)\n"
                "        except Conflict:\n            return outcome",
            ),
        ),
    ),
    Fault(
        "a repeated request counts as another request",
        "death while accepting",
        (
            Change(
                "call_service",
                "            if _is_cause_of(found.call, call_input):\n"
                "                return await self._redeliver(found, call_input, expires_at, initiated)\n",
                "",
            ),
        ),
    ),
    Fault(
        "a repeated request notifies no session",
        "death while accepting",
        (
            Change(
                "call_service",
                "        self._notifier.notify(\n            outcome, found.revision,",
                "        (lambda *_, **__: None)(\n            outcome, found.revision,",
            ),
        ),
    ),
    Fault(
        "death between end and release: a repeated request releases no user",
        "death while ending",
        (Change("call_service", "            await self._store.release_both(call)\n", "            pass\n"),),
    ),
    Fault(
        "an overtaken try releases reservations that the other try needs",
        "overtaken as the caller is gone",
        (Change("call_setup", "if not (created or again):", "if not created:"),),
    ),
    Fault(
        "a leave is applied only to the call that reserves the user now",
        "death while one leaves",
        (Change("handlers", "if request.attempt > 1 and request.call is not None:", "if False:"),),
    ),
    Fault(
        "an abandoned call is answered as if it rang",
        "overtaken as it looks around",
        (
            Change(
                "call_setup",
                "        _check_not_abandoned(found.call)\n        if found.call.state is State.RINGING",
                "        if found.call.state is State.RINGING",
            ),
        ),
    ),
)
