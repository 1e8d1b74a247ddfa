"""Build, parse and document every NATS subject, key, bucket and stream of the system.

Identity and routing are in the subject, the payload is the client-visible JSON. Ids from outside are encoded with
:func:`shared.ids.encode`; ids of our own (sessions, instances, calls) are token-safe as minted. A ``callId`` from a
client counts as foreign. ``docs/subjects.md`` is generated from :data:`TABLE`.
"""

from enum import IntFlag
from typing import NamedTuple

from shared.ids import decode, encode

_new = tuple.__new__  # a named tuple's own takes three times as long

NOBODY = "-"
"""Stands for the user and session of a message that no client sent. ``encode`` never yields it for a minted id."""

RING = "ring"
"""The kind of deadline that ends an unanswered call; its id is the call's."""

GRACE = "grace"
"""The kind of deadline that ends a session whose transport broke; its id is the session's, its payload the user."""

LEASE = "lease"
"""The kind of deadline that a gateway keeps moving ahead while it lives; its id is the gateway's."""

STATE = "state"
"""The kind of a relay message by which one callcore sends the owner of a call its new state."""

REPLACED = "replaced"
"""The order to close a socket because another one has taken over its session."""

ALIVE = "alive"
LIVES, HEARD = "lives", "heard"
"""Questions about a socket: does it answer a ping, and has it answered the ping behind ``user:joined``?"""
YES, GONE = b"yes", b"gone"
"""Answers to these questions."""

BUCKET_SESSIONS = "sessions"
BUCKET_CALLS = "calls"
STREAM_DELIVER = "DELIVER"
STREAM_EVENTS = "EVENTS"
STREAM_DEADLINES = "DEADLINES"

ROLLCALL = "rollcall"
LIVE = "live.*.*"


# --- reply subjects -------------------------------------------------------------------------------------------

ZONE_NATS = "nats"
"""The zone of requests that NATS itself answers: no user may publish to its reply subjects."""

_ZONES = {
    "rpc.presence": "presence",
    "rpc.calls": "callcore",
    "rpc.policy": "policy",
}


def zone_of(subject: str) -> str:
    """Return the NATS user that answers a request at ``subject``: the third token of its reply subject."""
    if subject.startswith("$"):
        return ZONE_NATS
    if subject.startswith("rpc."):
        return _ZONES[".".join(subject.split(".", 2)[:2])]
    return "gateway" if subject.startswith(("control.", "heard.")) else ZONE_NATS


# --- requests -------------------------------------------------------------------------------------------------


def rpc(service: str, verb: str) -> str:
    """Return the subject of a request to the queue group of a service: ``presence``, ``calls`` or ``policy``."""
    return f"rpc.{service}.{verb}"


def rpc_at(service: str, verb: str, instance: str) -> str:
    """Return the subject of a request to one instance of a service by name."""
    return f"rpc.{service}.{verb}.{instance}"


def verb_of(subject: str) -> str:
    """Return ``rpc.<service>.<verb>`` of a request to any instance or to one by name."""
    return ".".join(subject.split(".", 3)[:3])


def is_rpc(subject: str) -> bool:
    """Return True if a subject is that of a request to a service, the policy service included."""
    return subject.startswith("rpc.")


# --- relays: gateway → the owner of the call ----------------------------------------------------------------------


class RelaySubject(NamedTuple):
    """The parsed subject of a relay. All fields are tokens as they stand in the subject, not decoded."""

    callcore: str
    call: str
    user: str
    session: str
    to: str
    kind: str


def relay(callcore: str, call: str, user: str, session: str, to: str, kind: str) -> str:
    """Return the subject of a relay from ``session`` of ``user`` to ``to``. ``kind``: the client event's name."""
    return f"relay.{callcore}.{encode(call)}.{encode(user)}.{session}.{encode(to)}.{kind}"


def relay_state(callcore: str, call: str) -> str:
    """Return the subject that sends the owner of a call its new state; payload: the record and revision."""
    return f"relay.{callcore}.{call}.{NOBODY}.{NOBODY}.{NOBODY}.{STATE}"


def relay_all(callcore: str) -> str:
    """Return the subject of all relays to a callcore instance, for its subscription."""
    return f"relay.{callcore}.>"


def parse_relay(subject: str) -> RelaySubject:
    """Return the tokens of a relay subject. Raises ``ValueError`` (wrong count) for anything else."""
    _, callcore, call, user, session, to, kind = subject.split(".")
    return _new(RelaySubject, (callcore, call, user, session, to, kind))


# --- receipts: what became of a relay, back to the sending gateway ------------------------------------------------


class RelayFlags(IntFlag):
    """Flags of a relay, as letters at the end of its reply subject (docs/relay-wire-format.md).

    The letters stand in this order. On hot paths flags are plain numbers, which are compared faster.
    """

    FOLLOWS = 1
    """``f``: the relay numbered before it is not acknowledged yet, so callcore must pass that one on first."""
    STARTS = 2
    """``s``: the relay of the number before it never reaches the receiver, so callcore does not wait for it."""
    REDELIVER = 4
    """``a``: its delivery may be lost, so callcore passes it on even if it has done so before."""
    WANTS_RECEIPT = 8
    """``w``: the sending gateway wants a receipt from the receiving gateway."""
    DELIVERY = 16
    """``l``: the message is the delivery that callcore made of the relay."""


FOLLOWS = RelayFlags.FOLLOWS.value
STARTS = RelayFlags.STARTS.value
REDELIVER = RelayFlags.REDELIVER.value
WANTS_RECEIPT = RelayFlags.WANTS_RECEIPT.value
DELIVERY = RelayFlags.DELIVERY.value

DELIVERY_LETTER = "l"
"""Callcore appends it to the reply subject of a relay to get that of its delivery."""
_LETTERS = f"fsaw{DELIVERY_LETTER}"
_FLAG_TEXTS = tuple(
    "".join(letter for bit, letter in enumerate(_LETTERS) if flags & 1 << bit)
    for flags in range(1 << len(_LETTERS))
)
"""Flags → their letters."""
_FLAGS = {
    f"{attempt}{text}": (attempt, flags) for attempt in range(10) for flags, text in enumerate(_FLAG_TEXTS)
}


def parse_flags(text: str) -> tuple[int, int]:
    """Return attempt and flags of the end of a reply subject, such as ``0fw``. Raises ``ValueError`` without a digit.

    Unknown letters are ignored, so that a newer gateway may add one.
    """
    if (known := _FLAGS.get(text)) is not None:
        return known
    return int(text[:1]), sum(1 << bit for bit, letter in enumerate(_LETTERS) if letter in text)


class ReceiptSubject(NamedTuple):
    """The parsed reply subject of a relay.

    ``attempt``: a digit that the sending gateway changes with each retransmission. ``flags``: :class:`RelayFlags`, as a
    number. ``more``: how many relays follow it in the same message. ``flags`` are those of the first.
    """

    gateway: str
    session: str
    number: int
    attempt: int = 0
    flags: int = 0
    more: int = 0

    @property
    def last(self) -> int:
        """Return the number of the last relay in the message."""
        return self.number + self.more

    @property
    def flags_text(self) -> str:
        """Return attempt and flags as they stand in the subject."""
        return f"{self.attempt}{_FLAG_TEXTS[self.flags]}"


def receipt(gateway: str, session: str, number: int, attempt: int = 0, flags: int = 0, more: int = 0) -> str:
    """Return the reply subject of a relay of ``session``. ``attempt``, ``flags``: see :class:`ReceiptSubject`.

    ``more``: how many follow it in the same message, see :func:`shared.contracts.relays.apart`.

    Three things come back on it: a refusal (error JSON), the receipt of the receiving gateway (empty) if that is
    wanted, and NATS's own "no responders" if the callcore instance is gone. Numbers of one call's relays follow each
    other without a gap, and those of a session only grow.
    """
    if more:
        return f"receipt.{gateway}.{session}.{number}+{more}-{attempt}{_FLAG_TEXTS[flags]}"
    return f"receipt.{gateway}.{session}.{number}-{attempt}{_FLAG_TEXTS[flags]}"


def receipt_wanted(subject: str) -> bool:
    """Return True if the receiving gateway is to send its receipt."""
    return "w" in subject[subject.rindex("-") :]


def receipt_all(gateway: str) -> str:
    """Return the subject of all receipts for a gateway, for its subscription."""
    return f"receipt.{gateway}.*.*"


def parse_receipt(subject: str) -> tuple[str, int]:
    """Return ``(session, number)`` of a receipt subject."""
    receipt = receipt_of(subject)
    return receipt.session, receipt.number


def receipt_of(subject: str) -> ReceiptSubject:
    """Return all parts of a receipt subject. Raises ``ValueError`` for anything else."""
    _, gateway, session, rest = subject.split(".")
    number, _, text = rest.partition("-")
    first, more, count = number.partition("+")
    attempt, flags = _FLAGS.get(text) or parse_flags(text)
    return _new(ReceiptSubject, (gateway, session, int(first), attempt, flags, int(count) if more else 0))


def acks(gateway: str) -> str:
    """Return the subject of acknowledgements to a gateway; payload: :class:`shared.contracts.relays.Acks`."""
    return f"acks.{gateway}"


DOUBT = "doubt"
"""Suspect loss: a service lost its connection to NATS, so messages to or from it may not have arrived."""


# --- deliveries: one client-visible event to one session ----------------------------------------------------------


def deliver(gateway: str, session: str, event: str) -> str:
    """Return the subject of ``event`` (Socket.IO) for ``session`` on ``gateway``; DELIVER captures it."""
    return f"deliver.{gateway}.{session}.{event}"


def deliver_all(gateway: str) -> str:
    """Return the subject of all deliveries to a gateway, for its subscription."""
    return f"deliver.{gateway}.>"


def mailbox(session: str) -> str:
    """Return a filter on the stream DELIVER for all messages of a session, at any gateway."""
    return f"deliver.*.{session}.>"


SETTLED = "settled"
"""The event of a mailbox message that gateways do not send to any client."""


def settled(session: str) -> str:
    """Return the subject at which a gateway ends a mailbox that it reads: earlier messages are stored before it."""
    return deliver(NOBODY, session, SETTLED)


MARK = "mark"
"""The event of a mark: see :mod:`shared.messaging.mailbox_marks`."""


def mark(run: str, part: int) -> str:
    """Return the subject of a mark of callcore, one a second. ``part``: limits the marks of one subject."""
    return deliver(NOBODY, f"{run}-{part}", MARK)


def marks() -> str:
    """Return a filter on the stream DELIVER for all marks."""
    return deliver(NOBODY, "*", MARK)


def parse_deliver(subject: str) -> tuple[str, str]:
    """Return ``(session, event)`` of a deliver subject."""
    _, _, session, event = subject.split(".")
    return session, event


def control(gateway: str, session: str, what: str) -> str:
    """Return the subject of an order or question about one session of a gateway; payload: the socket's id."""
    return f"control.{gateway}.{session}.{what}"


def alive(gateway: str) -> str:
    """Return the subject of a liveness request to a gateway, which gives an empty answer while it works."""
    return control(gateway, NOBODY, ALIVE)


def control_all(gateway: str) -> str:
    """Return the subject of all orders and questions to a gateway, for its subscription."""
    return f"control.{gateway}.*.*"


def parse_control(subject: str) -> tuple[str, str]:
    """Return ``(session, what)`` of a control subject."""
    _, _, session, what = subject.split(".")
    return session, what


HEARD_ALL = "heard.*"
"""The requests of :func:`heard` for all sessions; every gateway subscribes to it."""


def heard(session: str) -> str:
    """Return the subject of a request to all gateways: which relays had the client of ``session`` received?

    Payload: the greatest ``seq`` that the client had received.
    """
    return f"heard.{session}"


def heard_session(subject: str) -> str:
    """Return the session of a subject of :func:`heard`."""
    return subject.partition(".")[2]


# --- events: what happened, durable -------------------------------------------------------------------------------


def event_call(call: str, what: str) -> str:
    """Return the subject of an event of a call. ``what``: ``initiated``, ``accepted``, ``rejected``, ``ended``."""
    return f"event.call.{call}.{what}"


def event_user(user: str, what: str) -> str:
    """Return the subject of an event of a session: ``joined``, ``lost`` (its transport), ``resumed``, ``left``."""
    return f"event.user.{encode(user)}.{what}"


# --- deadlines: messages that the server sends to the service that keeps their kind, at a time ----------------------


def deadline_set(kind: str, id_: str) -> str:
    """Return the subject of a deadline that is not due. ``kind``: :data:`RING`, :data:`GRACE`, :data:`LEASE`."""
    return f"deadline.set.{kind}.{id_}"


def deadline_due(kind: str, id_: str) -> str:
    """Return the subject of a due deadline; a shared consumer hands it to one live instance."""
    return f"deadline.due.{kind}.{id_}"


def deadline_due_all(kind: str) -> str:
    """Return the filter of the shared consumer of a kind: all its due deadlines."""
    return f"deadline.due.{kind}.*"


def parse_deadline(subject: str) -> tuple[str, str]:
    """Return ``(kind, id)`` of a due deadline."""
    _, _, kind, id_ = subject.split(".")
    return kind, id_


# --- liveness -----------------------------------------------------------------------------------------------------


def live(service: str, instance: str) -> str:
    """Return the subject of the heartbeat of one instance, every second; payload: version and start time."""
    return f"live.{service}.{instance}"


def live_all(service: str) -> str:
    """Return the subject of the heartbeats of all instances of a service."""
    return f"live.{service}.*"


def parse_live(subject: str) -> tuple[str, str]:
    """Return ``(service, instance)`` of a heartbeat."""
    _, service, instance = subject.split(".")
    return service, instance


# --- keys ---------------------------------------------------------------------------------------------------------


def key_user(user: str) -> str:
    """Return ``user.<user>``: a user's sessions in bucket ``sessions``, the reservation in bucket ``calls``."""
    return f"user.{encode(user)}"


def key_user_all() -> str:
    """Return a filter on the keys of all users."""
    return "user.*"


def key_call(call: str) -> str:
    """Return ``call.<call>`` in bucket ``calls``: the record of a call. ``call`` may come from a client."""
    return f"call.{encode(call)}"


def key_rings(role: str, user: str) -> str:
    """Return ``caller.<user>`` or ``callee.<user>`` in bucket ``calls``: the next time to ring or be rung."""
    return f"{role}.{encode(user)}"


def key_joins(user: str) -> str:
    """Return ``joins.<user>`` in bucket ``sessions``: when a user that joins often may join next."""
    return f"joins.{encode(user)}"


def key_pair(caller: str, callee: str) -> str:
    """Return ``pair.<caller>=0A<callee>`` in bucket ``calls``: the caller's rings that the callee did not answer.

    One token; a line feed, which no user id has, is between the two ids.
    """
    return "pair." + encode(f"{caller}\n{callee}")


def key_at(gateway: str, session: str, user: str) -> str:
    """Return ``at.<gateway>.<session>.<user>`` in bucket ``sessions``: the session is or was at that gateway."""
    return f"at.{gateway}.{session}.{encode(user)}"


def key_at_all(gateway: str) -> str:
    """Return a filter on the keys of one gateway's sessions."""
    return f"at.{gateway}.*.*"


def parse_key_at(key: str) -> tuple[str, str]:
    """Return ``(session, user)`` of a key of :func:`key_at`."""
    _, _, session, user = key.split(".")
    return session, decode(user)


def key_gateway(gateway: str) -> str:
    """Return ``gateway.<gateway>`` in bucket ``sessions``: the lease of a gateway."""
    return f"gateway.{gateway}"


def parse_key(key: str) -> tuple[str, str]:
    """Return ``(kind, id)`` of a key, the id decoded."""
    kind, token = key.split(".")
    return kind, decode(token)


# --- documentation ------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One line of ``docs/subjects.md``."""

    pattern: str
    kind: str
    sent_by: str
    received_by: str
    purpose: str


TABLE: tuple[Row, ...] = (
    Row(
        "rpc.presence.<verb>",
        "request, queue group",
        "gateway",
        "presence",
        "join, leave, lost (a transport broke), status; renew (a gateway's lease), reassert (its sessions)",
    ),
    Row(
        "rpc.calls.<verb>",
        "request, queue group",
        "gateway, presence",
        "callcore",
        "initiate, accept, reject, end, find, attached from gateways; left from presence",
    ),
    Row(
        "rpc.calls.<verb>.<callcore>",
        "request",
        "callcore",
        "the callcore that owns the call",
        "initiate, happen: a command that another callcore forwards to the owner of the call",
    ),
    Row(
        "rpc.policy.may_call",
        "request",
        "callcore",
        "a policy service, if there is one",
        "asks if `caller` may ring `callee`; answered with `allowed`",
    ),
    Row(
        "rpc.policy.may_see",
        "request",
        "presence",
        "a policy service, if there is one",
        "asks if `asker` may see the status of `user`; answered with `allowed`",
    ),
    Row(
        "relay.<callcore>.<call>.<user>.<session>.<to>.<kind>",
        "publish with receipt subject",
        "gateway",
        "the callcore that owns the call",
        "call:offer, call:answer, ice:candidate; payload: the event for the peer, without seq, with its stamp; "
        "candidates sent in one batch are one message, each on a line of its own",
    ),
    Row(
        "relay.<callcore>.<call>.-.-.-.state",
        "publish",
        "callcore",
        "the callcore that owns the call",
        "the new state of the call, so that relays need not read its record",
    ),
    Row(
        "receipt.<gateway>.<session>.<number>",
        "publish",
        "callcore, gateway, nats-server",
        "the sending gateway",
        "outcome of a relay: refused, received by the peer's gateway, or no such instance",
    ),
    Row(
        "acks.<gateway>",
        "publish",
        "callcore, gateway",
        "the sending gateway",
        "acknowledges relays that were passed on, and names those that are missing",
    ),
    Row(
        "doubt",
        "publish",
        "callcore, gateway",
        "callcore, gateway",
        "suspect loss: a service lost its connection to NATS; gateways retransmit relays of the last seconds, "
        "callcore redelivers call events",
    ),
    Row(
        "deliver.<gateway>.<session>.<event>",
        "publish, captured by memory stream DELIVER",
        "callcore",
        "gateway",
        "one client-visible event to one session, or a batch of candidates, each on a line of its own; "
        "`deliver.-.<session>.settled` shows a gateway that earlier messages are stored, clients do not get it; "
        "`deliver.-.<run>.mark` is numbered by callcore, and a missing number shows a time without storage",
    ),
    Row("control.<gateway>.<session>.replaced", "publish", "presence", "gateway", "close the named socket"),
    Row(
        "control.<gateway>.<session>.lives",
        "request",
        "presence",
        "gateway",
        "asks if the named socket answers a ping within the given milliseconds; if not, when it last did",
    ),
    Row(
        "control.<gateway>.<session>.heard",
        "request",
        "presence",
        "gateway",
        "asks if the named socket has answered the ping that followed its resume token",
    ),
    Row(
        "control.<gateway>.-.alive",
        "request",
        "presence",
        "gateway",
        "asks if the gateway works, before presence ends its lease",
    ),
    Row(
        "heard.<session>",
        "request",
        "gateway",
        "every gateway; the one that wrote to the client answers",
        "asks which relays a client had received up to a given `seq`, if its mailbox is lost",
    ),
    Row(
        "event.call.<call>.<what>",
        "JetStream stream EVENTS",
        "callcore",
        "consumers that the operator runs",
        "a call's life",
    ),
    Row(
        "event.user.<user>.<what>",
        "JetStream stream EVENTS",
        "presence",
        "consumers that the operator runs",
        "joined, lost, resumed, left",
    ),
    Row(
        "deadline.set.<kind>.<id>",
        "scheduled message in DEADLINES",
        "callcore, presence",
        "nats-server",
        "a timer: ring (an unanswered call), grace (a session that is not resumed), lease (a silent gateway)",
    ),
    Row(
        "deadline.due.<kind>.<id>",
        "stream DEADLINES, shared consumer",
        "nats-server",
        "one callcore (ring) or presence (grace, lease)",
        "a timer fired",
    ),
    Row(
        "live.<service>.<instance>",
        "publish",
        "callcore, presence, gateway",
        "gateway, callcore, signalling monitor",
        "heartbeat, every second",
    ),
    Row("rollcall", "publish", "anyone", "callcore, presence, gateway", "asks for a heartbeat at once"),
    Row(
        "$KV.sessions.user.<user>",
        "key in bucket sessions",
        "presence",
        "presence, callcore",
        "a user's sessions",
    ),
    Row(
        "$KV.sessions.at.<gateway>.<session>.<user>",
        "key in bucket sessions",
        "presence",
        "presence",
        "the sessions for which presence starts the grace period when the gateway dies",
    ),
    Row(
        "$KV.sessions.joins.<user>",
        "key in bucket sessions, with a TTL",
        "presence",
        "presence",
        "when a user that joins often may join next",
    ),
    Row(
        "$KV.sessions.gateway.<gateway>",
        "key in bucket sessions",
        "presence",
        "presence",
        "the gateway counts as alive",
    ),
    Row(
        "$KV.calls.user.<user>",
        "key in bucket calls",
        "callcore",
        "callcore, presence",
        "the reservation of a user: its call",
    ),
    Row(
        "$KV.calls.call.<call>",
        "key in bucket calls",
        "callcore",
        "callcore, presence",
        "the record of a call; presence reads if it has ended",
    ),
    Row(
        "$KV.calls.caller.<user>, $KV.calls.callee.<user>",
        "key in bucket calls, with a TTL",
        "callcore",
        "callcore",
        "when the user may ring or be rung next",
    ),
    Row(
        "$KV.calls.pair.<caller>=0A<callee>",
        "key in bucket calls, with a TTL",
        "callcore",
        "callcore",
        "consecutive rings that the callee did not answer",
    ),
)
