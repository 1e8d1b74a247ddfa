"""Every NATS subject, bucket and stream of the system: built here, parsed here, documented from here.

Identity and routing are in the subject, the payload is the client-visible JSON. Ids from outside are encoded with
:func:`shared.ids.encode`; ids of our own (sessions, instances, calls) are token-safe as minted. A client's word for
a call (``callId``) counts as foreign. ``docs/subjects.md`` is generated from :data:`TABLE`.
"""

from enum import IntFlag
from typing import NamedTuple

from shared.ids import decode, encode

_new = tuple.__new__  # a named tuple's own takes three times as long

NOBODY = "-"
"""Stands for the user and session of a message that no client sent. ``encode`` never yields it for a minted id."""

RING = "ring"
"""The kind of deadline that ends a call which nobody answers; its id is the call's."""

GRACE = "grace"
"""The kind of deadline that ends a session whose transport broke; its id is the session's, its payload the user."""

LEASE = "lease"
"""The kind of deadline that a gateway keeps moving ahead while it lives; its id is the gateway's."""

STATE = "state"
"""The kind of a relay message by which one callcore tells another what a call has become."""

REPLACED = "replaced"
"""The order that another socket speaks for a session now."""

ALIVE = "alive"
LIVES, HEARD = "lives", "heard"
"""Questions about a socket: whether it answers a ping, whether it has answered the one behind ``user:joined``."""
YES, GONE = b"yes", b"gone"
"""The question whether a gateway is there."""

BUCKET_SESSIONS = "sessions"
BUCKET_CALLS = "calls"
STREAM_DELIVER = "DELIVER"
STREAM_EVENTS = "EVENTS"
STREAM_DEADLINES = "DEADLINES"

ROLLCALL = "rollcall"
LIVE = "live.*.*"


# --- reply subjects -------------------------------------------------------------------------------------------

ZONE_NATS = "nats"
"""The zone of what NATS itself answers: no user may publish to its reply subjects."""

_ZONES = {
    "rpc.presence": "presence",
    "rpc.calls": "callcore",
    "rpc.policy": "policy",
}


def zone_of(subject: str) -> str:
    """The NATS user that answers a request at ``subject``: the third token of its reply subject."""
    if subject.startswith("$"):
        return ZONE_NATS
    if subject.startswith("rpc."):
        return _ZONES[".".join(subject.split(".", 2)[:2])]
    return "gateway" if subject.startswith(("control.", "heard.")) else ZONE_NATS


# --- requests -------------------------------------------------------------------------------------------------


def rpc(service: str, verb: str) -> str:
    """A request to a service's queue group. ``service``: ``presence``, ``calls``, or ``policy``, which is not ours."""
    return f"rpc.{service}.{verb}"


def rpc_at(service: str, verb: str, instance: str) -> str:
    """The same to one instance by name."""
    return f"rpc.{service}.{verb}.{instance}"


def verb_of(subject: str) -> str:
    """``rpc.<service>.<verb>`` of a request, whether to any instance or to one by name."""
    return ".".join(subject.split(".", 3)[:3])


def is_rpc(subject: str) -> bool:
    """Whether it is a request to a service, ours or not."""
    return subject.startswith("rpc.")


# --- relays: gateway → the callcore in charge of the call ---------------------------------------------------------


class RelaySubject(NamedTuple):
    """The parsed subject of a relay. All fields are tokens as they stand in the subject, not decoded."""

    callcore: str
    call: str
    user: str
    session: str
    to: str
    kind: str


def relay(callcore: str, call: str, user: str, session: str, to: str, kind: str) -> str:
    """One offer, answer or candidate of ``session`` of ``user`` for ``to``. ``kind`` is the client event's name."""
    return f"relay.{callcore}.{encode(call)}.{encode(user)}.{session}.{encode(to)}.{kind}"


def relay_state(callcore: str, call: str) -> str:
    """Tells the callcore in charge of the call's lane what the call has become; payload: the record and revision."""
    return f"relay.{callcore}.{call}.{NOBODY}.{NOBODY}.{NOBODY}.{STATE}"


def relay_all(callcore: str) -> str:
    """What a callcore instance subscribes to."""
    return f"relay.{callcore}.>"


def parse_relay(subject: str) -> RelaySubject:
    """The tokens of a relay subject. Raises ``ValueError`` (wrong count) for anything else."""
    _, callcore, call, user, session, to, kind = subject.split(".")
    return _new(RelaySubject, (callcore, call, user, session, to, kind))


# --- receipts: what became of a relay, back to the sending gateway ------------------------------------------------


class RelayFlags(IntFlag):
    """Flags of a relay, as letters at the end of its reply subject (docs/relay-wire-format.md).

    The letters stand in this order. On hot paths flags are plain numbers, which are compared faster.
    """

    FOLLOWS = 1
    """``f``: the relay numbered before it is not acknowledged yet, so that one must have been passed on first."""
    STARTS = 2
    """``s``: the relay of the number before it never reaches the receiver, so that one is not to be waited for."""
    REDELIVER = 4
    """``a``: its delivery may be lost, so it is to be passed on even if that was done."""
    WANTS_RECEIPT = 8
    """``w``: the receiving gateway is to send its receipt."""
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
        """The number of the last relay in the message."""
        return self.number + self.more

    @property
    def flags_text(self) -> str:
        """Attempt and flags as they stand in the subject."""
        return f"{self.attempt}{_FLAG_TEXTS[self.flags]}"


def receipt(gateway: str, session: str, number: int, attempt: int = 0, flags: int = 0, more: int = 0) -> str:
    """The reply subject of a relay of ``session``. ``attempt``, ``flags``: see :class:`ReceiptSubject`.

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
    """What a gateway subscribes to."""
    return f"receipt.{gateway}.*.*"


def parse_receipt(subject: str) -> tuple[str, int]:
    """``(session, number)`` of a receipt subject."""
    receipt = receipt_of(subject)
    return receipt.session, receipt.number


def receipt_of(subject: str) -> ReceiptSubject:
    """All of a receipt subject. Raises ``ValueError`` for anything else."""
    _, gateway, session, rest = subject.split(".")
    number, _, text = rest.partition("-")
    first, more, count = number.partition("+")
    attempt, flags = _FLAGS.get(text) or parse_flags(text)
    return _new(ReceiptSubject, (gateway, session, int(first), attempt, flags, int(count) if more else 0))


def acks(gateway: str) -> str:
    """Tells a gateway which of its relays have been passed on; payload: :class:`shared.contracts.relays.Acks`."""
    return f"acks.{gateway}"


DOUBT = "doubt"
"""Somebody has lost its connection to NATS: what was on its way to or from it may not have arrived."""


# --- deliveries: one client-visible event to one session ----------------------------------------------------------


def deliver(gateway: str, session: str, event: str) -> str:
    """``event`` (a Socket.IO event name) for the socket of ``session`` on ``gateway``; captured by DELIVER."""
    return f"deliver.{gateway}.{session}.{event}"


def deliver_all(gateway: str) -> str:
    """What a gateway subscribes to."""
    return f"deliver.{gateway}.>"


def mailbox(session: str) -> str:
    """Everything ever sent to a session, whichever gateway it was on: a filter on the stream DELIVER."""
    return f"deliver.*.{session}.>"


SETTLED = "settled"
"""The event of a letter that is for nobody to hear."""


def settled(session: str) -> str:
    """Sent by a gateway into a mailbox that it reads: what was handed out before is stored when this is there."""
    return deliver(NOBODY, session, SETTLED)


MARK = "mark"
"""The event of a mark: see :mod:`shared.messaging.mailbox_marks`."""


def mark(run: str, part: int) -> str:
    """Put by call control into the stream DELIVER, once a second. ``part``: so that no subject has too many of them."""
    return deliver(NOBODY, f"{run}-{part}", MARK)


def marks() -> str:
    """All marks: a filter on the stream DELIVER."""
    return deliver(NOBODY, "*", MARK)


def parse_deliver(subject: str) -> tuple[str, str]:
    """``(session, event)`` of a deliver subject."""
    _, _, session, event = subject.split(".")
    return session, event


def control(gateway: str, session: str, what: str) -> str:
    """An order to a gateway about one of its sessions. ``what``: ``replaced``; payload: the socket's id."""
    return f"control.{gateway}.{session}.{what}"


def alive(gateway: str) -> str:
    """A question to a gateway, about none of its sessions: it answers with nothing as long as it works."""
    return control(gateway, NOBODY, ALIVE)


def control_all(gateway: str) -> str:
    """What a gateway subscribes to."""
    return f"control.{gateway}.*.*"


def parse_control(subject: str) -> tuple[str, str]:
    """``(session, what)`` of a control subject."""
    _, _, session, what = subject.split(".")
    return session, what


HEARD_ALL = "heard.*"
"""What a gateway subscribes to."""


def heard(session: str) -> str:
    """A question to all gateways: which relays the client of ``session`` had got.

    Payload: the greatest ``seq`` that it had got.
    """
    return f"heard.{session}"


def heard_session(subject: str) -> str:
    """The session that is asked about."""
    return subject.partition(".")[2]


# --- events: what happened, durable -------------------------------------------------------------------------------


def event_call(call: str, what: str) -> str:
    """``what`` happened to a call: ``initiated``, ``accepted``, ``rejected``, ``ended``."""
    return f"event.call.{call}.{what}"


def event_user(user: str, what: str) -> str:
    """``what`` happened to a session of a user: ``joined``, ``lost`` (its transport), ``resumed``, ``left``."""
    return f"event.user.{encode(user)}.{what}"


# --- deadlines: messages that the server sends to the service that keeps their kind, at a time ----------------------


def deadline_set(kind: str, id_: str) -> str:
    """Where a scheduled message rests until its time. ``kind``: :data:`RING`, :data:`GRACE`, :data:`LEASE`."""
    return f"deadline.set.{kind}.{id_}"


def deadline_due(kind: str, id_: str) -> str:
    """Where it appears when its time has come; one shared consumer hands it to one live instance."""
    return f"deadline.due.{kind}.{id_}"


def deadline_due_all(kind: str) -> str:
    """All due deadlines of a kind: what its shared consumer filters."""
    return f"deadline.due.{kind}.*"


def parse_deadline(subject: str) -> tuple[str, str]:
    """``(kind, id)`` of a due deadline."""
    _, _, kind, id_ = subject.split(".")
    return kind, id_


# --- liveness -----------------------------------------------------------------------------------------------------


def live(service: str, instance: str) -> str:
    """The beat of one instance, every second; payload: version and start time."""
    return f"live.{service}.{instance}"


def live_all(service: str) -> str:
    """The beats of all instances of a service."""
    return f"live.{service}.*"


def parse_live(subject: str) -> tuple[str, str]:
    """``(service, instance)`` of a beat."""
    _, service, instance = subject.split(".")
    return service, instance


# --- keys ---------------------------------------------------------------------------------------------------------


def key_user(user: str) -> str:
    """``user.<user>``: in bucket ``sessions`` the user's sessions, in bucket ``calls`` the call that holds them."""
    return f"user.{encode(user)}"


def key_user_all() -> str:
    """A filter on the keys of all users."""
    return "user.*"


def key_call(call: str) -> str:
    """``call.<call>`` in bucket ``calls``: the record of a call. ``call`` may be a client's word."""
    return f"call.{encode(call)}"


def key_rings(role: str, user: str) -> str:
    """``caller.<user>``, ``callee.<user>`` in bucket ``calls``: when the user may ring, or be rung, next."""
    return f"{role}.{encode(user)}"


def key_joins(user: str) -> str:
    """``joins.<user>`` in bucket ``sessions``: when the user, who joins often, may join next."""
    return f"joins.{encode(user)}"


def key_pair(caller: str, callee: str) -> str:
    """``pair.<caller>=0A<callee>`` in bucket ``calls``: the caller's rings that the callee did not answer.

    One token; a line feed, which no user id has, is between the two ids.
    """
    return "pair." + encode(f"{caller}\n{callee}")


def key_at(gateway: str, session: str, user: str) -> str:
    """``at.<gateway>.<session>.<user>`` in bucket ``sessions``: the session is, or was of late, at that gateway."""
    return f"at.{gateway}.{session}.{encode(user)}"


def key_at_all(gateway: str) -> str:
    """A filter on the keys of one gateway's sessions."""
    return f"at.{gateway}.*.*"


def parse_key_at(key: str) -> tuple[str, str]:
    """``(session, user)`` of such a key."""
    _, _, session, user = key.split(".")
    return session, decode(user)


def key_gateway(gateway: str) -> str:
    """``gateway.<gateway>`` in bucket ``sessions``: the gateway counts as alive."""
    return f"gateway.{gateway}"


def parse_key(key: str) -> tuple[str, str]:
    """``(kind, id)`` of a key, the id decoded."""
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
        "the callcore in charge of the call",
        "initiate, happen: a deed passed on to where the call's relays run",
    ),
    Row(
        "rpc.policy.may_call",
        "request",
        "callcore",
        "a policy service, if there is one",
        "whether `caller` may ring `callee`; answered with `allowed`",
    ),
    Row(
        "rpc.policy.may_see",
        "request",
        "presence",
        "a policy service, if there is one",
        "whether `asker` may know if `user` is online; answered with `allowed`",
    ),
    Row(
        "relay.<callcore>.<call>.<user>.<session>.<to>.<kind>",
        "publish with receipt subject",
        "gateway",
        "the callcore in charge of the call",
        "call:offer, call:answer, ice:candidate; payload: what the peer is to see, without seq, with its stamp; "
        "candidates that leave together are one message, each on a line of its own",
    ),
    Row(
        "relay.<callcore>.<call>.-.-.-.state",
        "publish",
        "callcore",
        "the callcore in charge of the call",
        "what the call has become, so that relays need not read it",
    ),
    Row(
        "receipt.<gateway>.<session>.<number>",
        "publish",
        "callcore, gateway, nats-server",
        "the sending gateway",
        "what became of a relay: refused, taken by the peer's gateway, or no such instance",
    ),
    Row(
        "acks.<gateway>",
        "publish",
        "callcore, gateway",
        "the sending gateway",
        "which relays have been passed on, and which are missed",
    ),
    Row(
        "doubt",
        "publish",
        "callcore, gateway",
        "callcore, gateway",
        "somebody was cut off from NATS: relays of the last seconds are sent again, and turns of calls told again",
    ),
    Row(
        "deliver.<gateway>.<session>.<event>",
        "publish, captured by memory stream DELIVER",
        "callcore",
        "gateway",
        "one client-visible event to one session, or candidates that came together, each on a line of its own; "
        "`deliver.-.<session>.settled` is for no client, gateways see by it that what came before is stored; "
        "`deliver.-.<run>.mark` neither, call control numbers it, so that it shows if nothing was stored for a while",
    ),
    Row("control.<gateway>.<session>.replaced", "publish", "presence", "gateway", "close the socket named"),
    Row(
        "control.<gateway>.<session>.lives",
        "request",
        "presence",
        "gateway",
        "whether the socket named answers a ping in so many milliseconds; if not, when it last did",
    ),
    Row(
        "control.<gateway>.<session>.heard",
        "request",
        "presence",
        "gateway",
        "whether the socket named has answered the ping that followed its resume token",
    ),
    Row(
        "control.<gateway>.-.alive",
        "request",
        "presence",
        "gateway",
        "whether it works; asked before it is given up",
    ),
    Row(
        "heard.<session>",
        "request",
        "gateway",
        "every gateway; the one that wrote to the client answers",
        "which relays a client had got when it got a `seq`; asked where its mailbox is lost",
    ),
    Row(
        "event.call.<call>.<what>",
        "JetStream stream EVENTS",
        "callcore",
        "whoever wants to know",
        "a call's life",
    ),
    Row(
        "event.user.<user>.<what>",
        "JetStream stream EVENTS",
        "presence",
        "whoever wants to know",
        "joined, lost, resumed, left",
    ),
    Row(
        "deadline.set.<kind>.<id>",
        "scheduled message in DEADLINES",
        "callcore, presence",
        "nats-server",
        "a timer: ring (a call nobody answers), grace (a session nobody resumes), lease (a gateway that is silent)",
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
        "alive; every second",
    ),
    Row("rollcall", "publish", "anyone", "callcore, presence, gateway", "asks for a beat at once"),
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
        "which sessions to look after when the gateway dies",
    ),
    Row(
        "$KV.sessions.joins.<user>",
        "key in bucket sessions, with a TTL",
        "presence",
        "presence",
        "when a user who joins often may join next",
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
        "the call that holds a user",
    ),
    Row(
        "$KV.calls.call.<call>",
        "key in bucket calls",
        "callcore",
        "callcore, presence",
        "the record of a call; presence reads whether it has ended",
    ),
    Row(
        "$KV.calls.caller.<user>, $KV.calls.callee.<user>",
        "key in bucket calls, with a TTL",
        "callcore",
        "callcore",
        "when the user may ring next, or be rung next",
    ),
    Row(
        "$KV.calls.pair.<caller>=0A<callee>",
        "key in bucket calls, with a TTL",
        "callcore",
        "callcore",
        "rings in a row that the callee did not answer",
    ),
)
