"""``signalling history`` on a real stream: ids that the server cannot have minted name no call."""

import asyncio

import pytest
from click.testing import CliRunner

from shared.nats import streams
from shared.nats.connection import Bus
from signalling.cli import main

INITIATED = b'{"callId":"one","caller":"a","callee":"b","callType":"audio","createdAt":1}'


@pytest.mark.parametrize("call", ["*", ">", "one.initiated", "one two", "", "=2A", "x" * 65])
async def test_what_is_no_id_is_no_call(nats_url: str, bus: Bus, call: str) -> None:
    await streams.ensure_events(bus, replicas=1, max_age_hours=72, max_mb=1024)
    await bus.request("event.call.one.initiated", INITIATED, timeout=5)
    runner = CliRunner()
    done = await asyncio.to_thread(runner.invoke, main, ["history", "--nats", nats_url, "one"])
    assert done.exit_code == 0 and "a → b" in done.stdout
    done = await asyncio.to_thread(runner.invoke, main, ["history", "--nats", nats_url, "--", call])
    assert done.exit_code == 1 and "no call" in done.stderr, done.output
