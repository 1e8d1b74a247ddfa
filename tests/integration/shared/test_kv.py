"""Buckets on a real server, and that the test's own bucket behaves as they do."""

import asyncio
import random
from pathlib import Path

import pytest

from shared.nats import kv, streams
from shared.nats.connection import Bus
from shared.nats.kv import ABSENT, NOTHING, Bucket, Conflict, Entry, NoBucket
from signalling.run import nats_server as servers
from signalling.run.nats_server import EmbeddedNats
from tests.support.gated_bucket import Gate, GatedBucket


async def bucket(bus: Bus, name: str = "calls") -> Bucket:
    await Bucket.create(bus, name, replicas=1)
    return Bucket(bus, name)


async def test_a_key_is_written_only_at_the_revision_expected(bus: Bus) -> None:
    calls = await bucket(bus)
    first = await calls.put("user.a", b"1", ABSENT)
    with pytest.raises(Conflict):
        await calls.put("user.a", b"2", ABSENT)
    second = await calls.put("user.a", b"2", first)
    with pytest.raises(Conflict):
        await calls.delete("user.a", first)
    assert await calls.get("user.a") == Entry(b"2", second) == await calls.get("user.a", fresh=True)


async def test_of_many_who_write_at_once_one_is_first(bus: Bus) -> None:
    calls = await bucket(bus)
    results = await asyncio.gather(
        *(calls.put("user.a", str(i).encode(), ABSENT) for i in range(50)), return_exceptions=True
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 49


async def test_a_deleted_key_is_absent_with_a_revision_and_can_be_written(bus: Bus) -> None:
    calls = await bucket(bus)
    revision = await calls.put("user.a", b"1", ABSENT)
    await calls.delete("user.a", revision, b"why")
    for fresh in (False, True):
        entry = await calls.get("user.a", fresh=fresh)
        assert entry.value is None and entry.note == b"why"
        assert entry.revision > revision
    await calls.put("user.a", b"2", entry.revision)


async def _asked_of_the_leader(bus: Bus, calls: Bucket, times: int) -> int:
    """How many of so many fresh reads, each right after a write, went to the stream's leader. All see the write."""
    asked: list[str] = []
    subscription = await bus.subscribe_direct(
        "$JS.API.STREAM.MSG.GET.>", lambda subject, *_: asked.append(subject)
    )
    revision = (await calls.get("user.a", fresh=True)).revision
    for number in range(times):
        revision = await calls.put("user.a", b"%d" % number, revision)
        assert await calls.get("user.a", fresh=True) == Entry(b"%d" % number, revision)
    await bus.flush()
    await subscription.unsubscribe()
    return len(asked)


async def test_the_only_replica_is_as_fresh_as_the_leader_and_asked_directly(bus: Bus) -> None:
    calls = await bucket(bus)
    async with asyncio.timeout(10):
        while await _asked_of_the_leader(bus, calls, 10):  # until it is known that there is but one
            await asyncio.sleep(0.05)
    await bus.request("$JS.API.STREAM.DELETE.KV_calls", b"", timeout=30)
    with pytest.raises(NoBucket):
        await calls.get("user.a", fresh=True)


async def test_of_several_replicas_the_leader_is_asked(tmp_path: Path) -> None:
    nodes = servers.cluster(tmp_path, 3)
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait()
        bus = await Bus.connect(servers.joint_url(nodes), name="test")
        try:
            made = streams.StreamKeeper(bus, lambda: Bucket.create(bus, "calls", replicas=3))
            await made.start()
            calls = Bucket(bus, "calls")
            await _asked_of_the_leader(bus, calls, 5)
            assert await _asked_of_the_leader(bus, calls, 10) == 11
            await made.stop()
        finally:
            await bus.close()
    finally:
        for node in nodes:
            node.kill()


async def test_an_entry_with_a_ttl_goes_and_leaves_nothing(bus: Bus) -> None:
    calls = await bucket(bus)
    await calls.put("call.c", b"ended", ABSENT, ttl=1)
    async with asyncio.timeout(10):
        while await calls.get("call.c", fresh=True) != NOTHING:
            await asyncio.sleep(0.1)
    assert await calls.keys() == []
    await calls.put("call.c", b"again", ABSENT)


async def test_keys_are_listed(bus: Bus) -> None:
    calls = await bucket(bus)
    for name in ("user.a", "call.b", "call.=2E"):
        await calls.put(name, b"x", ABSENT)
    assert sorted(await calls.keys()) == ["call.=2E", "call.b", "user.a"]
    assert sorted(await calls.keys("call.*")) == ["call.=2E", "call.b"]


def _scripts() -> list[list[tuple[str, str, int]]]:
    """Sixty random scripts of puts, deletes and gets that expect the current revision, an older one or none."""
    dice = random.Random(7)
    names = ("put", "delete", "get")
    return [
        [(dice.choice(names), dice.choice("ab"), dice.randint(0, 2)) for _ in range(dice.randint(1, 14))]
        for _ in range(60)
    ]


async def test_the_gated_bucket_behaves_like_a_real_one(bus: Bus) -> None:
    for number, script in enumerate(_scripts()):
        gate = Gate()
        real, gated = await bucket(bus, f"b{number}"), GatedBucket(gate, "calls")
        assert await _trace(real, script, None) == await _trace(gated, script, gate), script


async def _trace(
    subject: Bucket | GatedBucket, script: list[tuple[str, str, int]], gate: Gate | None
) -> list[str]:
    """What came of each operation, revisions as ranks."""
    revisions: dict[str, list[int]] = {"a": [ABSENT], "b": [ABSENT]}
    trace = []
    for name, key, back in script:
        known = revisions[key]
        expected = known[-1 - min(back, len(known) - 1)]
        task = asyncio.ensure_future(_do(subject, name, key, expected))
        if gate is not None:
            await gate.settle()
            await gate.let(0)
        try:
            entry_or_revision = await task
        except Conflict:
            trace.append("conflict")
            continue
        if name == "get":
            trace.append(f"{entry_or_revision[0]!r} {known.index(entry_or_revision[1]) == len(known) - 1}")
        else:
            known.append((await _current(subject, key, gate))[1])
            trace.append(name)
    return trace


async def _do(subject, name, key, expected):  # type: ignore[no-untyped-def]
    if name == "put":
        return await subject.put(key, b"v", expected)
    if name == "delete":
        return await subject.delete(key, expected)
    return await subject.get(key)


async def _current(subject, key, gate):  # type: ignore[no-untyped-def]
    task = asyncio.ensure_future(subject.get(key))
    if gate is not None:
        await gate.settle()
        await gate.let(0)
    return await task


async def test_what_was_deleted_stays_deleted_when_the_server_is_killed(
    nats_server: EmbeddedNats, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its marker, or an entry with a TTL, had expired a moment before."""
    monkeypatch.setattr(kv, "MARKER_TTL_SECONDS", 1)
    await Bucket.create(bus, "rising", replicas=1)
    bucket = Bucket(bus, "rising")

    async def live_and_die(n: int) -> None:
        revision = await bucket.put(f"deleted{n}", b"one", ABSENT)
        revision = await bucket.put(f"deleted{n}", b"two", revision)
        await bucket.delete(f"deleted{n}", revision)
        revision = await bucket.put(f"expired{n}", b"one", ABSENT)
        await bucket.put(f"expired{n}", b"two", revision, ttl=1)

    await asyncio.gather(*(live_and_die(n) for n in range(50)))
    stays = await bucket.put("stays", b"one", ABSENT)
    await bucket.put("stays", b"two", stays)
    async with asyncio.timeout(10):
        while await bucket.keys() != ["stays"]:
            await asyncio.sleep(0.1)
    nats_server.kill()
    nats_server.start()
    again = await Bus.connect(nats_server.url, name="again")
    try:
        bucket = Bucket(again, "rising")
        assert await bucket.keys() == ["stays"]
        assert (await bucket.get("stays", fresh=True)).value == b"two"
    finally:
        await again.close()
