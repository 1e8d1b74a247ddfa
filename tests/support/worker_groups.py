"""Which tests may run beside which: `make test` runs those that need not be alone on a few workers."""

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

E2E = PurePosixPath("tests/e2e")
SHARED = {PurePosixPath("tests/browser"), PurePosixPath("tests/stack")}
"""Folders whose modules share a browser, or an engine and a stack on it."""
_OWN = ("asyncapi", "auth", "faults", "networks", "order", "races", "traces")
ON_THEIR_OWN = {f"test_{name}" for name in _OWN}
"""End-to-end modules whose systems no other module uses."""


class SideBySide(LoadScopeScheduling):
    """A module stays on one worker. End-to-end modules that share whole systems are on two."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """What a test shares a worker with."""
    module = PurePosixPath(nodeid.partition("::")[0])
    if module.parent in SHARED:
        return str(module.parent)
    if module.parent != E2E or module.stem in ON_THEIR_OWN:
        return str(module)
    return "protocol" if module.stem.startswith("test_protocol_") else "e2e"
