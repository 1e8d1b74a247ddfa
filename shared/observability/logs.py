"""Structured logs. No SDP, candidate or token ever goes into one: log ids and counts, not payloads."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import structlog
import structlog.tracebacks

from shared.observability.escaping import printable

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Without the local variables of each frame: an SDP or a token may be among them.
_tracebacks = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def _escape(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Text of clients must not end a line, nor move the cursor. (In JSON it cannot.)"""
    return {
        key: printable(value) if isinstance(value, str) and key not in ("exception", "stack") else value
        for key, value in line.items()
    }


class _Stderr:
    """Where our own lines go; each is written at its end."""

    def msg(self, line: str) -> None:
        sys.stderr.write(line + "\n")

    debug = info = warning = error = critical = msg


def configure(service: str, instance: str, level: str, form: Literal["json", "console"]) -> None:
    """Send structlog and the standard library's logging to stderr, in one format, with the names of this instance."""
    shared: list[structlog.typing.Processor] = [
        _named(service, instance),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[structlog.typing.Processor] = (
        [_tracebacks, structlog.processors.JSONRenderer()]
        if form == "json"
        else [
            _escape,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    # Our own lines do not go through the standard library: that costs twice as much as making them.
    structlog.configure(
        processors=[_quickly(service, instance, [*shared, *last])] if form == "json" else [*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Stderr(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    # Libraries speak up only when something is wrong: their info lines carry payloads.
    for name in ("aiohttp", "asyncio", "nats", "socketio", "engineio"):
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.WARNING))


def _named(service: str, instance: str) -> structlog.typing.Processor:
    def name(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"service": service, "instance": instance, **line}

    return name


def _quickly(
    service: str, instance: str, slowly: list[structlog.typing.Processor]
) -> structlog.typing.Processor:
    """Return a renderer with the output of ``slowly``, in a third of its time for lines without a traceback."""
    encode = json.JSONEncoder(default=repr).encode

    def render(logger: object, method: str, line: structlog.typing.EventDict) -> str:
        if "exc_info" in line or "stack_info" in line:
            done: object = line
            for processor in slowly:
                done = processor(logger, method, done)  # type: ignore[arg-type]  # the last one makes text of it
            return str(done)
        line["level"] = method
        line["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return encode({"service": service, "instance": instance, **line})

    return render


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger; bind ``user``, ``session`` and ``call`` to it where they are known."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger
