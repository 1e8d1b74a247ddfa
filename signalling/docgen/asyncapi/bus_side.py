"""Generate ``docs/asyncapi/nats.json``: the messages on the bus."""

import re
from typing import Any

from shared.service.runner import distribution_version
from shared.subjects import Row
from signalling.docgen.asyncapi.bus_channels import Channel, Message, channels
from signalling.docgen.asyncapi.client_payloads import add_errors
from signalling.docgen.asyncapi.schemas import Schemas

_ABOUT = """\
What passes on the bus of HelloTalk signalling, between its own services. `docs/architecture.md` says how it
works, `docs/subjects.md` lists the subjects, streams and buckets. Generated from `shared/contracts` and
`shared/subjects.py` by `python -m signalling.docgen`.

- The application is all services together: it *sends* what is published, *receives* what asks it for something.
- Other programs may listen to `event.>` and answer `rpc.policy.*`. Everything else is between services of one version.
- Ids from outside are encoded in subjects: bytes outside `[A-Za-z0-9_-]` become `=XX`.
"""

_PARAMETERS = {
    "callcore": "Instance of call control.",
    "call": "Id of a call, encoded.",
    "user": "User, encoded; `-` for none.",
    "caller": "User who rings, encoded.",
    "callee": "User who is rung, encoded.",
    "session": "Id of a session; `-` for none.",
    "to": "The peer, encoded.",
    "kind": "Kind of the relay.",
    "gateway": "Instance of a gateway.",
    "number": "Number of the relay, `-`, and flags: a digit that distinguishes attempts, then letters.",
    "event": "Name of the Socket.IO event.",
    "what": "Kind of the event.",
    "id": "Subject of the deadline: a call (`ring`), a session (`grace`), a gateway (`lease`).",
    "service": "`callcore`, `presence` or `gateway`.",
    "instance": "Name of the instance.",
}


def document() -> dict[str, Any]:
    """Return the document."""
    schemas = Schemas(sent=True)
    add_errors(schemas)
    made: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for channel in channels(schemas):
        text = channel.messages[0].summary if channel.asked else channel.row.purpose
        made[channel.key] = _channel(channel, channel.messages, channel.address, text)
        operation: dict[str, Any] = {
            "action": "receive" if channel.asked else "send",
            "title": channel.subject,
            "description": f"{channel.row.sent_by} → {channel.row.received_by}: {channel.row.kind}.",
            "channel": {"$ref": f"#/channels/{channel.key}"},
            "tags": [{"name": name} for name in _who(channel.row)],
        }
        if channel.answers:
            answer = f"{channel.key}.answer"
            made[answer] = _channel(channel, channel.answers, None, f"Answers at {channel.subject}")
            operation["reply"] = {"channel": {"$ref": f"#/channels/{answer}"}}
        operations[channel.key] = operation
        for message in (*channel.messages, *channel.answers):
            messages[message.key] = _message(message)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "HelloTalk signalling: the bus",
            "version": distribution_version(),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "localhost:4222",
                "protocol": "nats",
                "description": "nats-server 2.12 or newer with JetStream.",
                "security": [{"$ref": "#/components/securitySchemes/user"}],
            }
        },
        "channels": made,
        "operations": operations,
        "components": {
            "schemas": dict(sorted(schemas.parts.items())),
            "messages": messages,
            "securitySchemes": {
                "user": {
                    "type": "userPassword",
                    "description": "A user for each service: `deploy/nats/accounts.conf`.",
                }
            },
        },
    }


def _channel(
    channel: Channel, messages: tuple[Message, ...], address: str | None, text: str
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "address": address,
        "title": channel.subject,
        "description": text,
        "messages": {m.key: {"$ref": f"#/components/messages/{m.key}"} for m in messages},
    }
    if address is not None and (names := re.findall(r"{(\w+)}", address)):
        made["parameters"] = {name: {"description": _PARAMETERS[name]} for name in names}
    return made


def _message(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": message.key,
        "title": message.key,
        "summary": message.summary,
        "payload": message.payload,
        "examples": [{"payload": example} for example in message.examples],
    }
    if message.text:
        made["contentType"] = "text/plain"
    if message.headers is not None:
        made["headers"] = message.headers
    return made


def _who(row: Row) -> list[str]:
    names = re.findall(
        r"callcore|gateway|presence|nats-server|policy|monitor", f"{row.sent_by} {row.received_by}"
    )
    return list(dict.fromkeys(names))
