"""A nats-server that hangs."""

import os
import signal
import time
from pathlib import Path

from signalling.run.nats_server import EmbeddedNats

PATIENCE_SECONDS = 5.0


def freeze(server: EmbeddedNats) -> int:
    """Have it hang, and wait until it does: its threads go on for a moment after SIGSTOP. Its process id."""
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + PATIENCE_SECONDS
    while any(_state(thread) not in "tT" for thread in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < end, "it does not stop"
        time.sleep(0.005)
    return pid


def _state(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(") ")[2][0]
