"""The examples with what can be wrong: one line that says so, no traceback, and a status that is not zero."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.gateway.auth.settings import AuthSettings
from signalling.dev_tokens import mint
from signalling.nats_users import MONITOR, POLICY
from tests.support.cluster import Cluster, free_port
from tests.support.service_process import REPOSITORY, clean_environment

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

SECRET = "0123456789abcdef0123456789abcdef"
SECONDS = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def locked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("examples"), AUTH_MODE="jwt", JWT_SECRET=SECRET)
    await cluster.start()
    yield cluster
    await cluster.stop()


async def _run(example: str, *arguments: str, **env: str) -> tuple[int, str, str]:
    """The status of an example, and the lines of its output and of its complaints."""
    command = [sys.executable, "-W", "default", str(REPOSITORY / "examples" / example), *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, env={**clean_environment(), **env}, capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert "Unclosed" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def _is_one_line(status: int, said: str, *words: str) -> None:
    assert status not in (0, None)
    assert len(said.splitlines()) == 1 and all(word in said for word in words), said


@pytest.mark.parametrize(
    ("example", "arguments"),
    [
        ("call_bot.py", []),
        ("call_bot.py", ["--nonsense"]),
        ("policy.py", []),
        ("policy.py", ["a", "b"]),
    ],
)
async def test_wrong_arguments(example: str, arguments: list[str]) -> None:
    status, _, said = await _run(example, *arguments)
    assert status == 2
    assert said.startswith("usage: ") and "error: " in said.splitlines()[-1]


@pytest.mark.parametrize("text", [None, "nonsense", "[]", '{"bob": 1}'])
async def test_a_file_that_is_no_block_list(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "blocked.json"
    if text is not None:
        file.write_text(text)
    status, _, said = await _run("policy.py", str(file))
    _is_one_line(status, said, str(file), "cannot be used")


@pytest.fixture
def blocked(tmp_path: Path) -> str:
    file = tmp_path / "blocked.json"
    file.write_text("{}")
    return str(file)


@pytest.mark.parametrize("url", ["closed", "nats://host name:x", "nats://host:abc"])
@pytest.mark.parametrize("example", ["policy.py", "push.py"])
async def test_nats_that_is_not_there(blocked: str, example: str, url: str) -> None:
    url = f"nats://127.0.0.1:{free_port()}" if url == "closed" else url
    status, _, said = await _run(example, *([blocked] if example == "policy.py" else []), NATS_URL=url)
    _is_one_line(status, said, "no connection to NATS")


@pytest.mark.parametrize(("example", "user"), [("policy.py", POLICY), ("push.py", MONITOR)])
async def test_a_wrong_password_of_nats(locked: Cluster, blocked: str, example: str, user: str) -> None:
    arguments = [blocked] if example == "policy.py" else []
    env = {"NATS_URL": locked.access.url, "NATS_USER": user, "NATS_PASSWORD": "wrong"}
    status, _, said = await _run(example, *arguments, **env)
    _is_one_line(status, said, "no connection to NATS", "Authorization Violation")


@pytest.mark.parametrize("url", ["closed", "nonsense", "http://a:b"])
async def test_a_server_that_is_not_there(url: str) -> None:
    url = f"http://127.0.0.1:{free_port()}" if url == "closed" else url
    status, _, said = await _run("call_bot.py", "--name", "alice", "--url", url)
    _is_one_line(status, said, "no connection to", url)


async def test_a_token_that_is_refused(locked: Cluster) -> None:
    for token in ([], ["--token", "wrong"]):
        status, _, said = await _run(
            "call_bot.py", "--name", "alice", "--url", locked.gateways[0].url, *token
        )
        _is_one_line(status, said, "unauthorized")


async def test_a_call_that_is_refused(locked: Cluster) -> None:
    token = mint(AuthSettings.model_validate({"auth_mode": "jwt", "jwt_secret": SECRET}), "alice", 600)
    status, out, said = await _run(
        "call_bot.py",
        "--name",
        "alice",
        "--call",
        "nobody",
        "--url",
        locked.gateways[0].url,
        "--token",
        token,
    )
    _is_one_line(status, said, "call:initiate: user_not_found")
    assert "joined" in out
