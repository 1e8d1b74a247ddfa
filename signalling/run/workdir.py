"""Provide the folder of a running system: temporary and removed at the end, or the user's own and kept."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from signalling.run.plan import PlanError

_PREFIX = "signalling-"


@contextlib.contextmanager
def opened(data: Path | None) -> Iterator[Path]:
    """Lock ``data`` for this instance while open; without ``data``, create a temporary folder.

    Raises :class:`PlanError` if the folder cannot be written to or another instance has it.
    """
    if data is None:
        _sweep()
        prefix = f"{_PREFIX}{os.getpid()}-"
        with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "lock").open("w")
    except OSError as error:
        raise PlanError(f"--data {data} cannot be used: {error.strerror}") from None
    with lock:
        _take(lock, data)
        yield data


def _take(lock: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise PlanError(f"--data {folder} is in use by another instance") from None


def _sweep() -> None:
    """Remove the folders of instances that were killed before they cleaned up; the name contains the pid."""
    if not Path("/proc/self").exists():
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
