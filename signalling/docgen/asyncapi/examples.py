"""Give one example of each kind of message: alice@1 calls bob, between two gateways."""

from typing import Any

from services.callcore.state.model import Address, Call, InputKind, State
from services.presence.resume_tokens import hash_token
from shared.contracts import calls, client, events, liveness, policy, presence, relays, rpc
from shared.contracts.call_records import CallCommand, CommandResult, StateAnnouncement
from shared.contracts.wire import Wire
from shared.errors import BY_CODE

AT = 1_795_000_000_000
SEQ = AT * 1000
CALL = "kRj0xX0rT4uH2mYb0cQ1dg"
ALICE_AT, BOB_AT = "Zk3v1iTzS8m4uN0a9b2c3w", "Pq7r5sWxQ1o6vJ8d4e1f0A"
GATEWAY, OTHER_GATEWAY, CALLCORE = "gateway-Ab3dE5gH-x1Y2z3", "gateway-Qw9eR7tY-k4L5m6", "callcore-Zx8cV6bN"
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"  # noqa: S105 (nobody's)
SECRET_HASHED = hash_token(SECRET)
SDP = {"type": "offer", "sdp": "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\n…"}
CANDIDATE = {
    "candidate": "candidate:1 1 udp 2122260223 192.0.2.7 54321 typ host",
    "sdpMid": "0",
    "sdpMLineIndex": 0,
}

_ID = "r7Xw2Tq9Rk6v1Zs8Yp3LdA"
_BY: dict[str, Any] = {
    "request_id": _ID,
    "user": "alice@1",
    "session": ALICE_AT,
    "gateway": GATEWAY,
}
_REQUEST: dict[str, Any] = {**_BY, "expires_at": AT + 2000}
_BOB: dict[str, Any] = {**_REQUEST, "user": "bob", "session": BOB_AT, "gateway": OTHER_GATEWAY}
_ADDRESSES: dict[str, Any] = {
    "caller_at": Address(session=ALICE_AT, gateway=GATEWAY),
    "ringing": (Address(session=BOB_AT, gateway=OTHER_GATEWAY),),
}
_SESSION = presence.Session(
    session=BOB_AT,
    gateway=OTHER_GATEWAY,
    socket="xHc2pQw0AAAB",
    since=AT - 60_000,
    resume_token=SECRET_HASHED,
)
_RINGING = Call(
    call=CALL,
    state=State.RINGING,
    caller="alice@1",
    callee="bob",
    **_ADDRESSES,
    call_type="video",
    created_at=AT,
    expires_at=AT + 45_000,
    caused_by=_ID,
    holds=(1041, 1042),
)
_RINGS: dict[str, Any] = {"expires_at": AT + 45_000, "expires_in_ms": 44_987}
_ICE = [{"urls": "turn:turn.example.com:3478", "username": "1795003600:bob", "credential": "d2hhdGV2ZXI="}]

_MADE: tuple[Wire, ...] = (
    # What clients send.
    client.Join(user_id="alice@1", device_id="phone"),
    client.Initiate(to="bob", call_type="video", metadata={"topic": "invoice"}),
    client.Accept(call_id=CALL, from_="alice@1"),
    client.Reject(call_id=CALL, from_="alice@1", reason="busy"),
    client.Offer(offer=SDP, from_="alice@1", to="bob", call_id=CALL),
    client.Answer(answer={**SDP, "type": "answer"}, from_="bob", to="alice@1", call_id=CALL),
    client.Candidate(candidate=CANDIDATE, from_="alice@1", to="bob", call_id=CALL),
    client.End(call_id=CALL),
    client.StatusQuery(user_id="bob"),
    client.IceQuery(),
    client.Refresh(token="eyJhbGciOiJIUzI1NiJ9.…"),  # noqa: S106 (nobody's)
    # What they are sent.
    client.Joined(
        user_id="alice@1",
        socket_id="xHc2pQw0AAAA",
        session_id=ALICE_AT,
        resume=client.ResumeOffer(token=SECRET, window_seconds=30),
        ice_servers=_ICE,
        ice_expires_at=AT + 3_600_000,
        resumed=False,
    ),
    client.Incoming(from_="alice@1", call_type="video", call_id=CALL, **_RINGS),
    client.Initiated(call_id=CALL, to="bob", **_RINGS),
    client.Accepted(call_id=CALL, by="bob"),
    client.Rejected(call_id=CALL, by="bob", reason="busy"),
    client.Ended(call_id=CALL, by="alice@1", reason="hangup"),
    client.Status(user_id="bob", is_online=True, is_in_call=False),
    client.IceServers(ice_servers=_ICE, expires_at=AT + 3_600_000),
    client.Refreshed(token_seconds=3600),
    client.SessionOver(session_id=ALICE_AT),
    client.Draining(deadline_seconds=20, reconnect_after_ms=4000),
    client.ErrorEvent(
        message=BY_CODE["user_not_found"].default,
        code="user_not_found",
        event="call:initiate",
        retryable=False,
    ),
    # Requests and their results.
    presence.JoinsRequest(
        request_id=_ID,
        expires_at=AT + 2000,
        user="bob",
        gateway=OTHER_GATEWAY,
        socket="xHc2pQw0AAAB",
    ),
    presence.JoinsReply(session=BOB_AT, resume_token=SECRET, since=AT - 60_000, resumed=False, busy=False),
    presence.LeaveRequest(**_BOB, socket="xHc2pQw0AAAB", reason="hangup"),
    presence.LostRequest(**_BOB, socket="xHc2pQw0AAAB"),
    presence.ReassertRequest(**_BOB, socket="xHc2pQw0AAAB", resume_token=SECRET),
    presence.ReassertReply(moved=False),
    presence.RenewRequest(request_id=_ID, expires_at=AT + 1000, gateway=GATEWAY),
    presence.RenewReply(known=True, since=AT),
    presence.CountRequest(request_id=_ID, expires_at=AT + 2000),
    presence.CountReply(users=1204),
    presence.StatusRequest(request_id=_ID, expires_at=AT + 2000, user="bob", asker="alice@1"),
    calls.InitiateRequest(**_REQUEST, call=CALL, to="bob", call_type="video"),
    calls.InitiateReply(call=CALL, to="bob", expires_at=AT + 45_000),
    calls.AcceptRequest(**_BOB, call=CALL),
    calls.RejectRequest(**_BOB, call=CALL, reason="busy"),
    calls.EndRequest(**_REQUEST, call=CALL),
    calls.CallReply(call=CALL),
    calls.Released(call=CALL, cause=_ID),
    calls.FindRequest(**_REQUEST, to="bob"),
    calls.AttachedRequest(**_BOB, resumed=True),
    calls.AttachedReply(
        call=calls.HeldCall(
            call=CALL, peer="alice@1", call_type="video", state="accepted", created_at=AT, party=True
        )
    ),
    calls.LeftRequest(**_BOB, reason="connection_lost"),
    CallCommand(
        request_id=_ID,
        expires_at=AT + 2000,
        call=CALL,
        kind=InputKind.ACCEPT,
        user="bob",
        at=Address(session=BOB_AT, gateway=OTHER_GATEWAY),
    ),
    CommandResult(call=_RINGING),
    rpc.Done(),
    policy.MayCall(caller="alice@1", callee="bob"),
    policy.MaySee(asker="alice@1", user="bob"),
    policy.Verdict(allowed=True),
    # Everything else on the bus.
    client.StoredIncoming(from_="alice@1", call_type="video", call_id=CALL, expires_at=AT + 45_000),
    client.StoredInitiated(call_id=CALL, to="bob", expires_at=AT + 45_000),
    StateAnnouncement(call=_RINGING, revision=1043, born=True),
    relays.RelaysHeard(relays={ALICE_AT: 1_795_000_000_000_007}),
    relays.Acks(by=CALLCORE, done=((ALICE_AT, CALL, 1_795_000_000_000_007, 0),)),
    events.CallEvent(call_id=CALL, caller="alice@1", callee="bob", call_type="video", created_at=AT),
    events.UserEvent(user_id="bob", session_id=BOB_AT, gateway=OTHER_GATEWAY, at=AT - 60_000),
    liveness.Beat(version="0.1.0", started_at=AT - 3_600_000, sockets=1204),
    # Records.
    presence.Sessions(user="bob", sessions=(_SESSION,)),
    presence.Lease(since=AT),
    calls.Reservation(call=CALL, peer="bob", since=AT),
    _RINGING,
)

MODELS: dict[type[Wire], dict[str, Any]] = {
    type(message): message.model_dump(mode="json", by_alias=True, exclude_none=True) for message in _MADE
}
"""Maps a model to the JSON of its example, without absent fields."""
