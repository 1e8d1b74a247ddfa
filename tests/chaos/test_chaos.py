"""Two minutes of faults of a fixed seed; `make chaos` for others, and for longer."""

from pathlib import Path

import pytest

from tests.chaos.run import run

pytestmark = [pytest.mark.alone, pytest.mark.timeout(420)]


@pytest.mark.parametrize(("nats_nodes", "seconds"), [(1, 80.0), (3, 35.0)], ids=["1 NATS", "3 NATS"])
async def test_promises_are_kept(tmp_path: Path, nats_nodes: int, seconds: float) -> None:
    outcome = await run(tmp_path, seed=20, seconds=seconds, nats_nodes=nats_nodes, pairs=6)
    print(outcome.told())  # noqa: T201
    assert not outcome.wrong, "\n".join(outcome.wrong[:20])
    assert outcome.calls >= 10 and outcome.relays >= 100 and len(outcome.faults) >= 3
