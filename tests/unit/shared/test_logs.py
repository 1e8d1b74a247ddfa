"""What a traceback in a log says, and what it must not."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shared.observability import logs

LIBRARIES = ("aiohttp", "asyncio", "nats", "socketio", "engineio")


@pytest.fixture(autouse=True)
def configured_for_this_test_only() -> Iterator[None]:
    """Restore what ``configure`` changes, so that later tests log as if it had not been called."""
    root, libraries = logging.getLogger(), [logging.getLogger(name) for name in LIBRARIES]
    handlers, levels = root.handlers[:], [logger.level for logger in (root, *libraries)]
    yield
    root.handlers[:] = handlers
    for logger, level in zip((root, *libraries), levels, strict=True):
        logger.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_clients_write_stays_in_its_line_and_does_nothing(form, capsys) -> None:  # type: ignore[no-untyped-def]
    evil = "ann\n2026-01-01 [info] forged\r\x1b[31m\x9b2J\u2028\u202e\x00\ud800"
    logs.configure("test", "test-1", "info", form)
    logs.get("test").warning("refused", refused=evil, call=evil.replace(" ", ""))
    logging.getLogger("aiohttp").error("from %s", evil)
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 2
    assert all(c.isprintable() or c == "\n" for c in err), ascii(err)


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_tells_where_but_not_what_was_in_hand(form, capsys) -> None:  # type: ignore[no-untyped-def]
    logs.configure("test", "test-1", "info", form)
    secret = "v=0 candidate:" + "842163049"
    try:
        raise RuntimeError(f"{len(secret)} bytes")
    except RuntimeError:
        logs.get("test").exception("it failed", call="c1")
    err = capsys.readouterr().err
    assert "it failed" in err and "RuntimeError" in err and "c1" in err
    assert "842163049" not in err
    if form == "json":
        line = json.loads(err)
        assert (line["service"], line["instance"], line["level"]) == ("test", "test-1", "error")


def test_a_plain_line_is_what_the_slow_way_makes_of_it(capsys) -> None:  # type: ignore[no-untyped-def]
    logs.configure("test", "test-1", "info", "json")
    said = {"call": "c1", "n": 7, "odd": {1}, "none": None, "user": "ann ü\ud800"}
    logs.get("test").warning("it happened", **said)
    logs.get("test").debug("not at this level")
    logs.get("test").warning("it happened", **said, stack_info=True)
    quick, slow = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert slow.pop("stack") and [*quick] == [*slow]
    assert len(quick.pop("timestamp")) == len(slow.pop("timestamp")) == len("2026-01-01T00:00:00.000000Z")
    assert (
        quick
        == slow
        == {"service": "test", "instance": "test-1", "level": "warning", "event": "it happened"}
        | {
            **said,
            "odd": "{1}",
        }
    )
