"""The bus while NATS is away, and when it is back."""

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack

import pytest
import uvloop
from nats.aio.msg import Msg
from nats.errors import OutboundBufferLimitError

from services.callcore.app import start
from services.callcore.settings import Settings
from shared.errors import Unavailable
from shared.messaging.membership import Membership
from shared.nats import streams
from shared.nats.compat.publisher import UNSENT_BYTES
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats
from tests.support.hanging_nats import freeze


async def until(check, timeout: float = 15.0) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(timeout):
        while not check():
            await asyncio.sleep(0.02)


async def test_who_waits_for_an_answer_is_told_at_once_that_nats_is_gone(
    nats_server: EmbeddedNats, bus: Bus
) -> None:
    async def silent(_: Msg) -> None:
        """Never answers."""

    await bus.subscribe("silence", silent)
    waiting = asyncio.create_task(bus.request("silence", b"", timeout=30))
    await bus.flush()
    begin = time.monotonic()
    nats_server.kill()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await bus.request("silence", b"", timeout=30)
    with pytest.raises(Unavailable):
        bus.publish("silence")
    assert time.monotonic() - begin < 1
    nats_server.start()
    await until(lambda: bus.connected)
    await bus.flush()


async def test_who_is_not_answered_in_time_is_told_and_nothing_is_kept_of_who_went_away(bus: Bus) -> None:
    async def late(msg: Msg) -> None:
        await asyncio.sleep(0.4)
        await msg.respond(b"late")

    await bus.subscribe("late", late)
    went_away = asyncio.create_task(bus.request("late", b"", timeout=0.2))
    await asyncio.sleep(0.05)
    went_away.cancel()
    begin = time.monotonic()
    with pytest.raises(Unavailable):
        await bus.request("late", b"", timeout=0.2)
    assert 0.2 <= time.monotonic() - begin < 0.4
    await until(lambda: bus.asking == 0)
    assert (await bus.request("late", b"", timeout=5)).data == b"late", "answers too late go to nobody"


async def test_services_and_streams_are_there_again_after_a_restart(
    nats_server: EmbeddedNats, nats_url: str, bus: Bus
) -> None:
    members = Membership(bus, "callcore")
    await members.start()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(start(Settings.model_validate({"nats_url": nats_url}), "cc-1"))
        await until(lambda: members.alive("callcore"))
        nats_server.kill()
        await until(lambda: not bus.connected)
        nats_server.start()
        await until(lambda: bus.connected and members.alive("callcore") == ("cc-1",))
        for stream in ("DELIVER", "EVENTS", "DEADLINES", "KV_calls"):
            async with asyncio.timeout(10):
                while "error" in await streams.api(bus, f"STREAM.INFO.{stream}", {}):
                    await asyncio.sleep(0.1)
    await members.stop()


async def test_what_nats_does_not_take_is_bounded(nats_server: EmbeddedNats, bus: Bus) -> None:
    """A server that hangs: publishing goes on up to a bound, is refused past it, and works again afterwards."""
    message = bytes(512 * 1024)

    async def publish_much() -> None:
        for _ in range(4 * UNSENT_BYTES // len(message)):
            bus.publish("much", message)
            await asyncio.sleep(0)

    pid = freeze(nats_server)
    try:
        with pytest.raises(Unavailable):
            await publish_much()
    finally:
        os.kill(pid, signal.SIGCONT)
    await bus.flush(10)
    bus.publish("much")


async def test_what_had_not_left_when_nats_went_never_leaves(
    nats_server: EmbeddedNats, nats_url: str, bus: Bus
) -> None:
    """A server that hangs, with more than the connection holds waiting to be sent, and is killed."""
    heard: list[bytes] = []
    async with AsyncExitStack() as stack:
        other = await Bus.connect(nats_url, name="other")
        stack.push_async_callback(other.close)
        await other.subscribe_direct("stale", lambda _s, _r, payload, _h: heard.append(payload[:5]))
        await other.flush()
        late = b"stale" + bytes(512 * 1024)
        freeze(nats_server)
        while bus.client.pending_data_size < UNSENT_BYTES // 4:
            bus.publish("stale", late)
            await asyncio.sleep(0)
        nats_server.kill()
        await until(lambda: not bus.connected and not other.connected)
        with pytest.raises(OutboundBufferLimitError):
            await bus.client.publish("stale", b"stale")  # nats-py's own way
        nats_server.start()
        await until(lambda: bus.connected and other.connected)
        await bus.flush()
        bus.publish("stale", b"fresh")
        await until(lambda: b"fresh" in heard)
        assert heard == [b"fresh"]


def test_a_connection_that_has_just_broken_is_not_written_to(nats_url: str) -> None:
    """On the loop that services run on, which raises where asyncio only warns."""
    failures: list[str] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: failures.append(context["message"])
        )
        bus = await Bus.connect(nats_url, name="broken")
        notice = bus.client._process_op_err

        async def notice_late(error: Exception) -> None:
            await asyncio.sleep(0.05)
            await notice(error)

        bus.client._process_op_err = notice_late  # type: ignore[method-assign]
        since = bus.connected_since
        bus.client._transport._io_writer.transport.abort()
        await asyncio.sleep(0.02)
        assert bus.connected, "nats-py has noticed already"
        bus.publish("late", b"late")
        await until(lambda: bus.connected and bus.connected_since > since)
        await bus.flush()
        await bus.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
    assert failures == []
