"""The AsyncAPI documents have everything, and say of messages what the services say."""

import inspect
import re
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.callcore.handlers import Handlers as CallcoreHandlers
from services.presence.handlers import Handlers as PresenceHandlers
from shared.contracts.client import INBOUND, OUTBOUND, RELAYED, Event
from shared.contracts.rpc import Done
from shared.errors import BY_CODE
from shared.messaging.rpc import RpcServer
from shared.subjects import TABLE
from signalling.docgen.asyncapi.bus_channels import REQUESTS, REQUESTS_AT
from signalling.docgen.asyncapi.schemas import plain
from tests.support.asyncapi import Document
from tests.support.service_process import REPOSITORY

CLIENTS, BUS = Document("socketio", closed=True), Document("nats", closed=True)
OPEN = Document("socketio")
DOCUMENTS = {"socketio": CLIENTS, "nats": BUS}
PROTOCOL = (REPOSITORY / "docs" / "protocol.md").read_text()


def section(title: str) -> str:
    return PROTOCOL.split(f"## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> set[str]:
    """The names in the first column of a table."""
    return {
        name for cell in re.findall(r"^\| (.+?) \|", text, re.M) for name in re.findall(r"`([\w:]+)`", cell)
    }


# --- completeness -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_message_has_an_example_and_examples_are_right(name: str) -> None:
    document = DOCUMENTS[name]
    for key, message in document.whole["components"]["messages"].items():
        assert message["examples"], key
        for example in message["examples"]:
            assert document.faults(key, example["payload"]) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_is_named_that_is_not_there_and_nothing_is_there_that_is_not_named(name: str) -> None:
    document = DOCUMENTS[name].whole
    named: set[str] = set()

    def look(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                named.add(part["$ref"])
            for value in part.values():
                look(value)
        elif isinstance(part, list):
            for value in part:
                look(value)

    look(document)
    for ref in named:
        there = document
        for step in ref.removeprefix("#/").split("/"):
            there = there[step]
    for kind in ("schemas", "messages"):
        there = {f"#/components/{kind}/{key}" for key in document["components"][kind]}
        assert there - named == set()


def test_every_event_is_there_both_ways_with_its_acknowledgement() -> None:
    operations = CLIENTS.whole["operations"]
    for action, events in (("receive", INBOUND), ("send", {*OUTBOUND, *RELAYED})):
        there = {o["title"] for o in operations.values() if o["action"] == action}
        assert there == {event.value for event in events}
    for operation in operations.values():
        replies = [ref["$ref"].rpartition("/")[2] for ref in operation.get("reply", {}).get("messages", ())]
        assert (len(replies), "refusal" in replies) == (
            (2, True) if operation["action"] == "receive" else (0, False)
        )


def test_every_event_of_the_protocol_is_there() -> None:
    operations = CLIENTS.whole["operations"].values()
    for title, action in (("Client to server", "receive"), ("Server to client", "send")):
        assert first_cells(section(title)) == {o["title"] for o in operations if o["action"] == action}


def test_every_key_of_the_protocol_is_there() -> None:
    """Of a row that is about several events, each key belongs to one of them at least."""
    components = CLIENTS.whole["components"]
    for title, which in (("Client to server", "sent"), ("Server to client", "told")):
        for events, text in re.findall(r"^\| (`.+?`) \| (.+?) \|", section(title).replace("\\|", "or"), re.M):
            keys = {*re.findall(r"`(\w+)\??(?:: [^`]*)?`", text)} - {"null", "equals"}
            there: set[str] = set()
            for event in re.findall(r"`([\w:]+)`", events):
                ref = components["messages"][f"{event.replace(':', '.')}.{which}"]["payload"]["$ref"]
                there |= set(components["schemas"][ref.rpartition("/")[2]]["properties"])
            assert keys <= there, f"{events}: {keys - there}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_code_is_there(name: str) -> None:
    codes = DOCUMENTS[name].whole["components"]["schemas"]["ErrorCode"]
    assert set(codes["enum"]) == set(BY_CODE) == first_cells(section("Errors"))
    assert all(f"| `{code}` | {cls.default} |" in codes["description"] for code, cls in BY_CODE.items())


def test_every_subject_is_there() -> None:
    addresses = [c["address"] for c in BUS.whole["channels"].values() if c["address"]]
    for row in TABLE:
        for pattern in row.pattern.split(", "):
            address = pattern.replace("<", "{").replace(">", "}")
            verbs = re.escape(address).replace(re.escape("{verb}"), r"\w+")
            assert any(re.fullmatch(verbs, there) for there in addresses), pattern


async def test_every_endpoint_is_there_with_what_it_takes_and_answers() -> None:
    served: dict[tuple[str, str, bool], tuple[type, type]] = {}

    class Listening:
        """Notes what is to be served."""

        async def serve(
            self, service: str, verb: str, model: type, handler: Any, *, at: str | None = None
        ) -> None:
            returns = inspect.get_annotations(handler, eval_str=True)["return"]
            served[service, verb, at is not None] = (model, returns)

    server = cast(RpcServer, Listening())
    # As they are without anything that handling takes.
    await CallcoreHandlers.__new__(CallcoreHandlers).register(server, "cc-1")
    await PresenceHandlers.__new__(PresenceHandlers).register(server)
    told = {(*key, False): models for key, models in REQUESTS.items()}
    told |= {(*key, True): models for key, models in REQUESTS_AT.items()}
    assert served == told
    assert any(answered is Done for _, answered in served.values())


# --- the schemas and the services agree ---------------------------------------------------------------------------

USER = st.sampled_from(["bob", "a" * 128, "☎ 😀", "", "a" * 129, "a\nb", "\x7f", "\x85", 7, None])
ID = st.sampled_from(["kRj0xX0rT4uH2mYb0cQ1dg", "", "x" * 128, "x" * 129, None, 1, {}])
OBJECT = st.sampled_from([{}, {"type": "offer"}, None, [], "v=0", 1])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "userId": USER,
    "to": USER,
    "from": USER,
    "callId": ID,
    "deviceId": USER,
    "token": st.sampled_from(["t", "", "t" * 8192, "t" * 8193, None, 1]),
    "callType": st.sampled_from(["audio", "video", "smell", None, 1]),
    "metadata": st.sampled_from([None, 1, "x", {"a": [1]}, [True]]),
    "reason": st.sampled_from(["busy", "", "Busy", "x" * 32, "x" * 33, None, 1]),
    "offer": OBJECT,
    "answer": OBJECT,
    "candidate": OBJECT,
    "candidates": st.sampled_from([[{}], [None, {}], [], [{}] * 64, [{}] * 65, [1], None, {}]),
    "resume": st.fixed_dictionaries(
        {},
        optional={
            "sessionId": st.sampled_from(["s", "", "s" * 65, None]),
            "token": st.sampled_from(["t", "", "t" * 257]),
            "lastSeq": st.sampled_from([0, 1, -1, 1.5, "1", True, None]),
        },
    )
    | st.none(),
    "unknown": st.just(1),
}


@pytest.mark.parametrize("event", INBOUND)
def test_a_payload_is_right_by_the_document_if_the_gateway_takes_it(event: Event) -> None:
    model = INBOUND[event]
    keys = [field.alias or name for name, field in model.model_fields.items()]
    key = f"{event.replace(':', '.')}.sent"

    @settings(max_examples=60, deadline=None)
    @given(st.fixed_dictionaries({}, optional={key: VALUES[key] for key in (*keys, "unknown")}))
    def agree(payload: dict[str, Any]) -> None:
        try:
            model.model_validate(payload)
            taken = True
        except ValidationError:
            taken = False
        faults = OPEN.faults(key, payload)
        assert taken == (not faults), faults

    agree()


def test_docstrings_become_markdown() -> None:
    text = "``call:end`` of\nthe :class:`shared.errors.Unavailable`.\n\n    More of ``it``."
    assert plain(text) == "`call:end` of the `Unavailable`.\n\nMore of `it`."
