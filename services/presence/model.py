"""The sessions of one user, and what happens to them. Pure: no clock, no I/O, no randomness.

A session is a device as long as it is joined. Its id is stable; its address (gateway, socket) moves when the device
comes back on another socket. A session whose transport broke is *lost*: it stays for its grace and can be continued
from any gateway. Of the sessions of a user, no two have the same id, device or address, and the one that joined or
moved last is the last of the record.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from services.presence.resume_tokens import hash_token, hashed, same
from shared.contracts.presence import JoinRequest, LeaveRequest, ReassertRequest, Session, Sessions
from shared.errors import RateLimited

SPENT_MAX = 8
"""Tokens of before that are remembered for a client that may not know a later one: the first, and the last ones."""
ALTERNATES_MAX = 4
"""Tokens of earlier answers to joins of one socket that stay as good as the last one."""


class SessionPolicy(NamedTuple):
    """What the operator decided. ``grace_ms``: how long a session whose transport broke may be resumed."""

    single: bool
    limit: int
    grace_ms: int


class Minted(NamedTuple):
    """Fresh random texts, for a join to use if it needs them."""

    session: str
    token: str


class Joined(NamedTuple):
    """What a join makes of the record.

    ``record`` is the very record that was given if there is nothing to write. ``token``: the clear resume token of the
    session. ``was``: what the session was until now, if it was there. ``displaced``: sessions at addresses that they
    had until now, whose sockets are to be told off. ``gone``: sessions that are no more.
    """

    record: Sessions
    session: Session
    token: str
    was: Session | None
    resumed: bool
    displaced: tuple[Session, ...]
    gone: tuple[Session, ...]
    silent_since: int | None = None
    """Since when the old connection of the session did not answer (ms), where that is why it goes on here."""

    @property
    def continued(self) -> bool:
        """Whether the session goes on at an address that it did not have before."""
        return self.was is not None and _address(self.was) != _address(self.session)


class Left(NamedTuple):
    """What a leave makes of the record. ``moved``: the session is elsewhere by now, and this leave means nothing.

    ``record`` is the very record that was given if there is nothing to write, ``None`` if no session is left.
    """

    record: Sessions | None
    moved: bool


class Lost(NamedTuple):
    """What a broken transport makes of the record; the very record that was given if there is nothing to write.

    ``session``: the one that is in its grace now, ``None`` if it is gone or elsewhere.
    """

    record: Sessions | None
    session: Session | None


class Expired(NamedTuple):
    """What the end of a grace makes of the record; the very record that was given if there is nothing to write.

    ``session``: the one that is no more. ``wait_until``: its grace is over only then (ms since the epoch).
    """

    record: Sessions | None
    session: Session | None = None
    wait_until: int | None = None


class Reasserted(NamedTuple):
    """What a gateway that was thought dead makes of the record. ``moved``: the session is elsewhere by now.

    ``was``: what the session was until now, if that has changed.
    """

    record: Sessions | None
    moved: bool
    was: Session | None = None


class Silent(NamedTuple):
    """The only session of a user who is in a call, as far as its connection did not answer ``since`` (ms)."""

    session: Session
    since: int


def join(
    record: Sessions | None,
    request: JoinRequest,
    policy: SessionPolicy,
    now: int,
    minted: Minted,
    *,
    unheard: Session | None = None,
    silent: Silent | None = None,
) -> Joined:
    """``request.user`` joins. ``now``: milliseconds since the epoch.

    ``unheard``: a session whose gateway says that its client may not have heard of its token. ``silent``: see there;
    both count for as long as the session is where it was.

    The session that the socket speaks for afterwards is, the first that applies:

    1. the one that ``resume`` names, if its token is right, or was and its client never heard of the next: ``resumed``;
    2. the one that is at this very socket already, so a request tried again is no second session;
    3. the one with the same device;
    4. under the single policy, the last one;
    5. the one that is in a call and ``silent``;
    6. the only one, if it is in its grace and no other device: a client that knows nothing of resuming comes back;
    7. a new one, in the place of the one lost longest ago if there are too many. Raises :class:`RateLimited` if none
       of them is lost.

    The token is fresh each time, because only hashes are stored. The session of 2 keeps its earlier tokens as
    alternates: of two answers to one request, either may be the one that counts.
    """
    if record is None:
        session = _new(request, now, minted)
        alone = Sessions(user=request.user, sessions=(session,))
        return Joined(alone, session, minted.token, None, resumed=False, displaced=(), gone=())
    sessions = record.sessions
    resumed = _resumable(sessions, request, unheard)
    here = _first(s for s in sessions if _address(s) == (request.gateway, request.socket))
    twin = _first(s for s in sessions if request.device is not None and s.device == request.device)
    last = sessions[-1] if policy.single and sessions else None
    mute = sessions[0] if silent is not None and sessions == (silent.session,) else None
    kept = resumed or here or twin or last or mute or _lone(sessions, request)
    evicted = None
    if kept is None and len(sessions) >= policy.limit:
        evicted = min((s for s in sessions if s.lost_at is not None), key=_lost_at, default=None)
        if evicted is None:
            raise RateLimited(
                f"Too many sessions: a user may have {policy.limit}", retry_after_ms=policy.grace_ms
            )

    if kept is None:
        session = _new(request, now, minted)
    else:
        known, fresh = hashed(kept), hash_token(minted.token)
        session = Session(
            session=kept.session,
            gateway=request.gateway,
            socket=request.socket,
            device=request.device or kept.device,
            since=kept.since,
            resume_token=fresh,
            spent=known.spent if kept is here else _spent(known, request.resume_token if resumed else None),
            alternates=_alternates(known, fresh) if kept is here else (),
        )
    others = tuple(s for s in sessions if s is not kept)
    gone = tuple(s for s in others if policy.single or _same_device(s, session) or s is here or s is evicted)
    left_behind = gone if kept is None else (kept, *gone)
    is_resumed = kept is not None and (
        kept is resumed or (kept is here and kept.session == request.resume_session)
    )
    return Joined(
        record=record
        if session == kept and not gone
        else _record(request.user, (*(s for s in others if s not in gone), session)),
        session=session,
        token=minted.token,
        was=kept,
        resumed=is_resumed,
        displaced=tuple(s for s in left_behind if _address(s) != _address(session)),
        gone=gone,
        silent_since=silent.since if silent is not None and kept is not None and kept is mute else None,
    )


def leave(record: Sessions | None, request: LeaveRequest) -> Left:
    """``request.session`` leaves, if it still is at ``request.socket`` of ``request.gateway``.

    A session that is gone already counts as just removed: the request was tried again.
    """
    session = _named(record, request.session)
    if session is None:
        return Left(record, moved=False)
    if _address(session) != (request.gateway, request.socket):
        return Left(record, moved=True)
    return Left(_without(record, session), moved=False)


def lose(
    record: Sessions | None,
    name: str | None,
    gateway: str,
    socket: str | None,
    now: int,
    *,
    unheard: bool = False,
) -> Lost:
    """The transport of session ``name`` broke, if it still is at ``socket`` (any for ``None``) of ``gateway``.

    ``name``: ``None`` for whichever is there. ``unheard``: its client may not know of its token.
    """
    if name is not None:
        session = _named(record, name)
    else:
        known = record.sessions if record is not None else ()
        session = _first(s for s in known if _address(s) == (gateway, socket))
    if session is None or session.gateway != gateway or socket not in (None, session.socket):
        return Lost(record, None)
    if session.lost_at is not None:
        return Lost(record, session)
    session = hashed(session)
    lost = session.model_copy(update={"lost_at": now, "spent": session.spent if unheard else ()})
    return Lost(_with(record, lost), lost)


def expire(record: Sessions | None, name: str, policy: SessionPolicy, now: int) -> Expired:
    """The grace of session ``name`` may be over."""
    session = _named(record, name)
    if session is None or session.lost_at is None:
        return Expired(record)
    if now < (over := session.lost_at + policy.grace_ms):
        return Expired(record, wait_until=over)
    return Expired(_without(record, session), session)


def reassert(record: Sessions | None, request: ReassertRequest, now: int) -> Reasserted:
    """A gateway says that a session is at its socket; so it is, unless it has moved on since."""
    session = _named(record, request.session)
    if session is not None and _address(session) != (request.gateway, request.socket):
        return Reasserted(record, moved=True)
    if session is not None and session.lost_at is None:
        return Reasserted(record, moved=False)
    if session is None and any(
        request.device is not None and s.device == request.device
        for s in (record.sessions if record is not None else ())
    ):
        return Reasserted(record, moved=True)  # its device has come back as another session
    found = Session(
        session=request.session,
        gateway=request.gateway,
        socket=request.socket,
        device=request.device,
        since=session.since if session is not None else now,
        resume_token=session.resume_token if session is not None else hash_token(request.resume_token),
        alternates=session.alternates if session is not None else (),
    )
    if session is not None:
        return Reasserted(_with(record, found), moved=False, was=session)
    others = record.sessions if record is not None else ()
    return Reasserted(_record(request.user, (*others, found)), moved=False)


# --- building blocks ----------------------------------------------------------------------------------------------


def _new(request: JoinRequest, now: int, minted: Minted) -> Session:
    return Session(
        session=minted.session,
        gateway=request.gateway,
        socket=request.socket,
        device=request.device,
        since=now,
        resume_token=hash_token(minted.token),
    )


def maybe_unheard(record: Sessions | None, request: JoinRequest) -> Session | None:
    """Return the session of a spent token, if it is at another socket and its client may not have the next token."""
    session = _named(record, request.resume_session or "")
    if session is None or session.lost_at is not None:
        return None
    if _address(session) == (request.gateway, request.socket):
        return None
    return session if any(same(token, request.resume_token) for token in session.spent) else None


def maybe_silent(record: Sessions | None, request: JoinRequest, policy: SessionPolicy) -> Session | None:
    """Return the only session of the user, if a plain join would make another one beside it or take it over as lost."""
    sessions = record.sessions if record is not None else ()
    if len(sessions) != 1 or policy.single:
        return None
    session = sessions[0]
    if _address(session) == (request.gateway, request.socket) or _resumable(sessions, request):
        return None
    if request.device is not None and request.device == session.device:
        return None
    return session


def _resumable(
    sessions: tuple[Session, ...], request: JoinRequest, unheard: Session | None = None
) -> Session | None:
    if request.resume_session is None or request.resume_token is None:
        return None
    session = _first(s for s in sessions if s.session == request.resume_session)
    if session is None:
        return None
    spent_too = session.lost_at is not None or session == unheard
    good = (session.resume_token, *session.alternates, *(session.spent if spent_too else ()))
    return session if any(same(token, request.resume_token) for token in good) else None


def _spent(kept: Session, shown: str | None) -> tuple[str, ...]:
    """The tokens from the one that the client has shown on: it may have heard of a later one on a socket that broke.

    ``shown``: ``None`` if it was none of them.
    """
    tokens = (*kept.spent, *kept.alternates, kept.resume_token)
    first = next((place for place, token in enumerate(tokens) if same(token, shown)), 0)
    tokens = tokens[first:]
    return tokens if len(tokens) <= SPENT_MAX else (tokens[0], *tokens[1 - SPENT_MAX :])


def _alternates(kept: Session, fresh: str) -> tuple[str, ...]:
    """Return the stored tokens that stay good beside ``fresh``, which the session may have had before."""
    return tuple(token for token in (*kept.alternates, kept.resume_token) if token != fresh)[-ALTERNATES_MAX:]


def _record(user: str, sessions: Iterable[Session]) -> Sessions:
    """Return the record to write: no session in it has a clear token."""
    return Sessions(user=user, sessions=tuple(map(hashed, sessions)))


def _lone(sessions: tuple[Session, ...], request: JoinRequest) -> Session | None:
    """The user's only session, if it is lost and may be the device that joins."""
    if len(sessions) != 1 or sessions[0].lost_at is None:
        return None
    return sessions[0] if request.device is None or sessions[0].device is None else None


def _named(record: Sessions | None, name: str) -> Session | None:
    return _first(s for s in (record.sessions if record is not None else ()) if s.session == name)


def _without(record: Sessions | None, session: Session) -> Sessions | None:
    assert record is not None
    rest = tuple(s for s in record.sessions if s is not session)
    return _record(record.user, rest) if rest else None


def _with(record: Sessions | None, changed: Session) -> Sessions:
    assert record is not None
    return _record(record.user, (changed if s.session == changed.session else s for s in record.sessions))


def _address(session: Session) -> tuple[str, str]:
    return session.gateway, session.socket


def _lost_at(session: Session) -> int:
    return session.lost_at or 0


def _same_device(one: Session, other: Session) -> bool:
    return one.device is not None and one.device == other.device


def _first(sessions: Iterator[Session]) -> Session | None:
    return next(sessions, None)
