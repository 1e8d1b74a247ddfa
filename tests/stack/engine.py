"""The Docker engine as the tests use it, and why it cannot be used where it cannot."""

import contextlib
import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import docker as sdk

REPOSITORY = Path(__file__).parent.parent.parent
COMMAND_SECONDS = 120.0


@functools.cache
def missing() -> str | None:
    """Why there is no Docker here, or ``None`` if there is."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer"
    if answer.returncode:
        return f"no Docker engine: {(answer.stderr.strip() or 'no reason given').splitlines()[-1]}"
    return None if compose_command() else "neither `docker compose` nor docker-compose is installed"


@functools.cache
def compose_command() -> tuple[str, ...]:
    """Compose as a plugin, or as a command of its own; empty if there is neither."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=20)
    if plugin.returncode == 0:
        return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else ()


def environment() -> dict[str, str]:
    """What commands need of this environment, and nothing that would set a service."""
    keep = ("PATH", "HOME", "LANG", "TMPDIR")
    return {k: v for k, v in os.environ.items() if k in keep or k.startswith("DOCKER_")}


def run(*command: str, timeout: float = COMMAND_SECONDS, cwd: Path = REPOSITORY) -> str:
    """What a command says on stdout; an ``AssertionError`` with all it said if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment(), cwd=cwd, errors="replace"
    )
    assert done.returncode == 0, (
        f"{' '.join(command)}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


def docker(*args: str, timeout: float = COMMAND_SECONDS) -> str:
    """``docker …``; its stdout."""
    return run("docker", *args, timeout=timeout)


@functools.cache
def _api() -> Any:
    return sdk.from_env().api


def inspect(*, label: str) -> list[dict[str, Any]]:
    """What ``docker inspect`` says of the containers with this label, stopped ones too. Without a process: it is
    asked again and again while others are to have the processor.
    """
    found = []
    for each in _api().containers(all=True, quiet=True, filters={"label": label}):
        with contextlib.suppress(sdk.errors.NotFound):  # removed meanwhile
            found.append(_api().inspect_container(each["Id"]))
    return found


def inspect_one(container: str) -> dict[str, Any]:
    """What ``docker inspect`` says of one container."""
    found: dict[str, Any] = _api().inspect_container(container)
    return found
