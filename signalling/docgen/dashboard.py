"""Generate the Grafana dashboard ``deploy/grafana/dashboards/signalling.json``."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

SOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH = 24
"""Width of the dashboard, in Grafana's units."""
_STAT = {"w": 4, "h": 4}
_GRAPH = {"w": 8, "h": 8}
_LINES = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": True}
_LEGEND = {
    "legend": {"displayMode": "list", "placement": "bottom"},
    "tooltip": {"mode": "multi", "sort": "desc"},
}
_NUMBER = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"}


class Query(NamedTuple):
    """Describes a query: one series, or one for each value of what ``legend`` names."""

    expr: str
    legend: str


class Panel(NamedTuple):
    """Describes a panel. ``unit``: one of Grafana's. ``stat``: a number instead of a time series."""

    title: str
    help: str
    unit: str
    queries: tuple[Query, ...]
    stat: bool = False
    red: float | None = None
    """The value from which a number is red."""


def _graph(title: str, help_: str, unit: str, *queries: tuple[str, str]) -> Panel:
    return Panel(title, help_, unit, tuple(Query(*query) for query in queries))


def _stat(title: str, help_: str, unit: str, *queries: tuple[str, str]) -> Panel:
    return _graph(title, help_, unit, *queries)._replace(stat=True)


def _rate(metric: str, *by: str) -> str:
    return f"sum{' by ({})'.format(', '.join(by)) if by else ''} (rate({metric}[$__rate_interval]))"


def _quantile(q: float, metric: str, *by: str) -> str:
    return f"histogram_quantile({q}, {_rate(f'{metric}_bucket', 'le', *by)})"


def _quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple((_quantile(q, metric), name) for q, name in ((0.5, "median"), (0.95, "p95"), (0.99, "p99")))


OURS = 'job=~"gateway|callcore|presence"'

ROWS: dict[str, tuple[Panel, ...]] = {
    "Is it all right?": (
        _stat("Alerts", "Firing now; Alerting → Alert rules says which.", "none",
              ('count(ALERTS{alertstate="firing"}) or vector(0)', "firing"))._replace(red=1),
        _stat("Ready", "Instances that can do their work.", "none",
              ("sum by (job) (signalling_ready)", "{{job}}")),
        _stat("Sessions", "Users' devices that are joined.", "none", ("sum(signalling_joined_sessions)", "joined")),
        _stat("In grace", "Sessions whose transport broke and who may still come back.", "none",
              ("sum(signalling_sessions_in_grace)", "in grace")),
        _stat("Live calls", "As the last sweep found them.", "none",
              ("sum by (state) (signalling_calls)", "{{state}}")),
        _stat("Answered", "Of the calls placed in the last hour.", "percentunit",
              ("sum(increase(signalling_calls_accepted_total[1h])) / sum(increase(signalling_calls_placed_total[1h]))",
               "answered")),
    ),
    "Calls": (
        _graph("Calls", "Placed, answered and ended.", "cps",
               (_rate("signalling_calls_placed_total"), "placed"),
               (_rate("signalling_calls_accepted_total"), "answered"),
               (_rate("signalling_calls_ended_total"), "ended")),
        _graph("How calls end", "By outcome and reason.", "cps",
               (_rate("signalling_calls_ended_total", "outcome", "reason") + " > 0", "{{outcome}}: {{reason}}")),
        _graph("Not placed", "Errors in reply to `call:initiate`, by code.", "cps",
               (_rate('signalling_rejections_total{event="call:initiate"}', "code"), "{{code}}")),
        _graph("Time to set up", "From `call:initiate` until the callee's devices are notified.", "s",
               *_quantiles("signalling_call_setup_seconds")),
        _graph("Time to ring", "Until the call was answered, or ended without an answer.", "s",
               (_quantile(0.5, "signalling_ring_seconds", "outcome"), "{{outcome}}, median"),
               (_quantile(0.95, "signalling_ring_seconds", "outcome"), "{{outcome}}, p95")),
        _graph("Length of calls", "Of answered ones.", "s",
               (_quantile(0.5, "signalling_call_seconds"), "median"),
               (_quantile(0.9, "signalling_call_seconds"), "p90")),
    ),
    "Clients": (
        _graph("Connections", "At all gateways, and those that have not joined yet.", "none",
               ("sum by (transport) (signalling_connections)", "{{transport}}"),
               ("sum(signalling_unjoined_connections)", "not joined")),
        _graph("Joins", "New sessions, and those continued from another socket.", "cps",
               (_rate("signalling_joins_total", "kind"), "{{kind}}")),
        _graph("Resumes", "By result.", "cps",
               (_rate("signalling_resumes_total", "result"), "{{result}}")),
        _graph("Sessions", "Changes of sessions, by kind.", "cps",
               (_rate("signalling_session_changes_total", "what"), "{{what}}"),
               (_rate("signalling_graces_expired_total"), "grace expired")),
        _graph("Errors sent", "By code.", "cps", (_rate("signalling_rejections_total", "code"), "{{code}}")),
        _graph("Limits hit", "The names of the table in SECURITY.md.", "cps",
               (_rate("signalling_limits_hit_total", "limit"), "{{limit}}")),
        _graph("Time to answer", "95th percentile, by event.", "s",
               (_quantile(0.95, "signalling_event_seconds", "event"), "{{event}}")),
        _graph("Unread", "Bytes that wait for clients that do not read.", "bytes",
               ("sum by (instance) (signalling_unread_bytes)", "{{instance}}")),
        _graph("Broken connections", "Of clients that do not read or answer, by reason.", "cps",
               (_rate("signalling_connections_broken_total", "reason"), "{{reason}}")),
        _graph("Sockets", "At each gateway.", "none", ("signalling_sockets", "{{instance}}")),
    ),
    "Relays": (
        _graph("Relays", "Received from clients.", "cps", (_rate("signalling_relays_total", "kind"), "{{kind}}")),
        _graph("Retransmitted or given up", "Relays retransmitted, dropped by callcore, given up.", "cps",
               (_rate("signalling_relays_resent_total"), "retransmitted"),
               (_rate("signalling_lane_dropped_relays_total"), "dropped by callcore"),
               (_rate("signalling_relays_given_up_total"), "given up")),
        _graph("Send buffer", "Relays kept by gateways; those that callcore has not acknowledged.", "none",
               ("sum by (instance) (signalling_outbox_relays)", "{{instance}}, kept"),
               ("sum by (instance) (signalling_outbox_unacknowledged)", "{{instance}}, not acknowledged")),
        _graph("Cached calls", "Calls in the route cache; calls with a queue for the slow path.", "none",
               ("sum by (instance) (signalling_lanes)", "{{instance}}, calls"),
               ("sum by (instance) (signalling_lane_lines)", "{{instance}}, queues"),
               ("sum by (instance) (signalling_lane_messages)", "{{instance}}, waiting")),
        _graph("Slow path", "Relays for which callcore had to read or decide a call.", "cps",
               (_rate("signalling_lane_slow_relays_total"), "slow path")),
        _graph("Background requests", "Requests that gateways retry at presence or callcore.", "none",
               ("sum by (instance) (signalling_errands)", "{{instance}}"),
               ("sum(signalling_acknowledgements_pending)", "acknowledgements")),
    ),
    "Services": (
        _graph("Requests", "By service and verb.", "reqps",
               (_rate("signalling_requests_total", "job", "verb"), "{{job}} {{verb}}")),
        _graph("Failed requests", "Refused: a fault of the client. Error: a fault of the service.", "reqps",
               (_rate('signalling_requests_total{outcome!="ok"}', "job", "outcome"), "{{job}}: {{outcome}}"),
               (_rate("signalling_request_failures_total") + " or vector(0)", "no reply"),
               (_rate("signalling_request_retries_total") + " or vector(0)", "retried")),
        _graph("Time to handle", "In the service itself, 95th percentile.", "s",
               (_quantile(0.95, "signalling_handling_seconds", "job", "verb"), "{{job}} {{verb}}")),
        _graph("Time to reply", "As the requester measures it, NATS included.", "s",
               (_quantile(0.95, "signalling_request_seconds", "service", "verb"), "{{service}} {{verb}}")),
        _graph("In progress", "Requests that are handled now; 512 an instance at most.", "none",
               ("sum by (job, instance) (signalling_requests_in_hand)", "{{job}} {{instance}}")),
        _graph("Event loop", "Lag, 99th percentile.", "s",
               (_quantile(0.99, "signalling_event_loop_lag_seconds", "job", "instance"), "{{job}} {{instance}}")),
        _graph("CPU", "Of one core.", "percentunit",
               (f"rate(process_cpu_seconds_total{{{OURS}}}[$__rate_interval])", "{{job}} {{instance}}")),
        _graph("Memory", "Resident.", "bytes",
               (f"process_resident_memory_bytes{{{OURS}}}", "{{job}} {{instance}}")),
        _graph("Open files", "Sockets among them.", "none",
               (f"process_open_fds{{{OURS}}}", "{{job}} {{instance}}")),
        _graph("Policy service", "Requests without a reply in time.", "cps",
               (_rate("signalling_policy_unanswered_total"), "may call"),
               (_rate("signalling_contacts_unanswered_total"), "may see")),
        _graph("Deadlines", "Ring timeouts, grace periods, leases: done, or redelivered.", "cps",
               (_rate("signalling_deadlines_total", "kind", "outcome"), "{{kind}}: {{outcome}}")),
        _graph("Reconciliation", "Repaired by reconciliation; gateways that died.", "none",
               ("sum by (what) (increase(signalling_swept_total[$__rate_interval]))", "repaired: {{what}}"),
               ('sum(increase(signalling_gateways_gone_total{how="died"}[$__rate_interval]))', "gateways died")),
    ),
    "Store and NATS, as the services see them": (
        _graph("Time of the store", "Reads and writes of buckets.", "s",
               (_quantile(0.95, "signalling_kv_seconds", "bucket", "operation"), "{{bucket}} {{operation}}")),
        _graph("Races", "Writes that lost to another writer, and decisions made again.", "cps",
               (_rate("signalling_kv_conflicts_total", "bucket"), "{{bucket}}, conflicts"),
               (_rate("signalling_kv_retries_total", "bucket"), "{{bucket}}, again")),
        _graph("Records for EVENTS", "Not acknowledged yet; lost.", "none",
               ("sum(signalling_events_waiting)", "waiting"),
               ("sum(increase(signalling_events_lost_total[$__rate_interval]))", "lost")),
        _graph("Connection", "Reconnects, and times that NATS hung.", "none",
               ("sum by (job) (increase(signalling_nats_reconnects_total[$__rate_interval]))", "{{job}}, reconnects"),
               ("sum by (job) (increase(signalling_nats_hangs_total[$__rate_interval]))", "{{job}}, hangs"),
               ("sum by (kind) (increase(signalling_nats_task_failures_total[$__rate_interval]))", "failed: {{kind}}"),
               ("sum by (error) (increase(signalling_nats_errors_total[$__rate_interval]))", "errors: {{error}}")),
        _graph("Full", "Writes that JetStream refused for lack of space.", "none",
               ("sum by (what) (increase(signalling_jetstream_refusals_total[$__rate_interval]))", "{{what}}")),
        _graph("Messages", "In and out of the services.", "cps",
               (_rate("signalling_nats_messages_total", "job", "direction"), "{{job}} {{direction}}")),
        _graph("Waiting", "Messages not handled yet; requests under way.", "none",
               ("sum by (job) (signalling_nats_pending_messages)", "{{job}}, not handled"),
               ("sum by (job) (signalling_nats_requests_in_flight)", "{{job}}, requests")),
        _graph("Waiting bytes", "Not handled yet; not sent to NATS yet.", "bytes",
               ("sum by (job) (signalling_nats_pending_bytes)", "{{job}}, not handled"),
               ("sum by (job) (signalling_nats_unsent_bytes)", "{{job}}, not sent")),
    ),
    "NATS, by its own metrics": (
        _graph("Messages", "In and out of each server.", "cps",
               ("rate(gnatsd_varz_in_msgs[$__rate_interval])", "{{server_id}}, in"),
               ("rate(gnatsd_varz_out_msgs[$__rate_interval])", "{{server_id}}, out")),
        _graph("Connections", "And those that NATS closed because they did not read.", "none",
               ("gnatsd_varz_connections", "{{server_id}}"),
               ("increase(gnatsd_varz_slow_consumers[$__rate_interval])", "{{server_id}}, slow consumers")),
        _graph("Streams", "Bytes of each, on its leader.", "bytes",
               ('sum by (stream_name) (jetstream_stream_total_bytes{is_stream_leader="true"})', "{{stream_name}}")),
        _graph("Store", "Used, and the limit.", "bytes",
               ("jetstream_server_total_message_bytes", "{{server_name}}, used"),
               ("jetstream_server_max_storage + jetstream_server_max_memory", "{{server_name}}, at most")),
        _graph("Memory", "Of each server.", "bytes", ("gnatsd_varz_mem", "{{server_id}}")),
        _graph("CPU", "Of one core.", "percent", ("gnatsd_varz_cpu", "{{server_id}}")),
    ),
}  # fmt: skip


def dashboard() -> str:
    """Return the dashboard as JSON for Grafana."""
    document = {
        "uid": "signalling",
        "title": "Signalling",
        "tags": ["signalling"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": []},
        "panels": list(_panels()),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _panels() -> Iterator[dict[str, Any]]:
    id_, top = 0, 0
    for title, panels in ROWS.items():
        id_ += 1
        yield {
            "id": id_,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
        }
        top += 1
        left, height = 0, 0
        for panel in panels:
            size = _STAT if panel.stat else _GRAPH
            if left + size["w"] > WIDTH:
                left, top = 0, top + height
            id_ += 1
            yield _panel(panel, id_, {"x": left, "y": top, **size})
            left, height = left + size["w"], size["h"]
        top += height


def _panel(panel: Panel, id_: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + n),
            "datasource": SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "instant": panel.stat,
            "range": not panel.stat,
        }
        for n, query in enumerate(panel.queries)
    ]
    return {
        "id": id_,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": _steps(panel.red)},
                **({} if panel.stat else {"custom": _LINES}),
            },
            "overrides": [],
        },
        "options": _NUMBER if panel.stat else _LEGEND,
        "targets": targets,
    }


def _steps(red: float | None) -> list[dict[str, Any]]:
    plain = [{"color": "text" if red is None else "green", "value": None}]
    return plain if red is None else [*plain, {"color": "red", "value": red}]
