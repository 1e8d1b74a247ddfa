"""Collect heartbeats, ``$SRV.STATS``, the contents of streams, and NATS's own report of its connections."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from nats.aio.msg import Msg

from services.callcore.state.model import Call, State
from shared import subjects
from shared.contracts.liveness import Beat
from shared.contracts.presence import CountReply, CountRequest
from shared.errors import Unavailable
from shared.ids import new_id
from shared.messaging.membership import SILENT_SECONDS
from shared.messaging.rpc import RpcClient
from shared.nats.connection import Bus
from signalling.monitor import stream_reader
from signalling.monitor.snapshot import Instance, LiveCall, Nats, Snapshot, Stored

CALLS_MAX = 5_000
"""Number of live calls that are listed."""
RECORDS_MAX = 50_000
"""Number of call records that are read for the list, including calls that ended in the last minute."""
ANSWER_SECONDS = 0.3
"""Time to wait for replies whose number is unknown, in seconds."""

COUNTED = ("relay", "receipt", "acks", "control")
"""Families of subjects that the collector subscribes to and counts; streams count those that they capture."""
STREAMS = {
    subjects.STREAM_DELIVER: "deliver",
    subjects.STREAM_EVENTS: "event",
    subjects.STREAM_DEADLINES: "deadline",
    f"KV_{subjects.BUCKET_SESSIONS}": "$KV.sessions",
    f"KV_{subjects.BUCKET_CALLS}": "$KV.calls",
}
_KV_CALLS = f"$KV.{subjects.BUCKET_CALLS}.call.*"


@dataclass(slots=True)
class _Heard:
    """Records the last heartbeat of an instance, and when it was received (monotonic seconds)."""

    service: str
    beat: Beat
    at: float


@dataclass(slots=True)
class _Counts:
    """Records counters at a time (monotonic seconds). ``work``: instance → (requests, seconds)."""

    at: float
    families: Counter[str] = field(default_factory=Counter)
    work: dict[str, tuple[int, float]] = field(default_factory=dict)


class Collector:
    """Collects snapshots; a rate covers the time since the one before. All raise :class:`shared.errors.Unavailable`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._services = RpcClient(bus, timeout=ANSWER_SECONDS)
        self._heard: dict[str, _Heard] = {}
        self._passed: Counter[str] = Counter()
        self._before: _Counts | None = None

    async def start(self) -> None:
        """Subscribe to heartbeats and to the families that are counted."""
        await self._bus.subscribe(subjects.LIVE, self._on_beat)
        for family in COUNTED:
            await self._bus.subscribe(f"{family}.>", self._on_counted)
        self._bus.publish(subjects.ROLLCALL)
        await self._bus.flush()
        await asyncio.sleep(ANSWER_SECONDS)

    async def _on_beat(self, msg: Msg) -> None:
        service, instance = subjects.parse_live(msg.subject)
        beat = Beat.model_validate_json(msg.data)
        if beat.leaving:
            self._heard.pop(instance, None)
        else:
            self._heard[instance] = _Heard(service, beat, time.monotonic())

    async def _on_counted(self, msg: Msg) -> None:
        self._passed[msg.subject.partition(".")[0]] += 1

    async def look(self) -> Snapshot:
        """Return a snapshot."""
        infos, users, calls, stats, nats = await asyncio.gather(
            self._infos(), self._users(), self._calls(), self._stats(), self._nats()
        )
        now = _Counts(time.monotonic(), Counter(self._passed))
        for name, info in infos.items():
            now.families[STREAMS[name]] = info["state"]["last_seq"]
        for instance, tallies in stats.items():
            requests = sum(tally["requests"] for tally in tallies)
            now.families["rpc"] += requests
            now.work[instance] = (requests, sum(tally["seconds"] for tally in tallies))
        before, self._before = self._before or now, now
        instances = self._instances(stats, before, now)
        return Snapshot(
            at=time.time(),
            instances=instances,
            users=users,
            sockets=sum(instance.sockets or 0 for instance in instances),
            calls=tuple(calls[:CALLS_MAX]),
            calls_left=max(0, len(calls) - CALLS_MAX),
            rates=_rates(before, now),
            nats=nats,
            streams=tuple(_stored(info) for info in infos.values()),
        )

    # --- requests -------------------------------------------------------------------------------------------------

    async def _infos(self) -> dict[str, dict[str, Any]]:
        found = await stream_reader.infos(self._bus)
        return {name: found[name] for name in STREAMS if name in found}

    async def _users(self) -> int | None:
        """Request the number of users from presence, their owner; ``None`` while it does not reply."""
        try:
            request = CountRequest(request_id=new_id())
            return (await self._services.ask("presence", "count", request, CountReply)).users
        except Unavailable:
            return None

    async def _calls(self) -> list[LiveCall]:
        bucket, now, found = f"KV_{subjects.BUCKET_CALLS}", time.time() * 1000, []
        if bucket not in await stream_reader.infos(self._bus):
            return []
        async for message in stream_reader.scan(self._bus, bucket, _KV_CALLS, most=RECORDS_MAX):
            if message.deleted:
                continue
            call = Call.model_validate_json(message.payload)
            if call.state is not State.ENDED:
                found.append(_live(call, now))
        return found

    async def _stats(self) -> dict[str, list[dict[str, Any]]]:
        """Return, by instance, the counters of its endpoints."""
        found: dict[str, list[dict[str, Any]]] = {}
        for answer in await self._everybody("$SRV.STATS"):
            instance = answer.get("metadata", {}).get("instance")
            tallies = [
                each["data"] for each in answer.get("endpoints", []) if isinstance(each.get("data"), dict)
            ]
            if isinstance(instance, str):
                found[instance] = tallies
        return found

    async def _nats(self) -> Nats:
        statz, connz = await asyncio.gather(
            self._everybody("$SYS.REQ.ACCOUNT.PING.STATZ"), self._everybody("$SYS.REQ.ACCOUNT.PING.CONNZ")
        )
        accounts = [each for answer in statz for each in answer["data"].get("account_statz") or []]
        connections = [each for answer in connz for each in answer["data"].get("connections") or []]
        fullest: dict[str, Any] = max(connections, key=lambda each: each["pending_bytes"], default={})
        return Nats(
            servers=len(statz),
            connections=sum(each["conns"] for each in accounts),
            slow_consumers=sum(each["slow_consumers"] for each in accounts),
            pending=sum(each["pending_bytes"] for each in connections),
            pending_for=fullest.get("name", "") if fullest.get("pending_bytes") else "",
        )

    async def _everybody(self, subject: str) -> list[dict[str, Any]]:
        """Return the replies of all services that reply in time."""
        answers: list[dict[str, Any]] = []

        async def take(msg: Msg) -> None:
            if msg.data:
                answers.append(json.loads(msg.data))

        inbox = self._bus.client.new_inbox()
        subscription = await self._bus.subscribe(inbox, take)
        try:
            self._bus.publish(subject, b"", inbox)
            await asyncio.sleep(ANSWER_SECONDS)
        finally:
            if self._bus.connected:
                await subscription.unsubscribe()
        return answers

    # --- results -----------------------------------------------------------------------------------------------

    def _instances(
        self, stats: dict[str, list[dict[str, Any]]], before: _Counts, now: _Counts
    ) -> tuple[Instance, ...]:
        found = []
        for name, last in sorted(self._heard.items(), key=lambda item: (item[1].service, item[0])):
            if now.at - last.at > SILENT_SECONDS:
                continue
            uptime = max(0.0, time.time() - last.beat.started_at / 1000)
            instance = Instance(last.service, name, last.beat.version, uptime, last.beat.sockets)
            found.append(_with_work(instance, stats[name], before, now) if name in stats else instance)
        return tuple(found)


def _with_work(instance: Instance, tallies: list[dict[str, Any]], before: _Counts, now: _Counts) -> Instance:
    requests, seconds = now.work[instance.name]
    then = before.work.get(instance.name, (0, 0.0) if before is not now else (requests, seconds))
    done, took, passed = requests - then[0], seconds - then[1], now.at - before.at
    return Instance(
        instance.service,
        instance.name,
        instance.version,
        instance.uptime,
        instance.sockets,
        requests=requests,
        refused=sum(tally["refused"] for tally in tallies),
        errors=sum(tally["errors"] for tally in tallies),
        rate=done / passed if passed else None,
        ms=took / done * 1000 if done > 0 else None,
    )


def _rates(before: _Counts, now: _Counts) -> dict[str, float]:
    passed = now.at - before.at
    if not passed:
        return {}
    families = ("rpc", *COUNTED, *STREAMS.values())
    then = {name: now.families[name] for name in ("rpc", *STREAMS.values())} | before.families
    # A number that shrinks belongs to a stream or service that began anew.
    return {name: max(0, now.families[name] - then.get(name, 0)) / passed for name in families}


def _live(call: Call, now: float) -> LiveCall:
    return LiveCall(
        call=call.call,
        state=call.state,
        caller=call.caller,
        callee=call.callee,
        call_type=call.call_type,
        age=max(0.0, now - call.created_at) / 1000,
        talking=max(0.0, now - call.accepted_at) / 1000 if call.accepted_at is not None else None,
    )


def _stored(info: dict[str, Any]) -> Stored:
    config, state = info["config"], info["state"]
    replicas = (info.get("cluster") or {}).get("replicas") or []
    return Stored(
        name=config["name"],
        messages=state["messages"],
        size=state["bytes"],
        size_max=config["max_bytes"] if config["max_bytes"] > 0 else None,
        replicas=config["num_replicas"],
        behind=sum(not replica.get("current", False) for replica in replicas),
    )
