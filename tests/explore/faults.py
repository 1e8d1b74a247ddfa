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
        "the fence is skipped: holds of an earlier try are not taken anew",
        "overtaken as the callee blinks",
        (
            Change(
                "call_setup",
                "self._store.hold(user, Hold(call=request.call, peer=peer, since=since), held.revision)",
                "self._store.hold(user, Hold(call=request.call, peer=peer, since=since), held.revision)\n"
                "                    if held.hold is None or held.hold.call != request.call else self._kept(held)",
            ),
            Change(
                "call_setup",
                "    async def _form(",
                "    async def _kept(self, held: Held) -> int:\n        return held.revision\n\n    async def _form(",
            ),
        ),
    ),
    Fault(
        "a refusal is not final: the last write of an overtaken try may come after it",
        "overtaken as the caller is gone",
        (Change("call_setup", "if not last or await self._abandon(request):", "if True:"),),
    ),
    Fault(
        "a hold is taken whoever has it",
        "two callers of one callee",
        (
            Change(
                "store",
                "return self._calls.put(subjects.key_user(user), hold.dump(), revision)",
                "return self._calls.set(subjects.key_user(user), hold.dump())",
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
                "        if ended:\n            await self.let_both_go(call)\n",
            ),
        ),
    ),
    Fault(
        "no tombstone: a hold that took too long is taken over, and its call may come about yet",
        "overtaken as it looks around",
        (
            Change(
                "store",
                "            await self.create(_tombstone(hold, now), ttl=ENDED_TTL_SECONDS)\n",
                "            pass\n",
            ),
        ),
    ),
    Fault(
        "a hold that is being formed counts as void",
        "two callers of one callee",
        (Change("store", "        if now - hold.since < FORMING_MS:\n            return False\n", ""),),
    ),
    Fault(
        "whoever is released is not asked which call holds them",
        "cancelled and placed by another",
        (
            Change(
                "store",
                "if held.hold is not None and held.hold.call == call:",
                "if held.hold is not None:",
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
        "what a try that is refused has taken is not given back",
        "two callers of one callee",
        (
            Change(
                "call_setup",
                "                await self._store.give_back(taken)\n",
                "                pass\n",
            ),
            Change(
                "store",
                "        await finish_all(self.let_go(user, hold.call), self.let_go(hold.peer, hold.call))\n",
                "",
            ),
        ),
    ),
    Fault(
        "who joins is asked whether they are held before the session is written",
        "the callee's device joins",
        (
            Change(
                "join_service",
                "        came = await self._bring_in(all_)\n",
                "        early = await self._store.busy_each(each.user for each in all_)\n"
                "        came = await self._bring_in(all_)\n",
            ),
            Change(
                "join_service",
                "        busy = await self._store.busy_each(each.user for each in all_)\n",
                "        busy = early\n",
            ),
        ),
    ),
    Fault(
        "devices are read before their user is held",
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
                "        _in_time(request)\n        since = now_ms()",
                "        self.early = await asyncio.gather(self._store.sessions(request.user, fresh=True), "
                "self._store.sessions(request.to, fresh=True))\n"
                "        _in_time(request)\n        since = now_ms()",
            ),
        ),
    ),
    Fault(
        "a lost race is taken for won",
        "two devices accept",
        (
            Change(
                "call_service",
                "            except Conflict:\n                await self._store.lost_race(attempt)\n"
                "        raise Unavailable\n\n"
                "    async def _happen_to(",
                "            except Conflict:\n                return outcome\n        raise Unavailable\n\n"
                "    async def _happen_to(",
            ),
        ),
    ),
    Fault(
        "what this instance has heard last counts without being compared",
        "accepted where it was placed, cancelled",
        (
            Change(
                "call_service",
                "            return await self._become(outcome, known, call_input, expires_at, initiated)\n"
                "        except Conflict:\n            return None",
                "            return await self._become(outcome, known, call_input, expires_at, initiated)\n"
                "        except Conflict:\n            return outcome",
            ),
        ),
    ),
    Fault(
        "a request tried again is another request",
        "death while accepting",
        (
            Change(
                "call_service",
                "            if _is_its_deed(found.call, call_input):\n"
                "                return await self._repeat(found, call_input, expires_at, initiated)\n",
                "",
            ),
        ),
    ),
    Fault(
        "a request tried again tells nobody",
        "death while accepting",
        (
            Change(
                "call_service",
                "            outcome = actions.as_initiated(outcome, call_input)\n"
                "        self._notifier.tell(outcome, found.revision,",
                "            outcome = actions.as_initiated(outcome, call_input)\n"
                "        (lambda *_, **__: None)(outcome, found.revision,",
            ),
        ),
    ),
    Fault(
        "death between end and release: a request tried again releases nobody",
        "death while ending",
        (Change("call_service", "            await self._store.let_both_go(call)\n", "            pass\n"),),
    ),
    Fault(
        "a try that was overtaken releases what the other try needs",
        "overtaken as the caller is gone",
        (Change("call_setup", "if not (created or again):", "if not created:"),),
    ),
    Fault(
        "who left is looked for by what holds them only",
        "death while one leaves",
        (Change("handlers", "if request.attempt > 1 and request.call is not None:", "if False:"),),
    ),
    Fault(
        "a call that was given up for dead is answered as if it rang",
        "overtaken as it looks around",
        (
            Change(
                "call_setup",
                "        _not_abandoned(found.call)\n        if found.call.state is State.RINGING",
                "        if found.call.state is State.RINGING",
            ),
        ),
    ),
)
