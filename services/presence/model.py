"""The sessions of one user, and the decisions about them. Pure: no clock, no I/O, no randomness.

A session is a device for as long as it is joined. Its id is stable; its address (gateway, socket) changes when the
device joins on another socket. A session whose transport broke is *lost*: it is kept for its grace period and can be
resumed from any gateway. No two sessions of a user have the same id, device or address. The session that joined or
moved last is the last of the record.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from services.presence.resume_tokens import hash_token, hashed, same
from shared.contracts.presence import JoinRequest, LeaveRequest, ReassertRequest, Session, Sessions
from shared.errors import RateLimited

SPENT_MAX = 8
"""Earlier tokens kept for a client that may not have received a later one: the first, and the last ones."""
ALTERNATES_MAX = 4
"""Tokens of earlier replies to joins of one socket, which are as valid as the last one."""


class SessionPolicy(NamedTuple):
    """The settings of the decisions. ``grace_ms``: how long a session whose transport broke may be resumed."""

    single: bool
    limit: int
    grace_ms: int


class Minted(NamedTuple):
    """Fresh random ids for a join that needs them."""

    session: str
    token: str


class Joined(NamedTuple):
    """The outcome of a join.

    ``record``: the given object if there is nothing to write. ``token``: the clear resume token of the session.
    ``was``: the session before, if it existed. ``displaced``: sessions at their previous addresses, whose sockets are
    to be notified. ``gone``: deleted sessions.
    """

    record: Sessions
    session: Session
    token: str
    was: Session | None
    resumed: bool
    displaced: tuple[Session, ...]
    gone: tuple[Session, ...]
    silent_since: int | None = None
    """Since when the old connection of the session did not answer (ms), if that is why the join took it over."""

    @property
    def continued(self) -> bool:
        """True if the session existed and has a new address."""
        return self.was is not None and _address(self.was) != _address(self.session)


class Left(NamedTuple):
    """The outcome of a leave. ``moved``: True if the session has another address by now, so the leave has no effect.

    ``record``: the given object if there is nothing to write, ``None`` if no session is left.
    """

    record: Sessions | None
    moved: bool


class Lost(NamedTuple):
    """The outcome of a broken transport. ``record``: the given object if there is nothing to write.

    ``session``: the one that is in its grace period now, ``None`` if it is gone or has another address.
    """

    record: Sessions | None
    session: Session | None


class Expired(NamedTuple):
    """The outcome of a grace deadline. ``record``: the given object if there is nothing to write.

    ``session``: the deleted one. ``wait_until``: when its grace period expires, if later (ms since the epoch).
    """

    record: Sessions | None
    session: Session | None = None
    wait_until: int | None = None


class Reasserted(NamedTuple):
    """The outcome of a reassertion by a gateway. ``moved``: True if the session has another address by now.

    ``was``: the session before, if it has changed.
    """

    record: Sessions | None
    moved: bool
    was: Session | None = None


class Silent(NamedTuple):
    """The only session of a user who is in a call, whose connection has not answered since ``since`` (ms)."""

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
    """Join a socket of ``request.user``. ``now``: milliseconds since the epoch.

    ``unheard``: a session whose client may not have received its token. ``silent``: see :class:`Silent`. Both count
    only while the session is unchanged.

    The socket gets the session that is the first of these:

    1. the one that ``resume`` names, if its token is valid, or was and its client never received the next: ``resumed``;
    2. the one that is at this socket already, so that a repeated request makes no second session;
    3. the one with the same device;
    4. under the single policy, the last one;
    5. the one that is in a call and ``silent``;
    6. the only one, if it is in its grace period and may be this device: a client that does not resume joins again;
    7. a new one, which replaces the one lost longest ago if there are too many. Raises :class:`RateLimited` if none
       of them is lost.

    The token is fresh each time, because only hashes are stored. The session of 2 keeps its earlier tokens as
    alternates: of two replies to one request, the client may use either.
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
    silent_one = sessions[0] if silent is not None and sessions == (silent.session,) else None
    kept = resumed or here or twin or last or silent_one or _lone(sessions, request)
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
        silent_since=silent.since if silent is not None and kept is not None and kept is silent_one else None,
    )


def leave(record: Sessions | None, request: LeaveRequest) -> Left:
    """Delete ``request.session`` if it still is at ``request.socket`` of ``request.gateway``.

    A session that is gone already counts as just deleted: the request was repeated.
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
    """Begin the grace period of session ``name`` if it still is at ``socket`` (any for ``None``) of ``gateway``.

    ``name``: ``None`` for the session that is there. ``unheard``: True if its client may not have received its token.
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
    """Delete session ``name`` if its grace period has expired."""
    session = _named(record, name)
    if session is None or session.lost_at is None:
        return Expired(record)
    if now < (over := session.lost_at + policy.grace_ms):
        return Expired(record, wait_until=over)
    return Expired(_without(record, session), session)


def reassert(record: Sessions | None, request: ReassertRequest, now: int) -> Reasserted:
    """Restore a session at the socket that its gateway reports, unless it has moved since."""
    session = _named(record, request.session)
    if session is not None and _address(session) != (request.gateway, request.socket):
        return Reasserted(record, moved=True)
    if session is not None and session.lost_at is None:
        return Reasserted(record, moved=False)
    if session is None and any(
        request.device is not None and s.device == request.device
        for s in (record.sessions if record is not None else ())
    ):
        return Reasserted(record, moved=True)  # its device has joined as another session
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
    valid = (session.resume_token, *session.alternates, *(session.spent if spent_too else ()))
    return session if any(same(token, request.resume_token) for token in valid) else None


def _spent(kept: Session, shown: str | None) -> tuple[str, ...]:
    """Return the tokens from the one that the client has shown on: it may have received a later one before the loss.

    ``shown``: ``None`` if it was none of them.
    """
    tokens = (*kept.spent, *kept.alternates, kept.resume_token)
    first = next((place for place, token in enumerate(tokens) if same(token, shown)), 0)
    tokens = tokens[first:]
    return tokens if len(tokens) <= SPENT_MAX else (tokens[0], *tokens[1 - SPENT_MAX :])


def _alternates(kept: Session, fresh: str) -> tuple[str, ...]:
    """Return the stored tokens that stay valid beside ``fresh``, which the session may have had before."""
    return tuple(token for token in (*kept.alternates, kept.resume_token) if token != fresh)[-ALTERNATES_MAX:]


def _record(user: str, sessions: Iterable[Session]) -> Sessions:
    """Return the record to write: no session in it has a clear token."""
    return Sessions(user=user, sessions=tuple(map(hashed, sessions)))


def _lone(sessions: tuple[Session, ...], request: JoinRequest) -> Session | None:
    """Return the user's only session, if it is lost and may be the device that joins."""
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
