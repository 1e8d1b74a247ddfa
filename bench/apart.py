"""Run clients in a process of their own."""

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from bench.servers import REPOSITORY, BenchError
from signalling.run.process import die_with_parent


def run(module: str, job: Any, *options: str, limit: float) -> tuple[str, str]:
    """Run ``python -m module`` with ``job``, a dataclass that it receives as JSON after ``options``.

    Return its output, and its error: empty for status 0. Raises :class:`BenchError` after ``limit`` seconds.
    """
    # A session of its own: Ctrl-C reaches this process only, which ends the others.
    process = subprocess.Popen(
        [sys.executable, "-m", module, *options, json.dumps(asdict(job))],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise BenchError(f"not done within {limit:.0f} s") from None
    finally:
        process.kill()
        process.wait()
    return out, (err.strip()[-2000:] or f"status {process.returncode}") if process.returncode else ""
