"""What the gateway does with a frame, the short way and the long way, and what must be true of it whatever is in it."""

import json
from typing import Any, NamedTuple, NoReturn

from pydantic_core import from_json

from services.gateway.clients.responder import call_id_of, dumps
from services.gateway.protocol import packets
from services.gateway.protocol.packets import EventPacket, Malformed
from services.gateway.protocol.relay_payload import payload_of
from services.gateway.protocol.relay_template import PREFIXES, RelayTemplates
from services.gateway.protocol.validation import known, validate
from shared.contracts.client import Event, Join, Relayed
from shared.contracts.relays import stamp, stamped
from shared.contracts.wire import Wire
from shared.errors import SignallingError
from shared.ids import decode, encode
from shared.messaging.mailbox import seq_of

CALL = "abcdefghijklmnopqrstuv"
"""The call of a relay that does not name one."""
SESSION, NUMBER, SEQ = "aBcDeFgHiJkLmNoPqRsTuV", 1_700_000_000_000_001, 1_700_000_000_000_002


class Read(NamedTuple):
    """What the long way reads in a frame. ``verdict``: in a word, for telling one case from another."""

    verdict: str
    message: Wire | None = None
    ack_id: int | None = None


def read(raw: bytes) -> Read:
    """The long way, with nothing raised but what it is meant to raise."""
    try:
        text = raw.decode()
        packets.check_frame(text)
        if text[0] != "4":
            return Read("engine.io")
        packet = packets.parse(text[1:])
    except UnicodeDecodeError:
        return Read("no text")
    except Malformed as error:
        dumps({"message": str(error)})
        return Read(str(error), ack_id=error.ack_id)
    if not isinstance(packet, EventPacket):
        return Read(type(packet).__name__)
    call_id = call_id_of(packet.args[0]) if packet.args else None
    try:
        event = known(packet.name)
        message = validate(event, packet.args)
        if isinstance(message, Relayed):
            payload_of(message, message.from_, message.call_id or CALL)
    except SignallingError as error:
        told = {**error.to_wire(), "event": packet.name[:64], "callId": call_id}
        assert strict(dumps(told)) == told
        return Read(f"{error.code} {error.message.partition(':')[0][:40]}", ack_id=packet.ack_id)
    return Read(event.value, message, packet.ack_id)


def slow_path(raw: bytes) -> tuple[Relayed, bytes] | None:
    """What the long way reads in a relay without an acknowledgement, and what the peer would see; ``None`` else."""
    done = read(raw)
    if not isinstance(done.message, Relayed) or done.ack_id is not None:
        return None
    message = done.message
    return message, payload_of(message, message.from_, message.call_id or CALL)


def fast_path(templates: RelayTemplates, raw: bytes) -> bytes | None:
    """What the peer would see of a frame that takes the short way; as the gateway does it."""
    if not raw.startswith(PREFIXES) or (template := templates.find(raw)) is None:
        return None
    return template.payload(raw, template.call or CALL)


def event_of(raw: bytes) -> Event:
    """The event of a frame that the long way lets pass."""
    return known(json.loads(raw[2:])[0])


def strict(payload: bytes) -> Any:
    """JSON as every other parser reads it. Fails for what some would not."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} in {payload!r:.200}")

    value = json.loads(payload.decode(), parse_constant=refuse)
    assert from_json(payload, allow_inf_nan=False) == value
    return value


def try_both(frames: list[bytes]) -> tuple[str, ...]:
    """Send each frame three times, so that the second and the third may take the short way; what became of each.

    Fails where the two ways differ, where what is passed on cannot be read, and where anything else is raised.
    """
    templates, signature = RelayTemplates(), []
    for raw in (raw for raw in frames for _ in range(3)):
        done, long = read(raw), slow_path(raw)
        short = fast_path(templates, raw)
        if short is not None:
            assert long is not None, f"the long way refuses {raw!r}: {done.verdict}"
            assert strict(short) == strict(long[1]), raw
        elif long is not None and raw.startswith(PREFIXES):
            templates.learn(event_of(raw), long[0])
        if long is not None:
            _spliced(short or long[1], long[0])
        elif done.message is not None:
            _forwarded(done.message)
        signature.append(f"{done.verdict}{' short' if short else ''}")
    return tuple(signature)


def _spliced(payload: bytes, message: Relayed) -> None:
    """On its way a relay is stamped and numbered without being read; in the end all of it is as it was."""
    body = strict(payload)
    assert decode(encode(message.from_)) == message.from_
    assert body["from"] == message.from_ and body["callId"] == (message.call_id or CALL)
    sent = stamp(payload, SESSION, NUMBER)
    assert strict(sent) == {**body, "relay": f"{SESSION}.{NUMBER}"}
    delivered = b'%b,"seq":%d}' % (sent[:-1], SEQ)
    taken = stamped(delivered)
    assert taken is not None and (taken.session, taken.number) == (SESSION, NUMBER)
    assert strict(taken.bare) == {**body, "seq": SEQ} and seq_of(taken.bare) == SEQ


def _forwarded(message: Wire) -> None:
    """What is asked of other services arrives there as it was read, and ids fit into subjects."""
    if not (isinstance(message, Join) and message.resume is not None):  # a token may be any text
        assert type(message).model_validate_json(message.dump()) == message
    for name in ("user_id", "to", "device_id"):
        if isinstance(id_ := getattr(message, name, None), str):
            token = encode(id_)
            assert decode(token) == id_ and not set(token) & set(".*> \t\r\n")
