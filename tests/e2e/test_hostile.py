"""Each attack on a whole system: it is refused, and a call beside it goes on as if nothing were."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio

from shared.observability.log_throttle import SECONDS as SAID_SECONDS
from tests.support.call_beside import Beside, Disturbed
from tests.support.cluster import Cluster
from tests.support.hostile_client import ATTACKS, token
from tests.support.issuer import SECRET
from tests.support.limit_metrics import limits_hit
from tests.support.service_process import REPOSITORY
from tests.support.shared_clusters import Clusters

pytestmark = [pytest.mark.alone, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

SECONDS = 3.0
LATE_SECONDS = 20.0
SETTINGS = {
    "RATE_LIMIT": "on",
    "AUTH_MODE": "jwt",
    "JWT_SECRET": SECRET,
    "CONNECTIONS_PER_ADDRESS": "40",
    "CONNECTIONS_PER_USER": "5",
    "SESSIONS_PER_USER": "7",
    "UNJOINED_MAX": "60",
    "STRIKES_MAX": "10",
    "UNREAD_MAX_KB": "256",
    "JOIN_TIMEOUT_SECONDS": "2",
    "PING_INTERVAL_SECONDS": "1",
    "PING_TIMEOUT_SECONDS": "2",
    "RESUME_WINDOW_SECONDS": "5",
    "RATE_OFFERS": "200/30",  # so that what is not read does not fit into the kernel
    "RATE_USER_KB": "65536/60",  # likewise; tests/e2e/test_budgets.py has these two
    "RATE_CALL_KB": "65536/60",
    "CANDIDATES_PER_CALL": "7000",  # the call beside sends 20 a second all the time, and each null counts
    "RATE_STATUS": "50/20",
    "RATE_OTHERS": "40/30",
    "REFUSALS_MAX": "40",
    "RINGS_PER_CALLER": "8/60",
    "RINGS_PER_CALLEE": "10/60",
}


class Refusal(NamedTuple):
    """What must come of an attack: each of these outcomes, none of those that ``never`` may, these limits counted."""

    outcomes: tuple[str, ...]
    limits: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


REFUSALS = {
    "connections": Refusal(("http 429",), ("connections_per_address",)),
    "connections_of_a_user": Refusal(("rate_limited",), ("connections_per_user",)),
    "sessions_of_a_user": Refusal(("rate_limited",), ("sessions_per_user",)),
    "joins_of_a_user": Refusal(("rate_limited",), ("joins_per_user",)),
    "unjoined": Refusal(("http 429", "honest"), ("unjoined", "join_timeout"), never=("locked out",)),
    "candidates": Refusal(("rate_limited",), ("rate_candidates",)),
    "offers": Refusal(("rate_limited",), ("rate_offers",)),
    "initiates": Refusal(("rate_limited",), ("rate_initiates",)),
    "status": Refusal(("rate_limited",), ("rate_status",)),
    "joins": Refusal(("rate_limited",), ("rate_others",)),
    "rings_by_one": Refusal(("rate_limited",), ("rings_per_caller",)),
    "rings_by_many": Refusal(("rate_limited",), ("rings_per_callee",)),
    "rings_unanswered": Refusal(("rate_limited",), ("ring_backoff",)),
    "sizes": Refusal(("bad_request",), ("sizes", "strikes")),
    "deep": Refusal(("bad_request",), ("depth", "strikes")),
    "bombs": Refusal(("bad_request",), ("strikes",)),
    "nonsense": Refusal(("bad_request",), ("strikes",)),
    "frames_too_large": Refusal(("closed",), ("frame_size",)),
    "fragments": Refusal(("closed",)),
    "candidates_of_a_call": Refusal(("rate_limited",), ("candidates_per_call",)),
    "bad_tokens": Refusal(("unauthorized",), ("strikes",)),
    "origins": Refusal(("http 400",), ("origin",)),
    "hosts": Refusal(("http 400",), ("host",)),
    "embedded": Refusal(("http 403",), ("cross_site",), never=("http 200", "http 429")),
    "unread": Refusal(("closed",), ("unread",)),
    "slow": Refusal(("closed",), ("sockets_per_address",)),
    "polls": Refusal(("http 400", "http 413"), ("frame_size", "strikes")),
    "pings": Refusal(("closed",), ("strikes",)),
    "injection": Refusal(("bad_request",), ("strikes",)),
}
_expected: set[str] = set()


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def fortress(clusters: Clusters) -> AsyncIterator[Cluster]:
    """A system with limits that are soon hit. Afterwards each of them was counted, and the logs are whole."""
    cluster = await clusters.get("2x2x1", **SETTINGS)
    yield cluster
    await cluster.assert_quiet(LATE_SECONDS)
    until = time.monotonic() + SAID_SECONDS + 3
    while missing := _expected - limits_hit(cluster.folder).keys():
        assert time.monotonic() < until, f"not counted: {missing}"
        await asyncio.sleep(0.3)
    for log in cluster.folder.glob("*.log"):
        for line in log.read_text().splitlines():
            json.loads(line)
            assert line.isprintable(), ascii(line)
    cluster.check_logs()


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def beside(fortress: Cluster) -> AsyncIterator[Beside]:
    """A call that goes on all the time."""
    async with Beside.on(fortress, token) as call:
        yield call


async def test_each_attack_is_tried() -> None:
    assert REFUSALS.keys() == ATTACKS.keys()


async def test_what_disturbs_is_noticed(fortress: Cluster, beside: Beside) -> None:
    async def stop_a_gateway() -> None:
        await asyncio.sleep(0.5)
        fortress.pause_one("gw-2")
        await asyncio.sleep(0.6)
        fortress.resume_one("gw-2")

    with pytest.raises(Disturbed):
        await beside.undisturbed(1.5, stop_a_gateway)


@pytest.mark.parametrize("name", REFUSALS)
async def test_an_attack_is_refused_and_a_call_beside_it_goes_on(
    fortress: Cluster, beside: Beside, name: str
) -> None:
    refusal = REFUSALS[name]
    done: Counter[str] = Counter()

    async def attack() -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.hostile_client", name, str(SECONDS)),
            *(gateway.url for gateway in fortress.gateways),
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), SECONDS + LATE_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0
        done.update(json.loads(output))

    _, quiet, loud = await beside.undisturbed(SECONDS + 1, attack)
    sys.stdout.write(f"{name}: quiet {quiet}, attacked {loud}, {dict(done)}\n")
    for outcome in refusal.outcomes:
        assert done[outcome], done
    assert not any(done[outcome] for outcome in refusal.never), done
    _expected.update(refusal.limits)
