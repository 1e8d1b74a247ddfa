"""The tasks of the NATS client: whatever ends one, the connection is closed and opened again within a second."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.errors import StaleConnectionError

from services.callcore.app import start as start_callcore
from services.callcore.settings import Settings as CallcoreSettings
from services.gateway.app import start as start_gateway
from services.gateway.settings import Settings as GatewaySettings
from services.presence.app import start as start_presence
from services.presence.settings import Settings as PresenceSettings
from shared.errors import Unavailable
from shared.nats.compat.client import TASKS
from shared.nats.connection import Bus
from signalling.run.nats_server import EmbeddedNats
from tests.support.cluster import free_port
from tests.support.hanging_nats import freeze

SECONDS = 1.0
MARGIN_SECONDS = 5.0
"""For a machine that has other things to do; without supervision the connection stays dead for 15 s or for ever."""


async def _until(check: Callable[[], object], timeout: float = SECONDS + MARGIN_SECONDS) -> None:
    async with asyncio.timeout(timeout):
        while not check():
            await asyncio.sleep(0.01)


async def _hears(bus: Bus) -> bool:
    """True if a message that the bus publishes reaches a subscription of the bus."""
    async with asyncio.timeout(5):
        return (await bus.request("echo", b"x", timeout=5)).data == b"x"


async def _echo(bus: Bus) -> None:
    async def echo(msg: Msg) -> None:
        await msg.respond(msg.data)

    await bus.subscribe("echo", echo)
    await bus.flush()


async def test_a_pong_whose_waiter_has_given_up_is_ignored(nats_server: EmbeddedNats, bus: Bus) -> None:
    await _echo(bus)
    pid, since = freeze(nats_server), bus.connected_since
    try:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await bus.flush(0.1)
        given_up = await bus.ping()
        assert given_up is not None and given_up.cancel()
    finally:
        os.kill(pid, signal.SIGCONT)
    await bus.flush(5)
    assert await _hears(bus)
    assert bus.connected_since == since, "the connection was not needed to be opened again"


def _plant_in_reader(bus: Bus) -> None:
    parse = bus.client._ps.parse

    async def fail_once(data: bytes = b"") -> None:
        bus.client._ps.parse = parse  # type: ignore[method-assign]
        raise KeyError("planted")

    bus.client._ps.parse = fail_once  # type: ignore[method-assign]


def _plant_in_flusher(bus: Bus) -> None:
    transport: Any = bus.client._transport
    writelines = transport.writelines

    def fail_once(_: object) -> None:
        transport.writelines = writelines
        raise KeyError("planted")

    transport.writelines = fail_once


def _plant_in_pings(bus: Bus) -> None:
    ping = bus.client._send_ping

    async def fail_once(future: object = None) -> None:
        if asyncio.current_task() is bus.client._ping_interval_task:
            bus.client._send_ping = ping  # type: ignore[method-assign]
            raise KeyError("planted")
        await ping(future)  # type: ignore[arg-type]

    bus.client._send_ping = fail_once  # type: ignore[method-assign]


PLANTED = {"reader": _plant_in_reader, "flusher": _plant_in_flusher, "pings": _plant_in_pings}


@pytest.mark.parametrize("task", TASKS)
async def test_an_exception_in_a_task_opens_the_connection_again(
    monkeypatch: pytest.MonkeyPatch, nats_url: str, task: str
) -> None:
    monkeypatch.setattr("shared.nats.connection.PING_SECONDS", 0.3)
    bus = await Bus.connect(nats_url, name="test")
    try:
        await _echo(bus)
        since = bus.connected_since
        PLANTED[task](bus)
        await bus.client._send_subscribe(next(iter(bus.client._subs.values())))  # something for the flusher
        assert await bus.ping() is not None  # and for the reader
        await _until(lambda: bus.connected and bus.connected_since > since)
        assert await _hears(bus)
        assert bus.broken[task] == 1
        assert bus.client.stats["reconnects"] == 1
    finally:
        await bus.close()


@pytest.mark.parametrize("task", TASKS)
async def test_a_cancelled_task_opens_the_connection_again(bus: Bus, task: str) -> None:
    await _echo(bus)
    since = bus.connected_since
    running = getattr(bus.client, TASKS[task])
    running.cancel()
    await _until(lambda: bus.connected and bus.connected_since > since)
    assert await _hears(bus)
    assert bus.broken[task] == 1


async def test_an_exception_while_reconnecting_is_one_more_try(bus: Bus) -> None:
    await _echo(bus)
    since, connect = bus.connected_since, bus.client._process_connect_init
    called: list[str] = []

    async def fail_once() -> None:
        bus.client._process_connect_init = connect  # type: ignore[method-assign]
        called.append("init")
        raise ValueError("planted")

    async def bad_hook() -> None:
        called.append("bad hook")
        raise KeyError("planted")

    async def good_hook() -> None:
        called.append("good hook")

    bus.client._process_connect_init = fail_once  # type: ignore[method-assign]
    bus.on_reconnect += [bad_hook, good_hook]
    bus.client._transport._io_writer.transport.abort()  # type: ignore[union-attr]
    await _until(lambda: bus.connected and bus.connected_since > since and "good hook" in called)
    assert called == ["init", "bad hook", "good hook"]
    assert await _hears(bus)
    assert bus.broken["reconnect"] == 1


async def test_a_server_that_refuses_a_line_is_connected_to_again(bus: Bus) -> None:
    """nats-py closes its connection for good when the server says ``-ERR`` about anything but a permission."""
    await _echo(bus)
    since = bus.connected_since
    bus.client._transport.write(b"NONSENSE\r\n")  # type: ignore[union-attr]
    await _until(lambda: bus.connected and bus.connected_since > since)
    assert await _hears(bus)


async def test_a_handler_that_is_cancelled_hears_the_next_message(bus: Bus) -> None:
    heard: list[bytes] = []

    async def handler(msg: Msg) -> None:
        heard.append(msg.data)
        if len(heard) == 1:
            given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            given_up.cancel()
            await given_up

    await bus.subscribe("subject", handler)
    for payload in (b"1", b"2"):
        bus.publish("subject", payload)
    await _until(lambda: heard == [b"1", b"2"])


async def test_unsent_bytes_do_not_keep_a_dead_connection_open(tmp_path: Path) -> None:
    servers = [EmbeddedNats(tmp_path / name) for name in ("a", "b")]
    for server in servers:
        server.start()
    bus = await Bus.connect(",".join(server.url for server in servers), name="test")
    try:
        await _echo(bus)
        port = bus.client.connected_url.port  # type: ignore[union-attr]
        frozen = next(server for server in servers if server.url.endswith(f":{port}"))
        freeze(frozen)
        for _ in range(24):
            bus.publish("much", bytes(512 * 1024))
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert bus.unsent > 0
        since = bus.connected_since
        await bus.client._process_op_err(StaleConnectionError())
        await _until(
            lambda: bus.connected and bus.connected_since > since, 6
        )  # it may try the frozen one first
        assert await _hears(bus)
    finally:
        await bus.close()
        for server in servers:
            server.kill()


SERVICES = {
    "callcore": lambda url: start_callcore(CallcoreSettings.model_validate({"nats_url": url}), "cc-1"),
    "presence": lambda url: start_presence(PresenceSettings.model_validate({"nats_url": url}), "pr-1"),
    "gateway": lambda url: start_gateway(
        GatewaySettings.model_validate({"nats_url": url, "port": free_port()}), "gw-1"
    ),
}


@pytest.mark.parametrize("service", SERVICES)
async def test_every_service_hears_again(
    monkeypatch: pytest.MonkeyPatch, nats_url: str, bus: Bus, service: str
) -> None:
    """A reader that dies in a service: its beacon asks and is heard again."""
    connect, buses = Bus.connect, []

    async def connect_and_keep(*args: Any, **options: Any) -> Bus:
        buses.append(await connect(*args, **options))
        return buses[-1]

    async with AsyncExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(Bus, "connect", connect_and_keep)
            await stack.enter_async_context(SERVICES[service](nats_url))
        (own,) = buses
        await _echo(own)
        since = own.connected_since
        _plant_in_reader(own)
        begun = time.monotonic()
        bus.publish("echo")
        await _until(lambda: own.connected and own.connected_since > since)
        assert (await bus.request("echo", b"x", timeout=5)).data == b"x"
        assert time.monotonic() - begun < SECONDS + MARGIN_SECONDS
        assert own.broken["reader"] == 1
