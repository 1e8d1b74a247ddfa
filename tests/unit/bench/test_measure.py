"""Process trees, measured on processes that are there."""

import os
import subprocess
import sys

import pytest

from bench import measure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc as Linux has it")

BURN = """
import time
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
print("burnt", flush=True)
input()
"""


def test_what_a_process_has_started_counts_as_its_own() -> None:
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        roots = {"both": [process.pid]}
        assert measure.cpu_seconds(roots)["both"] >= 0.25
        assert measure.pss_bytes(roots)["both"] > 0
        assert measure.wakeups(roots)["both"] > 0
        process.communicate(b"\n")
        assert measure.cpu_seconds(roots) == {"both": 0}
        assert measure.pss_bytes(roots) == {"both": 0}


def test_the_machine_has_used_more_than_this_process() -> None:
    used, stolen = measure.machine_seconds()
    assert used > measure.cpu_seconds({"own": [os.getpid()]})["own"]
    assert stolen >= 0
