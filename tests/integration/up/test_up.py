"""Start, watch, stop: on real processes, with a real nats-server and fake services."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import nats.errors
import pytest

from signalling.nats_users import ALL, MONITOR, Passwords
from signalling.run.nats_server import EmbeddedNats
from tests.integration.up.conftest import ROOT, Running, alive, command_line, descendants
from tests.support.nats_users import Access
from tests.support.raw_client import RawClient

Up = Callable[..., Running]
ANY = ("--port", "0")


def everything(running: Running) -> list[int]:
    """All processes of it."""
    return [running.process.pid, *descendants(running.process.pid)]


def nothing_left(running: Running, pids: list[int]) -> None:
    """No process, no port, no folder."""
    assert [pid for pid in pids if alive(pid)] == []
    assert list(running.temp.iterdir()) == []


def answers(url: str) -> bool:
    """Whether somebody is ready there."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def refused(running: Running) -> str:
    """The one line with which it refuses."""
    assert running.process.wait(20) not in (0, None)
    lines = running.out.splitlines()
    assert len(lines) == 1, running.out
    assert "Traceback" not in running.out
    assert list(running.temp.iterdir()) == []
    return lines[0]


# --- start and stop ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_what_was_asked_for_and_leaves_nothing(up: Up, number: signal.Signals) -> None:
    running = up(*ANY, "--gateways", "2", "--callcores", "2", "--presences", "2")
    urls = running.ready()
    assert len(urls) == 2 and all(answers(url) for url in urls)
    assert len(running.trace("born")) == 6
    pids = everything(running)
    assert running.stop(number) == 0
    nothing_left(running, pids)
    assert not any(answers(url) for url in urls)


def test_it_stops_gateways_first_and_presences_last(up: Up) -> None:
    running = up(*ANY, "--gateways", "2", "--callcores", "2", "--presences", "2")
    running.ready()
    assert running.stop() == 0
    order = [process.service for process in running.trace("gone")]
    assert order == ["gateway"] * 2 + ["callcore"] * 2 + ["presence"] * 2


def test_lines_of_services_are_passed_on_with_their_name(up: Up) -> None:
    running = up(*ANY)
    running.ready()
    running.stop()
    assert "callcore-1 | hello from callcore\n" in running.out
    assert "gateway-1 | goodbye from gateway\n" in running.out


def test_the_passwords_of_nats_are_shown_nowhere(up: Up) -> None:
    running = up(*ANY)
    running.ready()
    access = _access(running)
    secrets = [access.passwords.of(user) for user in ALL]
    texts = [running.out, *(command_line(pid) for pid in descendants(running.process.pid))]
    assert len(texts) > 4
    assert not [text for text in texts for secret in secrets if secret in text]
    watch = next(line for line in running.out.splitlines() if line.startswith("watch: "))
    command = f"{watch.removeprefix('watch: ')} --once --json"
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, timeout=20, check=False
    )  # as a person would, word for word
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["nats"]["servers"] == 1
    assert running.stop() == 0


def _two_free_ports() -> int:
    """The first of two, from below those that the kernel gives to connections."""
    for port in random.sample(range(20_000, 30_000), 100):
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 1)):
                return port
        except OSError:
            continue
    pytest.fail("no two free ports in a row")


def test_consecutive_ports(up: Up) -> None:
    port = _two_free_ports()
    running = up("--port", str(port), "--gateways", "2")
    assert running.ready() == [f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"]


def test_a_stop_while_starting(up: Up) -> None:
    running = up(*ANY, FAKE_PRESENCE="deaf")
    running.until(lambda: len(running.trace("born")) == 3)
    pids = everything(running)
    assert running.stop() == 0
    nothing_left(running, pids)


def test_a_service_that_will_not_stop_is_killed_in_time(up: Up) -> None:
    running = up(*ANY, FAKE_CALLCORE="deaf")
    running.ready()
    pids = everything(running)
    assert running.stop(within=10.0) == 0
    assert "callcore-1 did not stop in time and was killed" in running.out
    nothing_left(running, pids)


def test_a_second_signal_ends_it_at_once(up: Up) -> None:
    running = up(*ANY, FAKE_GATEWAY="deaf")
    running.ready()
    pids = everything(running)
    running.process.send_signal(signal.SIGINT)
    running.until(lambda: running.trace("asked"))
    running.stop(signal.SIGINT, within=3)
    assert "starting it again" not in running.out
    nothing_left(running, pids)


def test_a_second_sigterm_changes_nothing(up: Up) -> None:
    # Whoever signals make's process group sends it twice: make passes it on.
    running = up(*ANY)
    running.ready()
    running.process.send_signal(signal.SIGTERM)
    assert running.stop() == 0
    assert [process.service for process in running.trace("gone")] == ["gateway", "callcore", "presence"]
    assert "SIGKILL" not in running.out


def test_two_side_by_side(up: Up) -> None:
    first, second = up(*ANY), up(*ANY)
    (one,), (two,) = first.ready(), second.ready()
    first.stop()
    assert not answers(one) and answers(two)
    assert second.stop() == 0


def test_two_on_one_nats_count_their_own_services(up: Up, tmp_path: Path) -> None:
    server = EmbeddedNats(tmp_path / "nats")
    server.start()
    try:
        first = up(*ANY, "--nats", server.url)
        first.ready()
        second = up(*ANY, "--nats", server.url)
        second.ready()
        assert len({process.pid for r in (first, second) for process in r.trace("born")}) == 6
        assert first.stop() == second.stop() == 0
        assert server.pid is not None
    finally:
        server.stop()


# --- what dies ---


@pytest.mark.parametrize("service", ["gateway", "callcore", "presence"])
def test_a_service_that_dies_is_started_again(up: Up, service: str) -> None:
    running = up(*ANY)
    (url,) = running.ready()
    victim = next(process for process in running.trace("born") if process.service == service)
    os.kill(victim.pid, signal.SIGKILL)
    running.until(lambda: len([p for p in running.trace("born") if p.service == service]) == 2)
    assert f"{service}-1 ended (pid {victim.pid}, SIGKILL); starting it again in 0.2 s" in running.out
    running.until(lambda: answers(url))
    assert running.stop() == 0


async def test_nats_that_dies_is_started_again_on_its_port_and_store(up: Up) -> None:
    running = up(*ANY)
    await asyncio.to_thread(running.ready)
    access = _access(running)
    first = running.nats()
    async with access.connect("callcore") as client:
        await client.jetstream().add_stream(**KEPT, storage="file")
        await client.jetstream().publish(KEPT_AT, b"1")
    os.kill(first, signal.SIGKILL)
    await asyncio.to_thread(running.until, lambda: any(pid != first for pid in _nats_servers(running)))
    assert f"nats ended (pid {first}, SIGKILL); starting it again" in running.out
    async with asyncio.timeout(20):
        while not await _kept(access):
            await asyncio.sleep(0.1)
    pids = everything(running)
    assert running.stop() == 0
    nothing_left(running, pids)


KEPT_AT = "event.call.x.kept"
KEPT = {"name": "EVENTS", "subjects": ["event.>"]}
"""A stream that a service may make."""


def _access(running: Running, data: Path | None = None) -> Access:
    """NATS of a system that runs, with the passwords that it has made."""
    url = running.out.split("(NATS ")[1].split(", ")[0]
    (folder,) = [data / "passwords"] if data is not None else running.temp.glob("signalling-*/passwords")
    return Access(url, Passwords.there(folder))


async def _kept(access: Access) -> bool:
    """Whether the message is there; ``False`` while the server starts."""
    try:
        async with access.connect(MONITOR, error_cb=_quiet) as client:
            return (await client.jetstream().stream_info("EVENTS")).state.messages == 1
    except (nats.errors.Error, OSError):
        return False


async def test_three_nats_servers_are_a_cluster_and_one_that_dies_is_started_again(
    up: Up, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    running = up(*ANY, "--nats-nodes", "3", "--data", str(data))
    await asyncio.to_thread(running.ready)
    access = _access(running, data)
    assert len(access.url.split(",")) == 3
    async with asyncio.timeout(20), access.connect("callcore") as client:  # until there is a leader
        while True:
            with contextlib.suppress(nats.errors.Error):
                create = json.dumps({**KEPT, "num_replicas": 3}).encode()
                answer = await client.request("$JS.API.STREAM.CREATE.EVENTS", create, 2)
                if "error" not in json.loads(answer.data):
                    break
            await asyncio.sleep(0.1)
        await client.jetstream().publish(KEPT_AT, b"1")
    first = set(_nats_servers(running))
    victim = next(pid for pid in first if "nats-2" in command_line(pid))
    os.kill(victim, signal.SIGKILL)
    await asyncio.to_thread(running.until, lambda: len(set(_nats_servers(running)) - first) == 1)
    assert f"nats-2 ended (pid {victim}, SIGKILL); starting it again" in running.out
    pids = everything(running)
    assert running.stop() == 0
    nothing_left(running, pids)
    other = up(*ANY, "--data", str(data))
    assert refused(other) == f"signalling: {data} holds the store of 3 nats-servers, not of 1"


async def _quiet(_: Exception) -> None:
    """It is still starting."""


def _nats_servers(running: Running) -> list[int]:
    return [pid for pid in descendants(running.process.pid) if "nats-server" in command_line(pid)]


def test_killed_it_leaves_no_process_and_the_next_one_clears_its_folder(up: Up, tmp_path: Path) -> None:
    running = up(*ANY)
    running.ready()
    pids = everything(running)
    running.process.kill()
    running.process.wait(5)
    running.until(lambda: not any(alive(pid) for pid in pids), 5)
    (left,) = running.temp.iterdir()
    following = up(*ANY, TMPDIR=str(running.temp))
    following.ready()
    assert not left.exists()
    assert following.stop() == 0
    assert list(running.temp.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_goes_with_the_make_that_runs_it(up: Up, tmp_path: Path, number: signal.Signals) -> None:
    if shutil.which("make") is None:
        pytest.fail("make is needed")
    trace = tmp_path / "up 0" / "trace"
    makefile = tmp_path / "Makefile"
    line = f"'{sys.executable}' -m tests.integration.up.fake_up '{trace}' --with-parent --port 0"
    makefile.write_text(f"up:\n\t@exec {line}\n")
    running = up(command=["make", "-s", "-C", str(ROOT), "-f", str(makefile), "up"])
    running.ready()
    pids = everything(running)
    running.process.send_signal(number)
    running.process.wait(10)
    running.until(lambda: not any(alive(pid) for pid in pids), 10)
    nothing_left(running, pids)


def test_it_outlives_the_shell_that_started_it(up: Up, tmp_path: Path) -> None:
    trace = tmp_path / "up 0" / "trace"
    line = f"'{sys.executable}' -m tests.integration.up.fake_up '{trace}' --port 0 & echo pid $!"
    running = up(command=["sh", "-c", line])
    assert running.process.wait(10) == 0
    running.until(lambda: "ready: " in running.out)
    pid = int(running.out.split("pid ")[1].split()[0])
    pids = [pid, *descendants(pid)]
    try:
        with pytest.raises(AssertionError):
            running.until(lambda: not alive(pid), 2.5)
    finally:
        os.kill(pid, signal.SIGTERM)
    running.until(lambda: not any(alive(p) for p in pids), 10)


# --- what is refused ---


def test_a_taken_port(up: Up) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = up("--port", str(port))
        assert f"port {port} on 127.0.0.1 cannot be used" in refused(running)
    assert running.trace("born") == []


def test_the_port_of_a_later_gateway_is_taken(up: Up) -> None:
    port = _two_free_ports()
    with socket.create_server(("127.0.0.1", port + 1)):
        assert f"port {port + 1} " in refused(up("--port", str(port), "--gateways", "2"))


def test_a_port_beyond_the_last_one(up: Up) -> None:
    assert "65536" in refused(up("--port", "65535", "--gateways", "2"))


def test_an_address_of_somebody_else(up: Up) -> None:
    assert "192.0.2.1" in refused(up(*ANY, "--host", "192.0.2.1"))
    assert "no-such-host.invalid" in refused(up(*ANY, "--host", "no-such-host.invalid"))


def test_a_missing_nats_server(up: Up, tmp_path: Path) -> None:
    # Another interpreter's folder: the binary is looked for beside it and on PATH.
    bare = tmp_path / "bin"
    bare.mkdir()
    python = bare / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    running = up(
        command=[str(python), "-m", "tests.integration.up.fake_up", str(tmp_path / "trace"), *ANY],
        PATH="/nonexistent",
        PYTHONPATH=os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)]),
    )
    assert "nats-server is not installed" in refused(running)


@pytest.mark.parametrize("url", ["nats://127.0.0.1:1", "nats://no-such-host.invalid:4222"])
def test_an_unreachable_nats(up: Up, url: str) -> None:
    assert f"NATS at {url} cannot be used" in refused(up(*ANY, "--nats", url))


@pytest.mark.parametrize("setting", ["PORT=abc", "DRAIN_SECONDS=soon", "METRICS_PORT=abc", "DEMO=maybe"])
def test_a_wrong_setting_that_it_overrides(up: Up, setting: str) -> None:
    key, _, value = setting.partition("=")
    running = up(*ANY, **{key: value})
    assert f"{setting}: " in refused(running)
    assert running.process.returncode == 2
    assert running.trace("born") == []


async def test_something_that_is_no_nats(up: Up) -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        line = await asyncio.to_thread(refused, up(*ANY, "--nats", url))
        assert f"NATS at {url} cannot be used" in line


def test_data_stays_and_is_found_again(up: Up, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for _ in range(2):
        running = up(*ANY, "--data", str(data))
        running.ready()
        assert running.stop() == 0
        assert (data / "jetstream").is_dir()
        assert list(running.temp.iterdir()) == []


def test_data_in_use(up: Up, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = up(*ANY, "--data", str(data))
    first.ready()
    assert f"--data {data} is in use" in refused(up(*ANY, "--data", str(data)))
    assert first.stop() == 0


def test_data_that_cannot_be_written(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert f"--data {file / 'data'} cannot be used" in refused(up(*ANY, "--data", str(file / "data")))


def test_a_service_that_refuses_its_settings_ends_the_start(up: Up) -> None:
    running = up(*ANY, FAKE_GATEWAY="refuse")
    assert running.process.wait(20) == 1
    assert "gateway-1 | PORT=x: a number is needed\n" in running.out
    assert "gateway-1 refuses its settings" in running.out
    assert list(running.temp.iterdir()) == []


@pytest.mark.parametrize(("mute", "named"), [("CALLCORE", "callcore-1"), ("GATEWAY", "gateway-1")])
def test_a_service_that_never_gets_ready_is_named(up: Up, mute: str, named: str) -> None:
    running = up(*ANY, "--ready-seconds", "8", **{f"FAKE_{mute}": "mute"})
    running.until(lambda: len(running.trace("born")) == 3)
    pids = everything(running)
    assert running.process.wait(20) == 1
    assert running.out.splitlines()[-1] == f"signalling: not ready within 8 s: {named}"
    assert "Traceback" not in running.out
    nothing_left(running, pids)


# --- the real services ---


def test_the_real_services(up: Up) -> None:
    command = [sys.executable, "-m", "signalling", "up"]
    running = up(*ANY, "--gateways", "2", "--callcores", "2", "--presences", "2", command=command)
    urls = running.ready()
    assert len(urls) == 2 and all(answers(url) for url in urls)
    (metrics,) = [line for line in running.out.splitlines() if line.startswith("metrics: ")]
    places = dict(place.split("=") for place in metrics.removeprefix("metrics: ").split())
    assert set(places) == {
        f"{service}-{n}" for service in ("gateway", "callcore", "presence") for n in (1, 2)
    }
    for name, url in places.items():
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert f'service="{name.partition("-")[0]}"'.encode() in answer.read()
    pids = everything(running)
    assert running.stop() == 0
    assert "killed" not in running.out and "starting it again" not in running.out
    nothing_left(running, pids)


@pytest.mark.parametrize(("drain", "least"), [("", 0.0), ("20", 7.6)], ids=["default", "as set"])
async def test_clients_that_are_there_do_not_keep_it_from_stopping_in_order(
    up: Up, drain: str, least: float
) -> None:
    running = up(*ANY, command=[sys.executable, "-m", "signalling", "up"], DRAIN_SECONDS=drain)
    client = RawClient("alice")
    await client.connect(running.ready()[0])
    await client.join("alice")
    begun = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    await client.expect("server:draining")
    assert await asyncio.to_thread(running.process.wait, 25) == 0
    assert time.monotonic() - begun > least
    await client.close()
    assert "was killed" not in running.out and running.out.endswith("stopped\n")
