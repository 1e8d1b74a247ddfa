"""What a join reads, writes and leaves behind, in which order."""

from typing import Any

import pytest

from services.presence.store import Store
from shared import subjects
from shared.clock import now_ms
from shared.contracts.calls import Reservation
from shared.contracts.presence import Session, Sessions
from shared.nats.connection import Bus
from shared.nats.kv import Bucket
from shared.nats.pending_requests import PendingRequest
from tests.integration.presence.conftest import Gateway, Start
from tests.integration.presence.test_grace import index, sessions

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


@pytest.mark.parametrize("there", [False, True])
async def test_a_call_that_takes_the_user_just_before_the_session_is_written_is_seen(
    bus: Bus, presence: Start, gw1: Gateway, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Call control writes its hold and then reads sessions; so a join writes first, and reads holds then."""
    await presence()
    await Bucket.create(bus, subjects.BUCKET_CALLS, replicas=1)
    if there:  # then the record is read, and changed
        await gw1.join("alice", "s1")
    put = Bucket.put

    def after_a_hold(self: Bucket, key: str, value: bytes, revision: int, **more: Any) -> PendingRequest[int]:
        if self.name == subjects.BUCKET_SESSIONS and key == subjects.key_user("alice"):
            hold = Reservation(call="c1", peer="bob", since=now_ms())
            Bucket(self._bus, subjects.BUCKET_CALLS).set(subjects.key_user("alice"), hold.dump())
        return put(self, key, value, revision, **more)

    monkeypatch.setattr(Bucket, "put", after_a_hold)
    assert (await gw1.join("alice", "s2", device="another")).busy


@pytest.mark.parametrize("same_gateway", [True, False])
async def test_a_session_that_moves_leaves_no_note_of_where_it_was(
    bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway, same_gateway: bool
) -> None:
    await presence(session_policy="single")
    old = await gw1.join("alice", "s1")
    new = await (gw1 if same_gateway else gw2).join("alice", "s2")
    assert new.session == old.session
    notes = [*await index(bus, "gw1"), *await index(bus, "gw2")]
    assert notes == [subjects.key_at("gw1" if same_gateway else "gw2", new.session, "alice")]


@pytest.mark.parametrize("same_gateway", [True, False])
async def test_a_session_that_is_replaced_leaves_no_note(
    bus: Bus, presence: Start, gw1: Gateway, gw2: Gateway, same_gateway: bool
) -> None:
    """Both sessions of a user go, from before the policy was changed to ``single``; one of them is continued."""
    await _write(bus, "alice", ("one", "gw1"), ("two", "gw1"))
    await presence(session_policy="single")
    gateway = gw1 if same_gateway else gw2
    assert (await gateway.join("alice", "s3")).session == "two"
    assert [s.session for s in await sessions(bus, "alice")] == ["two"]
    notes = [*await index(bus, "gw1"), *await index(bus, "gw2")]
    assert notes == [subjects.key_at(gateway.name, "two", "alice")]


async def test_a_session_that_is_evicted_leaves_no_note(bus: Bus, presence: Start, gw1: Gateway) -> None:
    await presence(sessions_per_user=1)
    old = await gw1.join("alice", "s1", device="phone")
    await gw1.lose("alice", old.session, "s1")
    new = await gw1.join("alice", "s2", device="tablet")
    assert new.session != old.session
    assert await index(bus, "gw1") == [subjects.key_at("gw1", new.session, "alice")]


async def _write(bus: Bus, user: str, *sessions: tuple[str, str]) -> None:
    """Store ``(session, gateway)`` of a user, and the notes of where they are."""
    await Bucket.create(bus, subjects.BUCKET_SESSIONS, replicas=1)
    store = Store(bus)
    records = tuple(
        Session(session=session, gateway=gateway, socket=session, since=1, resume_token="t")
        for session, gateway in sessions
    )
    await store.create(Sessions(user=user, sessions=records))
    for session, gateway in sessions:
        await store.note(gateway, session, user)


async def test_a_join_that_lost_its_race_leaves_no_note_of_the_session_that_was_not_created(
    bus: Bus, presence: Start, gw1: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same socket is joined by an earlier try of the same request, between the read and the write of this one."""
    await presence()
    create = Store.create

    def second(self: Store, record: Sessions) -> PendingRequest[int]:
        """The earlier try's record is there already."""
        monkeypatch.setattr(Store, "create", create)
        first = record.sessions[0].model_copy(update={"session": "first", "resume_token": "t"})
        create(self, Sessions(user=record.user, sessions=(first,)))
        return create(self, record)

    monkeypatch.setattr(Store, "create", second)
    assert (await gw1.join("alice", "s1")).session == "first"
    assert await index(bus, "gw1") == [subjects.key_at("gw1", "first", "alice")]
