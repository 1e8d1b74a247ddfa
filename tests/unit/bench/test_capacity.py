"""The capacity model, on costs so round that the answers can be worked out by hand."""

from dataclasses import replace

import pytest

from bench import capacity, scale
from bench.capacity import CALLS, DEADLINES, DELIVER, EVENTS, SESSIONS, Assumptions, Costs, Plan, plan

NOTHING = {
    SESSIONS: 0.0,
    CALLS: 0.0,
    DEADLINES: 0.0,
    EVENTS: 0.0,
    DELIVER: 0.0,
    "messages": 0.0,
    "bytes": 0.0,
}
COSTS = Costs(
    call_us={"gateway": 6000, "callcore": 3000, "presence": 0, "nats": 1000},
    join_us={"gateway": 1000, "callcore": 0, "presence": 500, "nats": 250},
    idle_us={"gateway": 10, "nats": 0},
    live_us={"callcore": 50},
    socket_kib={"gateway": 4.0, "nats": 6.0},
    base_mib=200.0,
    second=NOTHING | {DEADLINES: 1.0, "messages": 12.0},
    join=NOTHING | {SESSIONS: 2.0, "messages": 10.0, "bytes": 5000.0},
    call=NOTHING
    | {CALLS: 9.0, DELIVER: 24.0, "messages": 100.0, "bytes": 50_000.0, "deliver_bytes": 20_000.0},
    broken=NOTHING | {SESSIONS: 3.0, DEADLINES: 2.0, "messages": 20.0},
    writes_per_s=10_000.0,
    list_us=0.5,
    hash_us=1.0,
    list_bytes=50.0,
)
# 360,000 users: 10 calls and 100 joins a second, 1,000 live calls.
ASSUMED = Assumptions(
    users=360_000,
    calls_per_day=1.0,
    busy_share=0.1,
    call_seconds=100.0,
    joins_per_hour=1.0,
    busy=0.5,
    sockets=10_000,
)


@pytest.fixture(name="planned")
def _planned() -> Plan:
    return plan(COSTS, ASSUMED)


def test_rates_of_the_busy_hour(planned: Plan) -> None:
    assert (planned.calls_per_s, planned.live_calls, planned.joins_per_s) == (10, 1000, 100)


def test_cores(planned: Plan) -> None:
    assert planned.cores["gateway"] == pytest.approx(0.06 + 0.1 + 3.6)
    assert planned.cores["callcore"] == pytest.approx(0.03 + 0.05)
    assert planned.cores["presence"] == pytest.approx(2 * 0.05), "a session that breaks is as dear as a join"
    assert planned.cores["nats"] == pytest.approx(3 * (0.01 + 2 * 0.025)), "three copies"


def test_counts(planned: Plan) -> None:
    assert planned.counts == {"gateway": 36, "callcore": 2, "presence": 2, "nats": 3}
    few = plan(COSTS, replace(ASSUMED, sockets=100_000))
    assert few.counts["gateway"] == 8, "then it is the CPU that decides"


def test_streams(planned: Plan) -> None:
    writes = {limit.name: limit for limit in planned.limits}
    assert writes["writes of the bucket `sessions`"].value == pytest.approx(100 * 5)
    assert writes["writes of the bucket `calls`"].value == pytest.approx(90)
    assert writes["writes of `DEADLINES`"].value == pytest.approx(18 + 200), "36 gateways renew their leases"
    assert writes["writes of the bucket `calls`"].limit == pytest.approx(5000), "half of it with copies"
    assert planned.messages_per_s == pytest.approx(216 + 1000 + 3000)


def test_memory(planned: Plan) -> None:
    assert planned.ram_gib["gateway"] == pytest.approx((360_000 * 4 / 1024 + 36 * 40) / 1024)
    assert planned.ram_gib["nats"] == pytest.approx(3 * (360_000 * 6 * 1024 + 10 * 60 * 20_000) / 2**30)


def test_more_callcores_do_not_help_where_each_has_to_look_through_all_keys() -> None:
    at_ten_million = plan(COSTS, replace(ASSUMED, users=10_000_000)).counts["callcore"]
    assert at_ten_million > 2
    assert plan(COSTS, replace(ASSUMED, users=1_000_000_000)).counts["callcore"] == 0, "no number is enough"


def test_ten_times_the_users_are_ten_times_the_writes(planned: Plan) -> None:
    tenfold = plan(COSTS, replace(ASSUMED, users=3_600_000))
    for before, after in zip(planned.limits[:5], tenfold.limits[:5], strict=True):
        assert after.value == pytest.approx(10 * before.value)


def test_costs_are_read_from_what_was_measured() -> None:
    rest = {"cores": 0.1, "cpu_us": 100.0, "cpu_us.gateway": 75.0, "cpu_us.nats": 25.0}
    figures = {
        "bench": {
            "calls": {"cpu_us.gateway": 6000.0},
            "joins": {"cpu_us.gateway": 500.0, "connect_us": 700.0},
            "idle": {"pss_kib.gateway": 4.0, "base_mib": 200.0},
        },
        "growth": [
            {"calls": 10, "idle": 0, "rest": rest},
            {"calls": 110, "idle": 0, "rest": rest | {"cores": 0.2}},
            {"calls": 10, "idle": 1000, "rest": rest | {"cores": 0.5}},
        ],
        "sweep_seconds": 5.0,
        "footprint": {
            **dict.fromkeys(("second", "join", "call", "break"), NOTHING),
            "write": {"per_s": 1.0},
            "list": {"us": 1.0, "hash_us": 1.0, "bytes": 1.0},
        },
    }
    costs = capacity.read(figures)
    assert costs.join_us["gateway"] == 1200
    assert costs.idle_us["gateway"] == pytest.approx(0.75 * 0.4 / 1000 * 1e6)
    assert costs.live_us["nats"] == pytest.approx(0.25 * 0.1 / 100 * 1e6 / 3), "swept every 15 s, not every 5"


def test_the_limit_that_is_met_first_is_on_top() -> None:
    lines = scale.tables(COSTS, ASSUMED, (360_000,))["limits"].splitlines()
    assert lines[2].startswith("| writes of the bucket `sessions` | 5,000/s | 3,600,000 | 500/s: 1 |")


def test_the_page_is_what_its_figures_say() -> None:
    assert scale.main(["--check"]) == 0, "python -m bench.scale --write"
