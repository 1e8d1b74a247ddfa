"""Define the events that clients send and receive: the first two tables of the protocol.

Keys of the old HelloTalk server keep their names and shapes; everything else is an addition.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.wire import CallId, DeviceId, Millis, Reason, UserId, Wire, at_most

SDP_MAX_BYTES = 64 * 1024
CANDIDATE_MAX_BYTES = 2 * 1024
CANDIDATES_MAX = 64
METADATA_MAX_BYTES = 4 * 1024
TOKEN_MAX = 8 * 1024
"""Characters of a token that authenticates a client."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of JSON that a client may send of each; the context of validating what it sends. Never more than these."""

    sdp: int = SDP_MAX_BYTES
    candidate: int = CANDIDATE_MAX_BYTES
    metadata: int = METADATA_MAX_BYTES


class Event(StrEnum):
    """The names of all Socket.IO events, both ways."""

    JOIN = "user:join"
    JOINED = "user:joined"
    REFRESH = "user:refresh"
    STATUS = "user:status"
    INITIATE = "call:initiate"
    INITIATED = "call:initiated"
    INCOMING = "call:incoming"
    ACCEPT = "call:accept"
    ACCEPTED = "call:accepted"
    REJECT = "call:reject"
    REJECTED = "call:rejected"
    OFFER = "call:offer"
    ANSWER = "call:answer"
    CANDIDATE = "ice:candidate"
    ICE_SERVERS = "ice:servers"
    END = "call:end"
    ENDED = "call:ended"
    REPLACED = "session:replaced"
    EXPIRED = "session:expired"
    DRAINING = "server:draining"
    ERROR = "error"


RELAYED = (Event.OFFER, Event.ANSWER, Event.CANDIDATE)
"""The events that go from peer to peer unchanged."""

CallType = Literal["audio", "video"]


# --- client to server ---------------------------------------------------------------------------------------------


class Resume(Wire):
    """``user:join.resume``: continue this session after ``lastSeq``."""

    session_id: Annotated[str, Field(min_length=1, max_length=64)]
    token: Annotated[str, Field(min_length=1, max_length=256)]
    last_seq: Annotated[int, Field(ge=0)]


Token = Annotated[str, Field(max_length=TOKEN_MAX)]


class Join(Wire):
    """``user:join``"""

    user_id: UserId
    token: Token | None = None
    device_id: DeviceId | None = None
    resume: Resume | None = None


class Initiate(Wire):
    """``call:initiate``"""

    to: UserId
    call_type: CallType
    metadata: Annotated[
        Any,
        at_most("metadata", METADATA_MAX_BYTES),
        Field(description=f"At most {METADATA_MAX_BYTES} bytes of JSON."),
    ] = None


Caller = Annotated[
    str | None,
    Field(alias="from", description="The caller, in clients of the old server. Any text; not used."),
]


class Accept(Wire):
    """``call:accept``"""

    call_id: CallId
    from_: Caller = None


class Reject(Wire):
    """``call:reject``"""

    call_id: CallId
    from_: Caller = None
    reason: Reason | None = None


class End(Wire):
    """``call:end``"""

    call_id: CallId
    reason: Reason | None = None


class StatusQuery(Wire):
    """``user:status``"""

    user_id: UserId


class Refresh(Wire):
    """``user:refresh``: a fresh token for a session that goes on"""

    token: Token


class IceQuery(Wire):
    """``ice:servers``, asked; no payload, or ``null``, is as good"""


class Relayed(Wire):
    """Base of offers, answers and candidates. ``from`` must be the sender."""

    from_: Annotated[UserId, Field(alias="from")]
    to: UserId
    call_id: CallId | None = None


Sdp = Annotated[
    dict[str, Any],
    at_most("sdp", SDP_MAX_BYTES),
    Field(description=f"At most {SDP_MAX_BYTES} bytes of JSON."),
]
IceCandidate = Annotated[
    dict[str, Any],
    at_most("candidate", CANDIDATE_MAX_BYTES),
    Field(description=f"At most {CANDIDATE_MAX_BYTES} bytes of JSON."),
]


class Offer(Relayed):
    """``call:offer``"""

    offer: Sdp
    call_type: CallType | None = None


class Answer(Relayed):
    """``call:answer``"""

    answer: Sdp


class Candidate(Relayed):
    """``ice:candidate``: ``candidate`` (``null`` says there are no more) or a batch ``candidates``."""

    candidate: IceCandidate | None = None
    candidates: (
        Annotated[list[IceCandidate | None], Field(min_length=1, max_length=CANDIDATES_MAX)] | None
    ) = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if ("candidate" in self.model_fields_set) == (self.candidates is not None):
            raise ValueError("must have either candidate or candidates")
        return self

    def dump(self) -> bytes:
        """Return the JSON of this message as it was given, a ``candidate`` that is ``null`` included."""
        return self.model_dump_json(by_alias=True, exclude_unset=True).encode()


INBOUND: dict[Event, type[Wire]] = {
    Event.JOIN: Join,
    Event.INITIATE: Initiate,
    Event.ACCEPT: Accept,
    Event.REJECT: Reject,
    Event.OFFER: Offer,
    Event.ANSWER: Answer,
    Event.CANDIDATE: Candidate,
    Event.END: End,
    Event.STATUS: StatusQuery,
    Event.ICE_SERVERS: IceQuery,
    Event.REFRESH: Refresh,
}
"""Every event that a client may send, with the shape of its payload."""


# --- server to client ---------------------------------------------------------------------------------------------


class ResumeOffer(Wire):
    """The offer of a resume: the client sends ``token`` within ``windowSeconds`` after its transport broke."""

    token: str
    window_seconds: int


class CurrentCall(Wire):
    """``user:joined.call``: the call that this session placed or accepted. ``peer``: the other user."""

    call_id: str
    peer: str
    call_type: CallType
    state: Literal["ringing", "accepted"]


class Joined(Wire):
    """``user:joined``; ``socketId`` equals ``socket.id``, ``iceExpiresAt`` is there if ``iceServers`` expire.

    ``tokenSeconds``: how long the client's token is valid, if it needs one. No time, as its clock may be wrong.
    ``call``: the call that the session is in, if there is one. A call that rings here comes as ``call:incoming``.
    """

    user_id: str
    socket_id: str
    session_id: str
    resume: ResumeOffer
    ice_servers: list[dict[str, Any]]
    ice_expires_at: Millis | None = None
    token_seconds: int | None = None
    resumed: bool
    call: CurrentCall | None = None


class StoredIncoming(Wire):
    """``call:incoming`` on the bus and in mailboxes; the gateway adds the time left when it writes it."""

    from_: Annotated[str, Field(alias="from")]
    call_type: CallType
    call_id: str
    metadata: Any = None
    expires_at: Millis


class Incoming(StoredIncoming):
    """``call:incoming``; ``expiresInMs``: how long it rings from now on, as a client's clock may be wrong."""

    expires_in_ms: Millis


class StoredInitiated(Wire):
    """``call:initiated`` on the bus and in mailboxes; the gateway adds the time left when it writes it."""

    call_id: str
    to: str
    expires_at: Millis


class Initiated(StoredInitiated):
    """``call:initiated``; ``expiresInMs``: how long it rings from now on, as a client's clock may be wrong."""

    expires_in_ms: Millis


class Accepted(Wire):
    """``call:accepted``"""

    call_id: str
    by: str


class Rejected(Wire):
    """``call:rejected``"""

    call_id: str
    by: str
    reason: str | None = None


class Ended(Wire):
    """``call:ended``; ``by`` is a user, or ``server`` where no user ended it."""

    call_id: str
    by: str
    reason: str


class Status(Wire):
    """``user:status``"""

    user_id: str
    is_online: bool
    is_in_call: bool


class Refreshed(Wire):
    """``user:refresh``, answered; ``tokenSeconds``: how long the token is valid, if one is needed."""

    token_seconds: int | None = None


class IceServers(Wire):
    """``ice:servers``, answered; ``expiresAt`` is there if they expire."""

    ice_servers: list[dict[str, Any]]
    expires_at: Millis | None = None


class SessionOver(Wire):
    """``session:replaced`` and ``session:expired``: this socket has lost its session, and the gateway closes it."""

    session_id: str


class Draining(Wire):
    """``server:draining``: this server stops within ``deadlineSeconds``; come back after ``reconnectAfterMs``."""

    deadline_seconds: int
    reconnect_after_ms: int


class ErrorEvent(Wire):
    """``error``"""

    message: str
    code: str
    event: str
    call_id: str | None = None
    retryable: bool
    retry_after_ms: int | None = None


OUTBOUND: dict[Event, type[Wire]] = {
    Event.JOINED: Joined,
    Event.INCOMING: Incoming,
    Event.INITIATED: Initiated,
    Event.ACCEPTED: Accepted,
    Event.REJECTED: Rejected,
    Event.ENDED: Ended,
    Event.STATUS: Status,
    Event.ICE_SERVERS: IceServers,
    Event.REFRESH: Refreshed,
    Event.REPLACED: SessionOver,
    Event.EXPIRED: SessionOver,
    Event.DRAINING: Draining,
    Event.ERROR: ErrorEvent,
}
"""Every event that the server makes itself, as clients see it.

Relayed ones carry what the peer sent, plus ``from``, ``callId``, ``seq``.
"""

STORED: dict[Event, type[Wire]] = {
    **OUTBOUND,
    Event.INCOMING: StoredIncoming,
    Event.INITIATED: StoredInitiated,
}
"""The same events as callcore sends them to gateways, and as mailboxes store them."""
