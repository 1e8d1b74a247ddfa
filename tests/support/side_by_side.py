"""Which tests may run beside which: `make test` runs those that need not be alone on a few workers."""

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

E2E = PurePosixPath("tests/e2e")


class SideBySide(LoadScopeScheduling):
    """A module stays on one worker. All end-to-end modules share two, because each runs whole systems."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """What a test shares a worker with."""
    module = PurePosixPath(nodeid.partition("::")[0])
    if module.parent != E2E:
        return str(module)
    return "protocol" if module.stem.startswith("test_protocol_") else "e2e"
