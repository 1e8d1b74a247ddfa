"""What a run was made on: a figure without its machine says nothing."""

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from bench.servers import REPOSITORY
from signalling.run.nats_server import find_binary

_WORDS_SECONDS = 10


def describe() -> dict[str, str]:
    """Processor, memory, system and versions, by name; what is not installed is left out."""
    told = {
        "processor": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version() + ("" if optimised() else " (built without optimisation)"),
        "node": _words("node", "--version"),
        "redis-server": _version(_words("redis-server", "--version")),
        "nats-server": _version(_words(find_binary(), "--version")),
        "commit": _words("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"),
    }
    return {name: text for name, text in told.items() if text}


def optimised() -> bool:
    """Whether this Python was built with a profile of its own run; without, it is slower by a third or so.

    CPython's ``configure`` notes that it was asked to. Debian does the same by other means, and then takes the flag
    of the profile, which each other build has, out of what its Python says of itself.
    """
    asked = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "--enable-optimizations")
    return asked or sysconfig.get_config_var("PGO_PROF_USE_FLAG") == ""


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(words: str) -> str:
    """The first number with dots."""
    found = re.search(r"\d+\.\d+\.\d+", words)
    return found[0] if found else words


def _words(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_WORDS_SECONDS, check=False)
    return done.stdout.strip()
