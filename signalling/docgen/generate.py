"""Generate the pages and documents of ``docs/``, and the types of the browser client.

``python -m signalling.docgen [--check]``
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from shared import subjects
from shared.nats.kv import MARKER_TTL_SECONDS
from shared.observability import metrics
from signalling.docgen import bounds, dashboard, typescript
from signalling.docgen.asyncapi import bus_side, client_side

FOLDER = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "presence", "callcore")

_SETTINGS_HEAD = """\
# Settings

Generated from `services/*/settings.py` by `python -m signalling.docgen`; do not edit.

Each service reads its settings from the environment and from a file `.env` in its working directory; the environment
wins. An empty value counts as absent. A wrong value stops the service with exit status 2 and a line that names the
key, the value and what is allowed.
"""

_METRICS_HEAD = """\
# Metrics

Generated from the metrics modules of `shared` and `services` by `python -m signalling.docgen`; do not edit.

Each process serves its own at `METRICS_PORT`; how they are read is in [operations](operations.md#metrics). A counter
only grows, from 0 at each start; a histogram is `…_bucket`, `…_sum` and `…_count`. No label has a user, call, session
or address. Besides these there are `process_*` (CPU, memory, open files) and `python_gc_*`.
"""

_SUBJECTS_HEAD = """\
# Subjects, streams and buckets

Generated from `shared/subjects.py` by `python -m signalling.docgen`; do not edit.

Ids from outside (users, a client's `callId`) are encoded: bytes outside `[A-Za-z0-9_-]` become `=XX`, so `user123`
stays `user123` and `a.b` is `a=2Eb`. Ids of our own (instances, sessions, calls) go in as they are. `-` stands for
no user or session. The payloads are in `docs/asyncapi/nats.json`; those of relays, with the flags of their reply
subjects: [the wire format of a relay](relay-wire-format.md).

```sh
nats sub 'event.user.alice.>'     # what happens to one user
nats sub 'relay.*.<call>.>'       # what goes through one call
nats sub 'deliver.*.<session>.>'  # all that one session is sent
nats kv get calls call.<call>     # the record of a call
nats micro ls                     # the services that answer requests
```

## Subjects
"""

_STORED_HEAD = """\
## Streams and buckets

Each is made by its owner at start, with `KV_REPLICAS` copies, and brought to the settings of the owner that starts
last. Only the owner writes to a bucket.
"""


# --- settings -----------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """Describes one row of ``docs/settings.md``."""

    key: str
    allowed: str
    default: str
    description: str


def settings_page() -> str:
    """Return ``docs/settings.md``, from the settings classes of the services."""
    used: dict[Setting, list[str]] = {}
    services = _present()
    for service in services:
        for setting in _settings(service):
            used.setdefault(setting, []).append(service)
    everywhere = [setting for setting, users in used.items() if len(users) == len(services)]
    parts = [_SETTINGS_HEAD, "## All services\n", _settings_table(everywhere)]
    for service in services:
        own = [s for s, users in used.items() if service in users and s not in everywhere]
        parts += [f"## {service}\n", _settings_table(own)]
    return "\n".join(parts)


def _settings_table(settings: Iterable[Setting]) -> str:
    return _table(
        ("key", "allowed", "default", "what it is"),
        ((f"`{s.key}`", s.allowed, f"`{s.default}`" if s.default else "", s.description) for s in settings),
    )


def _present() -> list[str]:
    """Return the services that have settings."""
    return [s for s in SERVICES if find_spec(f"services.{s}.settings")]


def _settings(service: str) -> Iterable[Setting]:
    cls = import_module(f"services.{service}.settings").Settings
    schema = cls.model_json_schema()
    for name, field in cls.model_fields.items():
        yield Setting(
            key=name.upper(),
            allowed=_allowed(schema["properties"][name], schema.get("$defs", {})),
            default=_default(field.get_default(call_default_factory=True)),
            description=field.description or "",
        )


def _allowed(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    """Return in words what a JSON schema allows."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return " or ".join(_allowed(s, defs) for s in schema["anyOf"] if s.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "integer":
            return _range("whole number", schema)
        case "number":
            return _range("number", schema)
        case "boolean":
            return "`on`, `off`"
        case "array":
            return (
                "texts, comma separated" if schema.get("items", {}).get("type") == "string" else "JSON list"
            )
        case "object":
            return "JSON object"
        case "string" if "pattern" in schema:
            return f"text, `{schema['pattern']}`"
    return "text"


def _range(noun: str, schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        return f"{noun} above {schema['exclusiveMinimum']}" + (
            f", at most {high}" if high is not None else ""
        )
    if low is not None and high is not None:
        return f"{noun}, {low} to {high}"
    if low is not None:
        return f"{noun}, at least {low}"
    return f"{noun}, at most {high}" if high is not None else noun


def _default(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)


# --- subjects -----------------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """Describes a stream or bucket: its owner, and what limits its size."""

    name: str
    subjects: str
    storage: str
    owner: str
    limits: str


STORED = (
    Stored(
        subjects.STREAM_DELIVER,
        "`deliver.>`",
        "memory, no acknowledgements",
        "callcore",
        "twice `RESUME_WINDOW_SECONDS`, `DELIVER_MAX_MB`; oldest out first",
    ),
    Stored(
        subjects.STREAM_EVENTS,
        "`event.>`",
        "file",
        "presence, callcore",
        "`EVENTS_MAX_AGE_HOURS`, `EVENTS_MAX_MB`; oldest out first",
    ),
    Stored(
        subjects.STREAM_DEADLINES,
        "`deadline.>`",
        "file",
        "callcore",
        "one message a subject, gone when its time has come",
    ),
    Stored(
        f"KV_{subjects.BUCKET_SESSIONS}",
        f"`$KV.{subjects.BUCKET_SESSIONS}.>`",
        "file, bucket",
        "presence",
        f"one value a key; a deleted key's marker goes after {MARKER_TTL_SECONDS} s",
    ),
    Stored(
        f"KV_{subjects.BUCKET_CALLS}",
        f"`$KV.{subjects.BUCKET_CALLS}.>`",
        "file, bucket",
        "callcore",
        f"one value a key; ended calls go after a minute, a deleted key's marker after {MARKER_TTL_SECONDS} s",
    ),
)


def subjects_page() -> str:
    """Return ``docs/subjects.md``, from the table of :mod:`shared.subjects`."""
    subjects_table = _table(
        ("subject", "kind", "sent by", "received by", "for"),
        ((f"`{row.pattern}`", *row[1:]) for row in subjects.TABLE),
    )
    stored_table = _table(
        ("name", "holds", "storage", "owner", "limits"), ((f"`{s.name}`", *s[1:]) for s in STORED)
    )
    return f"{_SUBJECTS_HEAD}\n{subjects_table}\n{_STORED_HEAD}\n{stored_table}"


# --- metrics ------------------------------------------------------------------------------------------------------


def metrics_page() -> str:
    """Return ``docs/metrics.md``, from the metrics that the modules declare."""
    parts = [_METRICS_HEAD, "## All services\n", _metrics_table("shared.service.process_metrics")]
    for service in SERVICES:
        parts += [f"## {service}\n", _metrics_table(f"services.{service}.metrics")]
    return "\n".join(parts)


def _metrics_table(module: str) -> str:
    return _table(
        ("metric", "kind", "labels", "what it is"),
        (
            (
                f"`{metric.name}`",
                metric.kind.value,
                ", ".join(f"`{name}`" for name in metric.labels),
                metric.help,
            )
            for metric in metrics.declared(import_module(module))
        ),
    )


# --- states of a call ---------------------------------------------------------------------------------------------


def call_states_page() -> str:
    """Return ``docs/call-states.md``, from the table of the call machine."""
    page: str = import_module("services.callcore.state.diagram").markdown()
    return page


# --- pages --------------------------------------------------------------------------------------------------------


def _json(document: Callable[[], dict[str, Any]]) -> str:
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _spliced(name: str, section: str, content: Callable[[], str]) -> str:
    """Return the page ``name`` with the text between the two comments of ``section`` replaced."""
    begin, end = f"<!-- {section}: generated -->\n", f"<!-- {section}: end -->\n"
    before, _, rest = (FOLDER / name).read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{name} has no section {section}")
    return f"{before}{begin}\n{content()}\n{end}{after}"


PAGES: dict[str, Callable[[], str]] = {
    "docs/settings.md": settings_page,
    "docs/subjects.md": subjects_page,
    "docs/call-states.md": call_states_page,
    "docs/metrics.md": metrics_page,
    "deploy/grafana/dashboards/signalling.json": dashboard.dashboard,
    "docs/asyncapi/socketio.json": partial(_json, client_side.document),
    "docs/asyncapi/nats.json": partial(_json, bus_side.document),
    "web/client/src/contracts.ts": typescript.contracts,
    "SECURITY.md": partial(_spliced, "SECURITY.md", "bounds", bounds.table),
}


def stale(folder: Path = FOLDER) -> list[str]:
    """Return the pages under ``folder`` that are missing or out of date."""
    return [name for name, page in PAGES.items() if _read(folder / name) != page()]


def write(folder: Path = FOLDER) -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(page(), encoding="utf-8")


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def main() -> int:
    """Write the pages, or with ``--check`` name the stale ones and return 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m signalling.docgen", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit status 1 if a page is stale"
    )
    if not parser.parse_args().check:
        write()
        return 0
    names = stale()
    for name in names:
        print(f"{name} is stale: run python -m signalling.docgen", file=sys.stderr)
    return 1 if names else 0
