"""Lines about messages: what they show, and what they never do."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from shared import subjects
from signalling.monitor import formatting

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
OFFER = {
    "offer": {"type": "offer", "sdp": "v=0\r\nc=IN IP4 203.0.113.7\r\n"},
    "from": "alice",
    "callId": "c1",
    "relay": "s1.7",
}


def shown(subject: str, body: Any, *, raw: bool = False) -> str:
    return formatting.line(
        subject, body if isinstance(body, bytes) else json.dumps(body).encode(), NOW, raw=raw
    )


def test_an_offer_is_told_by_its_size() -> None:
    subject = subjects.deliver("gw", "s2", "call:offer")
    line = shown(subject, OFFER)
    size = len(json.dumps(OFFER["offer"], separators=(",", ":")))
    assert line == f"03:04:05.678  deliver.gw.s2.call:offer  offer=<{size} bytes> from=alice callId=c1"


def test_raw_shows_it_on_one_line_without_control_characters() -> None:
    line = shown("deliver.gw.s2.call:offer", OFFER | {"to": "\x1b[2J\x9b\u202e"}, raw=True)
    assert "203.0.113.7" in line
    assert line.isprintable()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        {"token": "hunter2"},
        {"resumeToken": "hunter2"},
        {"resume": {"token": "hunter2"}},
        {"result": {"resumeToken": "hunter2"}},
        {"iceServers": [{"credential": "hunter2"}]},
        {"call": {"resumeToken": "hunter2", "state": "ringing"}},
    ],
)
def test_tokens_are_never_shown(raw: bool, body: dict[str, Any]) -> None:
    assert "hunter2" not in shown("rpc.presence.join", body, raw=raw)


@pytest.mark.parametrize("value", ["203.0.113.7", ["203.0.113.7"], {"ip": "203.0.113.7"}, 203.0113])
def test_a_field_that_is_not_known_is_told_by_its_size(value: object) -> None:
    assert "203.0" not in shown("rpc.calls.x", {"metadata": value, "whatever": value, "from": {"ip": value}})


def test_a_yes_or_no_is_told_as_it_is() -> None:
    line = shown("rpc.calls.accept", {"user": "ann", "settle": False, "leftMs": 1900})
    assert "settle=false" in line
    assert "leftMs" not in line, "the time budget is of the envelope"


def test_what_is_no_object_is_told_by_its_size() -> None:
    assert shown("control.gw.s.replaced", b"203.0.113.7").endswith("<11 bytes>")
    assert shown("rollcall", b"") == "03:04:05.678  rollcall"


def test_ids_are_readable_and_harmless() -> None:
    line = shown(subjects.event_user("a.b\x1b", "joined"), {})
    assert line.endswith("event.user.a.b\\x1b.joined")


def test_whom_and_which_call_a_message_names() -> None:
    relay = subjects.relay("cc", "c1", "al.ice", "s1", "bob", "call:offer")
    assert formatting.users_of(relay, b"{}") == {"al.ice", "bob"}
    assert formatting.calls_of(relay, b"{}") == {"c1"}
    assert formatting.sessions_of(relay, b"{}") == [("s1", "al.ice")]
    state = subjects.relay_state("cc", "c1")
    assert formatting.sessions_of(state, b"{}") == []
    body = json.dumps({"call": {"call": "c1", "caller": "alice", "callee": "bob"}}).encode()
    assert formatting.users_of(state, body) >= {"alice", "bob"}
    assert formatting.calls_of(subjects.event_call("c2", "ended"), b"garbage") == {"c2"}
