"""Streams and buckets where NATS has little room: what fits starts again, what does not is refused."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.callcore.app import start as start_callcore
from services.callcore.settings import Settings as Callcore
from services.presence.app import start as start_presence
from services.presence.settings import Settings as Presence
from shared.errors import Unavailable
from shared.nats import streams
from shared.nats.connection import Bus
from shared.nats.kv import ABSENT, Bucket
from shared.nats.streams import DoesNotFit
from shared.service.settings import EXIT_USAGE
from signalling.run import nats_server as servers
from signalling.run.nats_server import EmbeddedNats
from tests.support.service_process import REPOSITORY, clean_environment

ROOM = "max_memory_store: 64MB\n max_file_store: 64MB"
MOST = {"events_max_mb": 40, "deliver_max_mb": 40}
"""More than half of the room, so that there is none for a second one of each."""


@pytest_asyncio.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    server = EmbeddedNats(tmp_path / "nats", jetstream=ROOM)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _callcore(url: str, name: str, **settings: Any) -> Any:
    return start_callcore(Callcore.model_validate({"nats_url": url, **MOST, **settings}), name)


def _presence(url: str, name: str, **settings: Any) -> Any:
    values = {"nats_url": url, "events_max_mb": 40, **settings}
    return start_presence(Presence.model_validate(values), name)


async def test_a_second_and_a_restarted_instance_start(nats_url: str) -> None:
    for _ in range(2):
        async with AsyncExitStack() as stack:
            for number in (1, 2):
                await stack.enter_async_context(_callcore(nats_url, f"cc-{number}"))
                await stack.enter_async_context(_presence(nats_url, f"pr-{number}"))


@pytest.mark.parametrize("setting", MOST)
async def test_a_setting_that_does_not_fit_is_refused_by_name(nats_url: str, setting: str) -> None:
    with pytest.raises(DoesNotFit, match=f"^{setting.upper()}=65: "):
        async with _callcore(nats_url, "cc-1", **{setting: 65}):
            pass


@pytest.mark.parametrize("setting", MOST)
async def test_a_change_is_made_if_it_fits_and_refused_by_name_if_not(
    nats_url: str, bus: Bus, setting: str
) -> None:
    stream = "EVENTS" if setting.startswith("events") else "DELIVER"
    async with _callcore(nats_url, "cc-1"):
        async with _callcore(nats_url, "cc-2", **{setting: 50}):
            info = await streams.api(bus, f"STREAM.INFO.{stream}", {})
            assert info["config"]["max_bytes"] == 50 * streams.MB
        with pytest.raises(DoesNotFit, match=f"^{setting.upper()}=65: "):
            async with _callcore(nats_url, "cc-3", **{setting: 65}):
                pass
        info = await streams.api(bus, f"STREAM.INFO.{stream}", {})
        assert info["config"]["max_bytes"] == 50 * streams.MB


@pytest.mark.parametrize(
    ("service", "setting"),
    [("callcore", "EVENTS_MAX_MB"), ("callcore", "DELIVER_MAX_MB"), ("presence", "EVENTS_MAX_MB")],
)
def test_the_process_says_so_in_one_line_and_ends(nats_url: str, service: str, setting: str) -> None:
    env = {
        **clean_environment(),
        "NATS_URL": nats_url,
        "EVENTS_MAX_MB": "1",
        "DELIVER_MAX_MB": "1",
        setting: "100",
    }
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == EXIT_USAGE
    said = [line for line in (done.stdout + done.stderr).splitlines() if f"{setting}=100" in line]
    assert len(said) == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


async def test_buckets_that_exist_are_there_when_the_disk_is_full(nats_url: str, bus: Bus) -> None:
    await Bucket.create(bus, "calls", replicas=1)
    await streams.ensure_deadlines(bus, replicas=1)
    bucket = Bucket(bus, "calls")
    for number in range(100):
        try:
            await bucket.put(f"key.{number}", bytes(1000_000), ABSENT)
        except Unavailable:
            break
    assert bus.full.streams() == ("KV_calls",)
    await Bucket.create(bus, "calls", replicas=1)
    await streams.ensure_deadlines(bus, replicas=1)


async def test_in_a_cluster_too(tmp_path: Path) -> None:
    nodes = [
        EmbeddedNats(tmp_path / member.name, member=member, jetstream=ROOM) for member in servers.members(3)
    ]
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait()
        bus = await Bus.connect(servers.joint_url(nodes), name="test")

        async def ensure(max_mb: int) -> None:
            await streams.ensure_events(bus, replicas=3, max_age_hours=72, max_mb=max_mb)

        most = int(MOST["events_max_mb"])
        keeper = streams.StreamKeeper(bus, lambda: ensure(most))
        await keeper.start()
        await ensure(most)
        with pytest.raises(Unavailable, match=r"^EVENTS_MAX_MB=65: "):
            await ensure(65)
        await streams.api(bus, "STREAM.DELETE.EVENTS", {})
        with pytest.raises(Unavailable, match=r"^EVENTS_MAX_MB=65: "):
            await ensure(65)
        await keeper.stop()
        await bus.close()
    finally:
        for node in nodes:
            node.kill()
