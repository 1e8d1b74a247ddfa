"""Describe the channels of ``docs/asyncapi/nats.json``, one for each row of :data:`shared.subjects.TABLE`."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from services.callcore.state.model import Call
from shared.contracts import calls, client, events, liveness, policy, presence, relays
from shared.contracts.call_records import CallCommand, CommandResult, StateAnnouncement
from shared.contracts.client import RELAYED, STORED, Event
from shared.contracts.rpc import Done
from shared.contracts.wire import Wire
from shared.errors import BY_CODE
from shared.subjects import TABLE, Row
from signalling.docgen.asyncapi.client_payloads import SEQ_SCHEMA, SEQUENCED, key_of, relayed
from signalling.docgen.asyncapi.examples import ALICE_AT, AT, MODELS, SEQ
from signalling.docgen.asyncapi.schemas import Schema, Schemas, merged

_TRACEPARENT: Schema = {
    "type": "string",
    "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
    "description": "W3C Trace Context, where it belongs to a trace that is kept.",
}
_TRACED: Schema = {"type": "object", "properties": {"traceparent": _TRACEPARENT}}

REQUESTS: dict[tuple[str, str], tuple[type[Wire], type[Wire]]] = {
    ("presence", "join"): (presence.JoinsRequest, presence.JoinsReply),
    ("presence", "leave"): (presence.LeaveRequest, Done),
    ("presence", "lost"): (presence.LostRequest, Done),
    ("presence", "reassert"): (presence.ReassertRequest, presence.ReassertReply),
    ("presence", "renew"): (presence.RenewRequest, presence.RenewReply),
    ("presence", "status"): (presence.StatusRequest, client.Status),
    ("presence", "count"): (presence.CountRequest, presence.CountReply),
    ("calls", "initiate"): (calls.InitiateRequest, calls.InitiateReply),
    ("calls", "accept"): (calls.AcceptRequest, calls.CallReply),
    ("calls", "reject"): (calls.RejectRequest, calls.CallReply),
    ("calls", "end"): (calls.EndRequest, calls.CallReply),
    ("calls", "find"): (calls.FindRequest, calls.CallReply),
    ("calls", "attached"): (calls.AttachedRequest, calls.AttachedReply),
    ("calls", "left"): (calls.LeftRequest, Done),
}
"""Maps (service, verb) to the models of request and reply."""

REQUESTS_AT: dict[tuple[str, str], tuple[type[Wire], type[Wire]]] = {
    ("calls", "initiate"): (calls.InitiateRequest, calls.InitiateReply),
    ("calls", "happen"): (CallCommand, CommandResult),
}
"""Maps the verbs of a named instance to the models of request and reply."""

_NAMES: dict[type[Wire], str] = {CommandResult: "CommandResult"}
"""Models that share their name with another model."""

_POLICY: dict[str, type[Wire]] = {"may_call": policy.MayCall, "may_see": policy.MaySee}

_RECORDS: dict[str, type[Wire]] = {
    "$KV.sessions.user.<user>": presence.Sessions,
    "$KV.sessions.gateway.<gateway>": presence.Lease,
    "$KV.calls.user.<user>": calls.Reservation,
    "$KV.calls.call.<call>": Call,
}
_AT = "$KV.sessions.at.<gateway>.<session>.<user>"
_JOINS = "$KV.sessions.joins.<user>"
_RINGS = "$KV.calls.caller.<user>, $KV.calls.callee.<user>"
_PAIR = "$KV.calls.pair.<caller>=0A<callee>"


class Message(NamedTuple):
    """Describes a kind of message. ``payload``: a JSON schema; of text where ``text``."""

    key: str
    summary: str
    payload: Schema
    examples: tuple[Any, ...]
    headers: Schema | None = None
    text: bool = False


class Channel(NamedTuple):
    """Describes a subject or a family of them. ``answers``: the replies; ``asked``: True if this system replies."""

    row: Row
    subject: str
    messages: tuple[Message, ...]
    answers: tuple[Message, ...] = ()
    asked: bool = False

    @property
    def key(self) -> str:
        """Return the key of the channel in the document."""
        return re.sub(r"[^A-Za-z0-9]+", ".", self.subject).strip(".")

    @property
    def address(self) -> str:
        """Return the subject, with parameters in AsyncAPI's notation."""
        return self.subject.replace("<", "{").replace(">", "}")


def channels(schemas: Schemas) -> Iterator[Channel]:
    """Yield all channels, in the order of the table."""
    rows = {row.pattern: row for row in TABLE}
    for (service, verb), (asked, answered) in REQUESTS.items():
        yield _request(schemas, rows[f"rpc.{service}.<verb>"], f"rpc.{service}.{verb}", asked, answered)
    for (service, verb), (asked, answered) in REQUESTS_AT.items():
        row = rows[f"rpc.{service}.<verb>.<callcore>"]
        yield _request(schemas, row, f"rpc.{service}.{verb}.<callcore>", asked, answered)
    for verb, question in _POLICY.items():
        subject = f"rpc.policy.{verb}"
        ask = _model(schemas, subject, question, _TRACED)
        verdict = _model(schemas, f"{subject}.answer", policy.Verdict)
        yield Channel(rows[subject], subject, (ask,), (verdict,))
    yield from _of_relays(schemas, rows)
    deliver = "deliver.<gateway>.<session>.<event>"
    yield Channel(rows[deliver], deliver, tuple(_deliveries(schemas)))
    yield from _of_services(schemas, rows)
    yield from _stored(schemas, rows)


def _request(schemas: Schemas, row: Row, subject: str, asked: type[Wire], answered: type[Wire]) -> Channel:
    key = subject.replace(".<callcore>", ".at")
    result = schemas.of(answered, name=_NAMES.get(answered))
    envelope: Schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean", "const": True}, "result": result},
        "required": ["ok", "result"],
    }
    done = Message(f"{key}.done", "It was done.", envelope, ({"ok": True, "result": MODELS[answered]},))
    ask = _model(schemas, key, asked, _TRACED)
    return Channel(row, subject, (ask,), (done, _refused()), asked=True)


def _model(schemas: Schemas, key: str, model: type[Wire], headers: Schema | None = None) -> Message:
    payload = schemas.of(model)
    text = schemas.parts[model.__name__].get("description", "")
    return Message(key, text.partition("\n")[0], payload, (MODELS[model],), headers)


def _refused() -> Message:
    error = {"code": "call_not_found", "message": BY_CODE["call_not_found"].default, "retryable": False}
    refused: Schema = {
        "type": "object",
        "properties": {
            "ok": {"type": "boolean", "const": False},
            "error": {"$ref": "#/components/schemas/Error"},
        },
        "required": ["ok", "error"],
    }
    return Message("refused", "It was refused.", refused, ({"ok": False, "error": error},))


def _text(key: str, summary: str, *examples: str, **more: Any) -> Message:
    empty: Schema = {} if examples else {"maxLength": 0}
    return Message(key, summary, {"type": "string", **empty}, examples or ("",), text=True, **more)


_STAMP = f"{ALICE_AT}.{SEQ}"
_RELAY: Schema = {
    "type": "string",
    "pattern": r"^[A-Za-z0-9_-]+\.[0-9]+$",
    "description": "Sending session and number, by which copies are known.",
}


def _of_relays(schemas: Schemas, rows: dict[str, Row]) -> Iterator[Channel]:
    subject = "relay.<callcore>.<call>.<user>.<session>.<to>.<kind>"
    kinds = []
    for event in RELAYED:
        schema, example = relayed(schemas, event)
        name = f"Relayed{type(event)(event).name.title()}"
        payload = schemas.add(name, merged(schema, name, f"`{event}` on its way.", relay=_RELAY))
        kinds.append(
            Message(f"relay.{key_of(event)}", _said(event), payload, ({**example, "relay": _STAMP},))
        )
    void = _text("relay.void", "A number whose relay must not be delivered any more.")
    yield Channel(rows[subject], subject, (*kinds, void))
    state = "relay.<callcore>.<call>.-.-.-.state"
    yield Channel(rows[state], state, (_model(schemas, "relay.state", StateAnnouncement),))
    receipt = "receipt.<gateway>.<session>.<number>"
    error = merged(
        schemas.parts["Error"],
        "RelayRefused",
        "Reason why the relay is not delivered.",
        event={"type": "string"},
    )
    refusal = {
        "code": "receiver_not_found",
        "message": BY_CODE["receiver_not_found"].default,
        "retryable": False,
        "event": Event.CANDIDATE.value,
    }
    yield Channel(
        rows[receipt],
        receipt,
        (
            Message("receipt.refused", "Refused.", schemas.add("RelayRefused", error), (refusal,)),
            _text(
                "receipt.taken",
                "The peer's gateway has the relay; or, with NATS's status 503, no owner received it.",
            ),
        ),
    )
    yield Channel(rows["acks.<gateway>"], "acks.<gateway>", (_model(schemas, "acks", relays.Acks),))
    yield Channel(
        rows["doubt"], "doubt", (_text("doubt", "A connection to NATS was lost; its relays are suspect."),)
    )


def _said(event: Event) -> str:
    several = "; several in one message, each on a line of its own, where they came together"
    return f"`{event}`{several if event is Event.CANDIDATE else ''}"


def _deliveries(schemas: Schemas) -> Iterator[Message]:
    for event in SEQUENCED:
        if event in RELAYED:
            schema, example = relayed(schemas, event)
            schema, example = merged(schema, "", "", relay=_RELAY), {**example, "relay": _STAMP}
            name = f"Delivered{event.name.title()}"
        elif event is Event.JOINED:
            continue  # the gateway itself sends this event
        else:
            schema, example = schemas.bare(STORED[event]), MODELS[STORED[event]]
            name = STORED[event].__name__
        payload = schemas.add(name, merged(schema, name, f"`{event}` for a client.", seq=SEQ_SCHEMA))
        yield Message(f"deliver.{key_of(event)}", _said(event), payload, ({**example, "seq": SEQ},), _TRACED)
    mark: Schema = {
        "type": "object",
        "properties": {"id": {"type": "string"}, "seq": {"type": "integer", "const": 0}},
        "required": ["id", "seq"],
        "additionalProperties": False,
    }
    text = "`settled`, at gateway `-`: for no client; once it is stored, so are all messages before it."
    yield Message("deliver.settled", text, mark, ({"id": "ZD3WKMf0ezstlt23108kBQ", "seq": 0},))
    number: Schema = {"type": "integer", "minimum": 0}
    numbered: Schema = {
        "type": "object",
        "properties": {"run": {"type": "string"}, "number": number, "at": number},
        "required": ["run", "number", "at"],
        "additionalProperties": False,
    }
    text = "`mark`, at gateway `-`: for no client; one a second, numbered, so that a gap in the stream is detected."
    yield Message("deliver.mark", text, numbered, ({"run": "ZD3WKMf0ezstlt23108kBQ", "number": 7, "at": AT},))


def _of_services(schemas: Schemas, rows: dict[str, Row]) -> Iterator[Channel]:
    replaced = "control.<gateway>.<session>.replaced"
    yield Channel(rows[replaced], replaced, (_text("control.replaced", "The socket's id.", "xHc2pQw0AAAB"),))
    yes_or_no = _text(
        "control.socket.answer", "Yes; or no: nothing, or a time in milliseconds.", "yes", "1795000000000"
    )
    for what, text in (("lives", "it answers a ping"), ("heard", "it has confirmed its resume token")):
        question = f"control.<gateway>.<session>.{what}"
        asked = _text(f"control.{what}", f"The socket's id, and in how many ms {text}.", "xHc2pQw0AAAB 1000")
        yield Channel(rows[question], question, (asked,), (yes_or_no,))
    alive = "control.<gateway>.-.alive"
    yes = _text("control.alive.answer", "The gateway is alive.")
    yield Channel(rows[alive], alive, (_text("control.alive", "Empty."),), (yes,))
    heard = "heard.<session>"
    asked = _text("heard", "The greatest `seq` that the client has received.", str(SEQ))
    yield Channel(rows[heard], heard, (asked,), (_model(schemas, "heard.answer", relays.RelaysHeard),))
    for what, model in (("call.<call>", events.CallEvent), ("user.<user>", events.UserEvent)):
        subject = f"event.{what}.<what>"
        once = _header("Nats-Msg-Id", "Id of the event, the same when it is redelivered.")
        yield Channel(rows[subject], subject, (_model(schemas, f"event.{what[:4]}", model, once),))
    schedule = {
        **_header("Nats-Schedule", "When, as `@at <time>`."),
        "required": ["Nats-Schedule", "Nats-Schedule-Target"],
    }
    schedule["properties"] |= {
        "Nats-Schedule-Target": {"type": "string"},
        "Nats-Schedule-TTL": {"type": "string"},
    }
    ttl = {**_header("Nats-TTL", "After which nothing of it is left, as `1s`."), "required": ["Nats-TTL"]}
    off = _text("deadline.off", "Not to come any more.", headers=ttl)
    for when, text, headers in (
        ("set", "To come at its time.", schedule),
        ("due", "Its time has come.", None),
    ):
        subject = f"deadline.{when}.<kind>.<id>"
        message = _text(f"deadline.{when}", f"{text} Of a session: its user.", "", "alice@1", headers=headers)
        yield Channel(rows[subject], subject, (message, off) if when == "set" else (message,))
    live = "live.<service>.<instance>"
    yield Channel(rows[live], live, (_model(schemas, "live", liveness.Beat),))
    yield Channel(rows["rollcall"], "rollcall", (_text("rollcall", "Empty."),))


def _stored(schemas: Schemas, rows: dict[str, Row]) -> Iterator[Channel]:
    deleted = _text(
        "deleted",
        "Deleted.",
        headers=_header("KV-Operation", "`DEL`; NATS's own markers have `Nats-Marker-Reason`."),
    )
    for pattern, model in _RECORDS.items():
        key = pattern.replace("$", "").rpartition(".")[0]
        messages = [_model(schemas, key, model), deleted]
        if model is calls.Reservation:
            messages.append(_model(schemas, "released", calls.Released, deleted.headers))
        yield Channel(rows[pattern], pattern, tuple(messages))
    note: Schema = {"type": "object", "description": "The key says it all."}
    yield Channel(rows[_AT], _AT, (Message("KV.sessions.at", "A session was there.", note, ({},)), deleted))
    when: Schema = {
        "type": "object",
        "properties": {
            "allowedAt": {"type": "integer", "description": "When the next ring is allowed (ms)."}
        },
        "required": ["allowedAt"],
    }
    yield Channel(
        rows[_JOINS], _JOINS, (Message("KV.sessions.joins", "A count.", when, ({"allowedAt": AT},)), deleted)
    )
    for pattern in _RINGS.split(", "):
        key = pattern.replace("$", "").rpartition(".")[0]
        yield Channel(rows[_RINGS], pattern, (Message(key, "A count.", when, ({"allowedAt": AT},)), deleted))
    unanswered = {
        "type": "object",
        "properties": {
            "unanswered": {"type": "integer", "description": "Rings in a row that were not answered."},
            "endedAt": {"type": "integer", "description": "When the last one ended, in ms since the epoch."},
        },
        "required": ["unanswered", "endedAt"],
    }
    example = {"unanswered": 2, "endedAt": AT}
    yield Channel(
        rows[_PAIR], _PAIR, (Message("KV.calls.pair", "Unanswered rings.", unanswered, (example,)), deleted)
    )


def _header(name: str, text: str) -> Schema:
    return {"type": "object", "properties": {name: {"type": "string", "description": text}}}
