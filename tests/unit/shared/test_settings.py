"""Wrong settings: one line each, with the key and what is allowed, without secrets, and status 2."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from services.gateway.settings import Settings as Gateway
from shared.nats import urls
from shared.service.settings import EXIT_USAGE, explain
from signalling.cli import main
from tests.support.service_process import REPOSITORY

SERVICES = ("gateway", "callcore", "presence")
WRONG_URLS = [
    "nats://host name:x",
    "nats://host name:4222",
    "nats://host:abc",
    "nats://host:99999",
    "nats://host:0",
    "nats://host:-1",
    "host:abc",
    "nats://a:1,",
    ",",
    "nats://a:1,,nats://b:1",
    " ",
    "nats://",
    "nats://:4222",
    "nats://user:word@:4222",
    "http://host:4222",
    "ws://host:4222",
    "nats:/host",
    "://host",
    "nats://[::1",
    "::1",
    "nats://host:4222/path",
    "nats://user:wo/rd@host:4222",
    "nats://user:wo#rd@host:4222",
    "nats://user:wo?rd@host:4222",
]


@pytest.mark.parametrize(
    "url",
    [
        "nats://127.0.0.1:4222",
        "tls://a.example.com:4222",
        "localhost",
        "localhost:4222",
        "nats://[::1]:4222",
        "nats://user:word@a:1, nats://b:2",
        "nats://token@a",
        "nats://nats_1.bus:4222/",
    ],
)
def test_servers_that_can_be_connected_to(url: str) -> None:
    assert urls.checked(url) == url


@pytest.mark.parametrize("url", WRONG_URLS)
def test_others_are_told_in_one_line_with_no_password(url: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Gateway.model_validate({"nats_url": url})
    (line,) = explain(raised.value)
    assert line.startswith("NATS_URL=") and "\n" not in line
    assert "wo" not in line.removeprefix("NATS_URL=").replace("two", "").replace("password", "")


@pytest.mark.parametrize("url", ["nats://host name:x", "nats://u:secret@host:99999"])
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_ends_with_one_line_and_status_2(service: str, url: str) -> None:
    env = {**os.environ, "NATS_URL": url}
    command = [sys.executable, "-m", f"services.{service}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == EXIT_USAGE
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert done.stderr.startswith("NATS_URL=") and "secret" not in done.stderr


@pytest.mark.parametrize("how", ["option", "environment"])
@pytest.mark.parametrize(
    "url", ["nats://host name:x", "nats://u:secret@host:abc", "nats://host:99999", "a,,b"]
)
@pytest.mark.parametrize(
    "command", [["up"], ["history", "call"], ["tail"], ["monitor", "--once"]], ids=lambda command: command[0]
)
def test_so_does_the_command(command: list[str], url: str, how: str) -> None:
    option = ["--nats", url] if how == "option" else []
    env = {"NATS_URL": url if how == "environment" else ""}
    done = CliRunner().invoke(main, [*command, *option], env=env)
    assert done.exit_code == EXIT_USAGE
    assert len(done.stderr.splitlines()) == 1 and "NATS servers" in done.stderr
    assert "secret" not in done.output


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PORT", "abc"),
        ("DRAIN_SECONDS", "soon"),
        ("METRICS_PORT", "abc"),
        ("DEMO", "maybe"),
        ("HEALTH_PORT", "-1"),
        ("LOG_FORMAT", "xml"),
        ("KV_REPLICAS", "9"),
        ("RING_TIMEOUT_SECONDS", "x"),
    ],
)
def test_up_refuses_settings_that_it_overrides(key: str, value: str) -> None:
    done = CliRunner().invoke(main, ["up", "--port", "0"], env={key: value})
    assert done.exit_code == EXIT_USAGE
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"signalling: {key}={value}: ")


@pytest.mark.parametrize(
    "server",
    [
        '{"urls": "turn:turn.example.com:3478"}',
        '{"urls": ["stun:a:1", "turns:turn.example.com:5349"], "username": "u"}',
        '{"urls": "turn:a:1", "username": "", "credential": "c"}',
        '{"urls": "turn:a:1?transport=sctp", "username": "u", "credential": "c"}',
        '{"urls": "stun:a:1?transport=udp"}',
        '{"urls": []}',
        '{"urls": "http://a"}',
        '{"urls": "stun:"}',
    ],
)
def test_ice_servers_that_a_browser_would_throw_at(server: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Gateway.model_validate({"ice_servers": f"[{server}]"})
    (line,) = explain(raised.value)
    assert line.startswith("ICE_SERVERS=…: ")


def test_ice_servers_that_work() -> None:
    turn = '{"urls": ["turn:a:1?transport=tcp", "turns:b"], "username": "u", "credential": "c"}'
    servers = f'[{{"urls": "stun:a:3478"}}, {turn}]'
    assert len(Gateway.model_validate({"ice_servers": servers}).ice_servers) == 2


def test_a_yes_or_no_is_on_or_off_in_the_docs() -> None:
    lines = (REPOSITORY / "docs/settings.md").read_text().splitlines()
    (demo,) = [line for line in lines if line.startswith("| `DEMO` |")]
    assert demo.startswith("| `DEMO` | `on`, `off` | `off` |")
    assert not any("`true`" in line or "`false`" in line for line in lines)
