"""The sessions of one user, and what a join or a leave makes of them. Pure: no clock, no I/O, no randomness.

A session is a device as long as it is joined. Its id is stable; its address (gateway, socket) moves when the device
comes back on another socket. Of the sessions of a user, no two have the same id, device or address, and the one that
joined or moved last is the last of the record.
"""

import hmac
from collections.abc import Iterator
from typing import NamedTuple

from shared.contracts.presence import JoinRequest, LeaveRequest, Session, Sessions
from shared.errors import RateLimited


class Policy(NamedTuple):
    """What the operator decided. ``retry_after_ms``: what a user with too many sessions is told."""

    single: bool
    limit: int
    retry_after_ms: int


class Minted(NamedTuple):
    """Fresh random texts, for a join to use if it needs them."""

    session: str
    token: str


class Joined(NamedTuple):
    """What a join makes of the record.

    ``record`` is the very record that was given if there is nothing to write. ``displaced``: sessions at addresses
    that they had until now, whose sockets are to be told off. ``gone``: sessions that are no more.
    """

    record: Sessions
    session: Session
    resumed: bool
    displaced: tuple[Session, ...]
    gone: tuple[Session, ...]


class Left(NamedTuple):
    """What a leave makes of the record. ``moved``: the session is elsewhere by now, and this leave means nothing.

    ``record`` is the very record that was given if there is nothing to write, ``None`` if no session is left.
    """

    record: Sessions | None
    moved: bool


def join(record: Sessions | None, request: JoinRequest, policy: Policy, now: int, minted: Minted) -> Joined:
    """``request.user`` joins. ``now``: milliseconds since the epoch.

    The session that the socket speaks for afterwards is, the first that applies:

    1. the one that ``resume`` names, if its token is right: ``resumed``;
    2. the one that is at this very socket already, so a request tried again is no second session;
    3. the one with the same device;
    4. under the single policy, the last one;
    5. a new one. Raises :class:`RateLimited` if the user has too many already.

    The session of 2 keeps its resume token, because of two answers to one request either may be the one that counts.
    """
    sessions = record.sessions if record is not None else ()
    resumed = _resumable(sessions, request)
    here = _first(s for s in sessions if _address(s) == (request.gateway, request.socket))
    twin = _first(s for s in sessions if request.device is not None and s.device == request.device)
    kept = resumed or here or twin or (sessions[-1] if policy.single and sessions else None)
    if kept is None and len(sessions) >= policy.limit:
        raise RateLimited(
            f"Too many sessions: a user may have {policy.limit}", retry_after_ms=policy.retry_after_ms
        )

    session = Session(
        session=kept.session if kept else minted.session,
        gateway=request.gateway,
        socket=request.socket,
        device=request.device or (kept.device if kept else None),
        since=kept.since if kept else now,
        resume_token=kept.resume_token if kept and kept is here else minted.token,
    )
    others = tuple(s for s in sessions if s is not kept)
    gone = tuple(s for s in others if policy.single or _same_device(s, session) or s is here)
    left_behind = gone if kept is None else (kept, *gone)
    is_resumed = kept is not None and (
        kept is resumed or (kept is here and kept.session == request.resume_session)
    )
    return Joined(
        record=record
        if record is not None and session == kept and not gone
        else Sessions(user=request.user, sessions=(*(s for s in others if s not in gone), session)),
        session=session,
        resumed=is_resumed,
        displaced=tuple(s for s in left_behind if _address(s) != _address(session)),
        gone=gone,
    )


def leave(record: Sessions | None, request: LeaveRequest) -> Left:
    """``request.session`` leaves, if it still is at ``request.socket`` of ``request.gateway``.

    A session that is gone already counts as just removed: the request was tried again.
    """
    sessions = record.sessions if record is not None else ()
    session = _first(s for s in sessions if s.session == request.session)
    if session is None:
        return Left(record, moved=False)
    if _address(session) != (request.gateway, request.socket):
        return Left(record, moved=True)
    rest = tuple(s for s in sessions if s is not session)
    return Left(Sessions(user=request.user, sessions=rest) if rest else None, moved=False)


def _resumable(sessions: tuple[Session, ...], request: JoinRequest) -> Session | None:
    if request.resume_session is None or request.resume_token is None:
        return None
    session = _first(s for s in sessions if s.session == request.resume_session)
    if session is None:
        return None
    # In constant time: how much of a guess was right must not show in how long the answer takes.
    right = hmac.compare_digest(
        session.resume_token.encode(), request.resume_token.encode("utf-8", "surrogatepass")
    )
    return session if right else None


def _address(session: Session) -> tuple[str, str]:
    return session.gateway, session.socket


def _same_device(one: Session, other: Session) -> bool:
    return one.device is not None and one.device == other.device


def _first(sessions: Iterator[Session]) -> Session | None:
    return next(sessions, None)
