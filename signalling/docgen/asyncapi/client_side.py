"""Generate ``docs/asyncapi/socketio.json``: the events of Socket.IO clients, from :mod:`shared.contracts.client`."""

from typing import Any

from shared.contracts.client import INBOUND, OUTBOUND, RELAYED, Event
from shared.service.runner import distribution_version
from signalling.docgen.asyncapi import client_payloads as payloads
from signalling.docgen.asyncapi.client_payloads import key_of
from signalling.docgen.asyncapi.examples import MODELS
from signalling.docgen.asyncapi.schemas import Schema, Schemas

_ABOUT = """\
Describes the interface for clients of HelloTalk signalling. `docs/protocol.md` explains it: when each event is sent,
what it causes, how a session is resumed. Generated from `shared/contracts/client.py` by `python -m signalling.docgen`.

- The application is a gateway: it *receives* what clients send, and *sends* what they receive.
- A channel is the name of a Socket.IO event in the namespace `/`. Its message is the first argument.
- Each event may carry a Socket.IO acknowledgement; the reply of an operation is that acknowledgement.
  The gateway sends an error in it, and the same error as the event `error`.
- The client may send the fields of `user:join` in the handshake instead, as the `auth` of the connection:
  `io(url, {auth: {userId, …}})`.
- The server ignores unknown keys, and so must a client.
"""

_TOLD = {
    Event.JOIN: "Join as a user, or resume a session",
    Event.INITIATE: "Call a user",
    Event.ACCEPT: "Accept a call",
    Event.REJECT: "Reject a call",
    Event.OFFER: "An SDP offer for the peer",
    Event.ANSWER: "An SDP answer for the peer; while the call rings it accepts it",
    Event.CANDIDATE: "ICE candidates for the peer",
    Event.END: "End a call",
    Event.STATUS: "Request whether a user is online",
    Event.ICE_SERVERS: "Request ICE servers with fresh credentials",
    Event.REFRESH: "Send a fresh token, so that the session continues",
}
"""Summaries of the client events."""

_HEARD = {
    Event.JOINED: "This socket is bound to a session",
    Event.INCOMING: "A user calls",
    Event.INITIATED: "The call rings",
    Event.ACCEPTED: "The call is accepted",
    Event.REJECTED: "The call is rejected",
    Event.OFFER: "An SDP offer of the peer, as it was sent",
    Event.ANSWER: "An SDP answer of the peer, as it was sent",
    Event.CANDIDATE: "ICE candidates of the peer, as they were sent",
    Event.ENDED: "The call has ended",
    Event.STATUS: "Reply to `user:status`",
    Event.ICE_SERVERS: "Reply to `ice:servers`",
    Event.REFRESH: "Reply to `user:refresh`",
    Event.REPLACED: "Another socket took this session over; the connection is closed",
    Event.EXPIRED: "The client's token has expired, and the session with it; the connection is closed",
    Event.DRAINING: "This server stops; reconnect to another",
    Event.ERROR: "The server refused an event of the client",
}
"""Summaries of the server events."""


def document() -> dict[str, Any]:
    """Return the document."""
    schemas, messages = Schemas(), _Messages()
    payloads.add_errors(schemas)
    messages.add("refusal", "Refused", "It was not done.", payloads.refusal(), payloads.REFUSED)
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for event, model in INBOUND.items():
        sent = messages.add(
            f"{key_of(event)}.sent", event, _TOLD[event], payloads.sent(schemas, model), MODELS[model]
        )
        ack = messages.add(
            f"{key_of(event)}.ack", f"{event}, done", "It was done.", *payloads.acked(schemas, event)
        )
        _channel(channels, event)["messages"][sent] = messages.ref(sent)
        acks = _channel(channels, event, ack=True)
        acks["messages"] = {ack: messages.ref(ack), "refusal": messages.ref("refusal")}
        operations[f"receive.{key_of(event)}"] = {
            "action": "receive",
            "title": event,
            "description": _TOLD[event],
            "channel": {"$ref": f"#/channels/{key_of(event)}"},
            "messages": [{"$ref": f"#/channels/{key_of(event)}/messages/{sent}"}],
            "reply": {
                "channel": {"$ref": f"#/channels/{key_of(event)}.ack"},
                "messages": [
                    {"$ref": f"#/channels/{key_of(event)}.ack/messages/{name}"} for name in (ack, "refusal")
                ],
            },
        }
    for event in (*OUTBOUND, *RELAYED):
        told = messages.add(f"{key_of(event)}.told", event, _HEARD[event], *payloads.told(schemas, event))
        _channel(channels, event)["messages"][told] = messages.ref(told)
        operations[f"send.{key_of(event)}"] = {
            "action": "send",
            "title": event,
            "description": _HEARD[event],
            "channel": {"$ref": f"#/channels/{key_of(event)}"},
            "messages": [{"$ref": f"#/channels/{key_of(event)}/messages/{told}"}],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "HelloTalk signalling: clients",
            "version": distribution_version(),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "localhost:8001",
                "pathname": "/socket.io/",
                "protocol": "socket.io",
                "protocolVersion": "5",
                "description": "Socket.IO 5 over Engine.IO 4, websocket and HTTP long-polling, namespace `/`.",
                "security": [{"$ref": "#/components/securitySchemes/token"}],
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "schemas": dict(sorted(schemas.parts.items())),
            "messages": messages.parts,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "With `AUTH_MODE=jwt`: `auth.token` of the connection, or `token` of `user:join`.",
                }
            },
        },
    }


def _id(event: Event) -> str:
    return event.replace(":", ".")


class _Messages:
    """Collects the messages of the document by key."""

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {}

    def add(self, key: str, title: str, summary: str, payload: Schema, *examples: dict[str, Any]) -> str:
        self.parts[key] = {
            "name": key,
            "title": title,
            "summary": summary,
            "payload": payload,
            "examples": [{"payload": example} for example in examples],
        }
        return key

    def ref(self, key: str) -> Schema:
        return {"$ref": f"#/components/messages/{key}"}


def _channel(channels: dict[str, Any], event: Event, *, ack: bool = False) -> dict[str, Any]:
    key, address, title = key_of(event), str(event), str(event)
    what: dict[str, Any] = {"address": address, "title": title, "messages": {}}
    if ack:
        key, what = f"{key}.ack", {**what, "address": None, "title": f"Acknowledgement of {event}"}
    channel: dict[str, Any] = channels.setdefault(key, what)
    return channel
