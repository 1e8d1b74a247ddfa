"""The folder of a running system: temporary and gone with it, or the user's own, which stays."""

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
    """``data``, for nobody else as long as it is open; without one, a temporary folder.

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
    """Remove what an instance left that was killed and could not clean up; its pid is in the name."""
    if not Path("/proc/self").exists():
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
