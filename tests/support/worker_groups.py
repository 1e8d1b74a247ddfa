"""Which tests may run beside which: `make test` runs those that need not be alone on a few workers."""

import re
from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

E2E = PurePosixPath("tests/e2e")
SHARED = {PurePosixPath("tests/browser"), PurePosixPath("tests/stack")}
"""Folders whose modules share a browser, or an engine and a stack on it."""
ANYWHERE = {PurePosixPath("tests/integration/up/test_up.py")}
"""Modules whose tests have nothing in common: each of them may fill a gap at the end."""
_OWN = (
    "asyncapi", "auth", "budgets", "examples", "faults", "limits", "networks", "old_clients", "order",
    "races", "resume", "silent", "takeover", "traces", "transports",
)  # fmt: skip
ON_THEIR_OWN = {f"test_{name}" for name in _OWN}
"""End-to-end modules whose systems no other module uses."""
_TOGETHER = {"test_nats_away": "test_crash"}
"""An end-to-end module → another one whose system it uses."""
_SHAPE = re.compile(r"\[(\d+x\d+x\d+(?:x\d+)?)[-\]]")
"""The shape of a system in the name of a test."""


class SideBySide(LoadScopeScheduling):
    """Tests that share a system, or anything else, stay on one worker, as do all others of a module."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """What a test shares a worker with."""
    name, _, test = nodeid.partition("::")
    module = PurePosixPath(name)
    if module.parent in SHARED:
        return str(module.parent)
    if module in ANYWHERE:
        return nodeid
    if module.parent != E2E:
        return name
    stem = _TOGETHER.get(module.stem, module.stem)
    if stem in ON_THEIR_OWN or stem in _TOGETHER.values():
        return stem
    shape = _SHAPE.search(test)
    return f"e2e {shape[1]}" if shape is not None else "e2e"
