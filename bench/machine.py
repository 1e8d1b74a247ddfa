"""Describe the machine of a run, because a figure depends on it."""

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
    """Return processor, memory, system and versions, by name; absent programs are left out."""
    known = {
        "processor": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version() + ("" if optimised() else " (built without optimisation)"),
        "node": _words("node", "--version"),
        "redis-server": _version(_words("redis-server", "--version")),
        "nats-server": _version(_words(find_binary(), "--version")),
        "commit": _words("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"),
    }
    return {name: text for name, text in known.items() if text}


def optimised() -> bool:
    """Return True if this Python was built with profile-guided optimisation; without it, Python is a third slower.

    CPython's ``configure`` records the option. Debian optimises by other means, and removes the flag of the profile
    from the recorded flags; all other builds keep it.
    """
    asked = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "--enable-optimizations")
    return asked or sysconfig.get_config_var("PGO_PROF_USE_FLAG") == ""


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(words: str) -> str:
    """Return the first version number in a text."""
    found = re.search(r"\d+\.\d+\.\d+", words)
    return found[0] if found else words


def _words(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_WORDS_SECONDS, check=False)
    return done.stdout.strip()
