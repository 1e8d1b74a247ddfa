"""Compute the resources for a number of online users from measured costs and assumptions. Pure."""

import math
from dataclasses import dataclass, replace
from typing import Any

ROLES = ("gateway", "callcore", "presence", "nats")
SESSIONS, CALLS, DEADLINES, EVENTS, DELIVER = "KV_sessions", "KV_calls", "DEADLINES", "EVENTS", "DELIVER"
SWEEP_SECONDS = 15.0
ENDED_SECONDS = 60.0
"""Seconds that the records of an ended call and its ring counters are kept."""
KEYS_LIVE, KEYS_ENDED = 3, 3
"""Keys of a call: itself and two reservations while it lives; itself and two counters after it."""
MAILBOX_SECONDS = 60.0

Shares = dict[str, float]


@dataclass(frozen=True, slots=True)
class Costs:
    """Describes measured costs. CPU in microseconds by role; footprints as :mod:`bench.footprint` has them."""

    call_us: Shares
    join_us: Shares
    idle_us: Shares
    """Cost of one idle socket, a second."""
    live_us: Shares
    """Cost of one live call without traffic, a second."""
    socket_kib: Shares
    base_mib: float
    second: Shares
    join: Shares
    call: Shares
    broken: Shares
    """Cost of a session that breaks and is not resumed."""
    writes_per_s: float
    """Writes a second that one client completes through one stream without replicas."""
    list_us: float
    """CPU of a callcore for each key of a reconciliation that it does not own, and ``hash_us`` for each instance."""
    hash_us: float
    list_bytes: float


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Describes the assumptions that are not measured."""

    users: int = 1_000_000
    calls_per_day: float = 1.0
    busy_share: float = 0.12
    call_seconds: float = 180.0
    joins_per_hour: float = 2.0
    busy: float = 0.6
    sockets: int = 20_000
    replicas: int = 3
    replicated: float = 0.5
    cores_per_node: int = 8
    deliveries_per_s: float = 200_000.0
    list_mb_per_s: float = 100.0


ABOUT = {
    "calls_per_day": "calls that an online user places a day",
    "busy_share": "part of a day's calls that is in its busiest hour",
    "call_seconds": "mean length of a call, seconds",
    "joins_per_hour": "joins of an online user an hour, each after a session that broke and was not resumed",
    "busy": "part of a core that is used at most",
    "sockets": "sockets of a gateway at most, so that one that dies is not missed much",
    "replicas": "copies of each stream",
    "replicated": "part of a stream's writes a second that is left with copies on other nodes",
    "cores_per_node": "cores that nats-server has on a node",
    "deliveries_per_s": "messages that the leader of a memory stream takes a second",
    "list_mb_per_s": "what the leader of a stream may send for sweeps, MB/s",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """Describes a resource that exists once, and how much of it is used."""

    name: str
    value: float
    limit: float
    unit: str
    sweeps: bool = False
    """True if all callcores do this work repeatedly for all calls, so that more callcores may not be enough."""

    @property
    def share(self) -> float:
        return self.value / self.limit


@dataclass(frozen=True, slots=True)
class Plan:
    """Describes the resources for a number of users in the busy hour."""

    users: int
    calls_per_s: float
    live_calls: float
    joins_per_s: float
    counts: dict[str, int]
    cores: Shares
    ram_gib: Shares
    messages_per_s: float
    beats_per_s: float
    """Heartbeats delivered: of each callcore and presence to each of them and to each gateway."""
    bus_gbit: float
    limits: list[Limit]


def plan(costs: Costs, assumed: Assumptions) -> Plan:
    """Compute the plan. Rates are those of the busy hour."""
    calls = assumed.users * assumed.calls_per_day * assumed.busy_share / 3600
    live = calls * assumed.call_seconds
    joins = assumed.users * assumed.joins_per_hour / 3600

    cores = {
        role: (
            calls * costs.call_us.get(role, 0.0)
            + joins * costs.join_us.get(role, 0.0)
            + assumed.users * costs.idle_us.get(role, 0.0)
            + live * costs.live_us.get(role, 0.0)
        )
        / 1e6
        for role in ROLES
    }
    # A session that breaks changes the same records, by a request to the same service.
    for role in ("presence", "nats"):
        cores[role] += joins * costs.join_us.get(role, 0.0) / 1e6

    keys = live * KEYS_LIVE + calls * ENDED_SECONDS * KEYS_ENDED
    callcores = _callcores(costs, cores["callcore"], keys, assumed.busy)
    gateways = max(2, math.ceil(cores["gateway"] / assumed.busy), math.ceil(assumed.users / assumed.sockets))
    presences = max(2, math.ceil(cores["presence"] / assumed.busy))
    # Each copy of a stream is written and kept.
    nats_cores = cores["nats"] * assumed.replicas
    nodes = max(assumed.replicas, math.ceil(nats_cores / assumed.busy / assumed.cores_per_node))
    mailboxes = calls * MAILBOX_SECONDS * costs.call["deliver_bytes"]

    def rate(key: str) -> float:
        alone = costs.second[key] / 2 * gateways  # what was measured had two
        return alone + calls * costs.call[key] + joins * (costs.join[key] + costs.broken[key])

    writes = costs.writes_per_s * (assumed.replicated if assumed.replicas > 1 else 1.0)
    listed = keys * costs.list_bytes / SWEEP_SECONDS * max(2, callcores) / 1e6
    return Plan(
        users=assumed.users,
        calls_per_s=calls,
        live_calls=live,
        joins_per_s=joins,
        counts={"gateway": gateways, "callcore": callcores, "presence": presences, "nats": nodes},
        cores={**cores, "nats": nats_cores},
        ram_gib={
            "gateway": (assumed.users * costs.socket_kib["gateway"] / 1024 + gateways * costs.base_mib / 5)
            / 1024,
            "nats": (assumed.users * costs.socket_kib["nats"] * 1024 + mailboxes) * assumed.replicas / 2**30,
        },
        messages_per_s=rate("messages"),
        beats_per_s=(callcores + presences) * (gateways + callcores + presences),
        bus_gbit=rate("bytes") * 8 / 1e9,
        limits=[
            Limit("writes of the bucket `sessions`", rate(SESSIONS), writes, "/s"),
            Limit("writes of the bucket `calls`", rate(CALLS), writes, "/s"),
            Limit("writes of `DEADLINES`", rate(DEADLINES), writes, "/s"),
            Limit("writes of `EVENTS`", rate(EVENTS), writes, "/s"),
            Limit("deliveries captured by `DELIVER`", rate(DELIVER), assumed.deliveries_per_s, "/s"),
            Limit(
                "keys listed for the sweeps of all callcores",
                listed,
                assumed.list_mb_per_s,
                " MB/s",
                sweeps=True,
            ),
            Limit(
                "keys that one sweep looks through",
                keys * costs.list_us / 1e6,
                SWEEP_SECONDS * assumed.busy,
                " s",
                sweeps=True,
            ),
        ],
    )


def look_seconds(costs: Costs, keys: float, instances: int) -> float:
    """Return the CPU time in which a callcore finds its own calls among all keys, in seconds."""
    return keys * (costs.list_us + instances * costs.hash_us) / 1e6


def _callcores(costs: Costs, cores: float, keys: float, busy: float) -> int:
    """Return how many callcores share ``cores``, where each reads all keys; 0 if no number is enough."""
    # A key costs a hash for each of them. The least count for which cores / count + alone + count * hashes <= busy.
    alone, hashes = keys * costs.list_us / SWEEP_SECONDS / 1e6, keys * costs.hash_us / SWEEP_SECONDS / 1e6
    free = busy - alone
    inside = free * free - 4 * hashes * cores
    if free <= 0 or inside < 0:
        return 0
    least = (free - math.sqrt(inside)) / (2 * hashes) if hashes else cores / free
    return max(2, math.ceil(least))


def full_at(costs: Costs, assumed: Assumptions, number: int) -> float:
    """Return the number of users at which the limit of that number is reached, all else as assumed."""
    low, high = 1.0, 1e12
    while high / low > 1.001:
        users = math.sqrt(low * high)
        planned = plan(costs, replace(assumed, users=int(users)))
        limit = planned.limits[number]
        reached = limit.share >= 1 or (limit.sweeps and not planned.counts["callcore"])
        low, high = (low, users) if reached else (users, high)
    return high


# --- from measurements ----------------------------------------------------------------------------------------


def read(figures: dict[str, Any]) -> Costs:
    """Read the costs from what :mod:`bench.publish` has written."""
    bench, growth, counted = figures["bench"], figures["growth"], figures["footprint"]

    def of(mode: str, key: str) -> Shares:
        return {role: bench[mode].get(f"{key}.{role}", 0.0) for role in ROLES}

    join = of("joins", "cpu_us")
    join["gateway"] += bench["joins"]["connect_us"]
    at = {(step["calls"], step["idle"]): step["rest"] for step in growth}
    few, idle = min(calls for calls, _ in at), max(idle for _, idle in at)
    more = [calls - few for calls, beside in at if beside == 0]
    swept_less: float = figures["sweep_seconds"] / SWEEP_SECONDS  # than while it was measured

    def cores(step: tuple[int, int], role: str) -> float:
        rest = at[step]
        share: float = (
            rest["cores"] * rest.get(f"cpu_us.{role}", 0.0) / rest["cpu_us"] if rest["cpu_us"] else 0.0
        )
        return share

    def live(role: str) -> float:
        """Fit the line through the first step that is nearest to all others: reconciliation makes each step noisy."""
        rise: float = sum(n * (cores((n + few, 0), role) - cores((few, 0), role)) for n in more)
        return float(max(0.0, rise / sum(n * n for n in more)) * 1e6 * swept_less)

    return Costs(
        call_us=of("calls", "cpu_us"),
        join_us=join,
        idle_us={r: max(0.0, cores((few, idle), r) - cores((few, 0), r)) / idle * 1e6 for r in ROLES},
        live_us={role: live(role) for role in ROLES},
        socket_kib={role: max(0.0, kib) for role, kib in of("idle", "pss_kib").items()},
        base_mib=bench["idle"]["base_mib"],
        second=counted["second"],
        join=counted["join"],
        call=counted["call"],
        broken=counted["break"],
        writes_per_s=counted["write"]["per_s"],
        list_us=counted["list"]["us"],
        hash_us=counted["list"]["hash_us"],
        list_bytes=counted["list"]["bytes"],
    )
