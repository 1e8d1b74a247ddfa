"""What each user of NATS may do and what not, on a real server with ``deploy/nats/accounts.conf``."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg

from shared import subjects
from shared.errors import Unavailable
from shared.nats.connection import Bus, Login
from signalling.nats_users import ALL, CLUSTER, MONITOR, POLICY, SERVICES, SYSTEM, Passwords
from signalling.run.nats_server import EmbeddedNats
from tests.support.nats_users import Access

USERS = (*SERVICES, POLICY, MONITOR)
SECONDS = 30.0


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """A server for all tests of this module: none of them can change what another sees."""
    folder = tmp_path_factory.mktemp("nats")
    passwords = Passwords.new(folder / "passwords")
    server = EmbeddedNats(folder / "server", passwords=passwords)
    server.start()
    try:
        yield Access(server.url, passwords)
    finally:
        server.kill()


# --- subjects: who sends what docs/subjects.md says that they send, and nobody else -------------------------------

_VERBS = {"callcore": "happen", "presence": "left", "gateway": "accept", "monitor": "left", "policy": "left"}
_DEADLINES = {"callcore": subjects.RING, "presence": subjects.GRACE}


def _filled(pattern: str, user: str) -> str:
    """A subject of ``pattern``, as ``user`` would send it."""
    if pattern.startswith("deadline."):
        pattern = pattern.replace("<kind>", _DEADLINES.get(user, subjects.RING))
    if pattern.startswith("relay."):
        pattern = pattern.replace("<kind>", "ice:candidate")
    pattern = pattern.replace("<verb>", _VERBS[user]).replace("<service>", user)
    return re.sub(r"<\w+>", "x", pattern)


SENT = [
    pytest.param(row, user, id=f"{row.pattern}-{user}")
    for row in subjects.TABLE
    for user in USERS
    if row.sent_by != "anyone" and not (user == MONITOR and row.pattern.startswith("live."))
]


@pytest.mark.parametrize(("row", "user"), SENT)
async def test_everybody_sends_what_is_theirs(access: Access, row: subjects.Row, user: str) -> None:
    async with access.act(user) as actor:
        allowed = user in row.sent_by.split(", ")
        assert await actor.may_publish(_filled(row.pattern, user)) is allowed


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("gateway", "$KV.sessions.user.x"),
        ("gateway", "$KV.calls.call.x"),
        ("gateway", "deliver.other.session.call:ended"),
        ("gateway", "deliver.other.session.settled"),
        ("gateway", "deliver.-.session.call:ended"),
        ("gateway", "deliver.-.run-0.mark"),
        ("gateway", "relay.cc.call.-.-.-.state"),
        ("gateway", "rpc.calls.happen.cc"),
        ("gateway", "control.other.session.replaced"),
        ("gateway", "live.presence.x"),
        ("gateway", "$JS.API.STREAM.UPDATE.DELIVER"),
        ("gateway", "$JS.API.STREAM.PURGE.DELIVER"),
        ("gateway", "$JS.API.STREAM.MSG.GET.KV_sessions"),
        ("gateway", "$JS.API.DIRECT.GET.KV_calls.$KV.calls.call.x"),
        ("gateway", "$JS.API.CONSUMER.CREATE.DELIVER.x"),
        ("callcore", "$KV.sessions.user.x"),
        ("callcore", "control.gw.session.replaced"),
        ("callcore", "deadline.set.lease.x"),
        ("callcore", "event.user.x.joined"),
        ("callcore", "live.gateway.x"),
        ("callcore", "rpc.presence.join"),
        ("callcore", "rpc.calls.accept"),
        ("callcore", "relay.cc.call.alice.session.bob.call:offer"),
        ("callcore", "$JS.API.STREAM.DELETE.KV_calls"),
        ("callcore", "$JS.API.STREAM.UPDATE.KV_sessions"),
        ("callcore", "$JS.API.DIRECT.GET.KV_sessions.$KV.sessions.gateway.x"),
        ("presence", "$KV.calls.call.x"),
        ("presence", "deliver.gw.session.call:ended"),
        ("presence", "deadline.set.ring.x"),
        ("presence", "rpc.calls.accept"),
        ("presence", "event.call.x.ended"),
        ("presence", "$JS.API.CONSUMER.MSG.NEXT.DEADLINES.ring"),
        ("policy", "rpc.policy.may_call"),
        ("policy", "rpc.calls.initiate"),
        ("policy", "deliver.gw.session.call:ended"),
        ("monitor", "rpc.presence.status"),
        ("policy", "$KV.sessions.user.x"),
        ("policy", "$JS.API.INFO"),
        ("callcore", "rpc.policy.may_see"),
        ("presence", "rpc.policy.may_call"),
        ("gateway", "rpc.policy.may_see"),
        ("monitor", "$JS.API.STREAM.INFO.KV_sessions"),
        ("monitor", "live.gateway.x"),
        ("monitor", "$JS.API.STREAM.CREATE.X"),
        ("monitor", "$JS.API.STREAM.PURGE.EVENTS"),
        ("monitor", "$JS.API.STREAM.MSG.DELETE.EVENTS"),
        ("monitor", "$JS.API.STREAM.MSG.GET.KV_sessions"),
        ("monitor", "$JS.API.DIRECT.GET.KV_sessions"),
        ("monitor", "$JS.API.DIRECT.GET.DELIVER"),
        ("monitor", "$JS.API.CONSUMER.CREATE.EVENTS.x"),
        *((user, "$SYS.REQ.SERVER.PING") for user in USERS),
    ],
)
async def test_nobody_sends_what_is_not_theirs(access: Access, user: str, subject: str) -> None:
    async with access.act(user) as actor:
        assert not await actor.may_publish(subject)


_ZONES = ("gateway", "callcore", "presence", "policy", "nats", "x")
_ANSWERS: dict[str, set[tuple[str, str]]] = {
    "gateway": {("presence", "gateway"), ("gateway", "gateway")},
    "callcore": {(asker, "callcore") for asker in ("gateway", "callcore", "presence", "policy", "x")},
    "presence": {(asker, "presence") for asker in ("gateway", "callcore", "presence", "policy", "x")},
    POLICY: {("callcore", "policy"), ("presence", "policy")},
    MONITOR: set(),
}
"""(who asked, who is to answer): the reply subjects that each user may publish to."""


@pytest.mark.parametrize("user", USERS)
async def test_each_user_answers_only_what_it_was_asked(access: Access, user: str) -> None:
    async with access.act(user) as actor:
        may = {
            (asker, zone)
            for asker in ("gateway", "callcore", "presence", "policy", "x")
            for zone in _ZONES
            if await actor.may_publish(f"_INBOX.{asker}.{zone}.connection.token")
        }
        assert may == _ANSWERS[user]
        services = ("callcore", "presence")
        assert await actor.may_publish("_INBOX.monitor.nats.connection.token") is (user in services)


@pytest.mark.parametrize("forger", [POLICY, "gateway", "presence", MONITOR])
async def test_a_forged_record_is_not_believed(access: Access, forger: str) -> None:
    """A user that knows the very reply subject of a read cannot answer it, nor by another zone's subject."""
    passwords, asking = access.passwords, subjects.rpc_at("calls", "happen", "cc-2")
    bus = await Bus.connect(
        access.url, name="cc", inboxes="callcore", login=Login("callcore", passwords.of("callcore"))
    )
    try:
        async with access.act(forger) as actor, access.connect("callcore") as eavesdropper:
            replies: list[str] = []

            async def note(msg: Msg) -> None:
                replies.append(msg.reply)

            await eavesdropper.subscribe(asking, cb=note)
            await eavesdropper.flush()
            # A request that is never answered, so that a forgery would be in time.
            waiting = bus.ask(asking, b"", lambda data, _: data, timeout=1.5)
            async with asyncio.timeout(SECONDS):
                while not replies:
                    await asyncio.sleep(0.01)
            asked, zone, mine, token = replies[0].split(".")[1:]
            assert (asked, zone) == ("callcore", "callcore") and len(token) == 16
            for other in _ZONES:
                await actor.may_publish(f"_INBOX.callcore.{other}.{mine}.{token}")
            with pytest.raises(Unavailable):
                await waiting
    finally:
        await bus.close()


@pytest.mark.parametrize("user", USERS)
async def test_nobody_reads_the_inbox_of_another_service_or_everything(access: Access, user: str) -> None:
    async with access.act(user) as actor:
        for other in (*ALL, "test"):
            assert await actor.may_subscribe(f"_INBOX.{other}.>") is (other == user)
        for everything in (">", "_INBOX.>", "*.>", "_INBOX.*.x.y", "$JS.>", "$KV.>", "$SYS.>"):
            assert not await actor.may_subscribe(everything), everything


@pytest.mark.parametrize(
    ("user", "heard", "not_heard"),
    [
        (
            "gateway",
            ["deliver.gw.>", "deliver.*.s.>", "control.gw.*.*"],
            ["relay.cc.>", "rpc.presence.*", "event.>"],
        ),
        ("callcore", ["relay.cc.>", "rpc.calls.*", "rpc.calls.happen.cc"], ["deliver.>", "rpc.presence.*"]),
        ("presence", ["rpc.presence.join"], ["deliver.>", "relay.>", "rpc.calls.*"]),
        (
            "policy",
            ["rpc.policy.*", "rpc.policy.may_call"],
            ["rpc.calls.*", "rpc.>", "event.>", "live.>", "$SRV.>"],
        ),
        ("monitor", ["event.>", "rpc.>", "relay.>", "deliver.>", "live.>"], ["rpc.presence.join", "$SRV.>"]),
    ],
)
async def test_what_is_heard(access: Access, user: str, heard: list[str], not_heard: list[str]) -> None:
    async with access.act(user) as actor:
        for subject in heard:
            assert await actor.may_subscribe(subject), subject
        for subject in not_heard:
            assert not await actor.may_subscribe(subject), subject


# --- JetStream: who may do what with which stream, and nothing besides ---------------------------------------------

_STREAMS = ("KV_calls", "KV_sessions", "DELIVER", "EVENTS", "DEADLINES")
_OPERATIONS = (
    "STREAM.CREATE.{}", "STREAM.UPDATE.{}", "STREAM.DELETE.{}", "STREAM.PURGE.{}", "STREAM.INFO.{}",
    "STREAM.SNAPSHOT.{}", "STREAM.RESTORE.{}", "STREAM.MSG.GET.{}", "STREAM.MSG.DELETE.{}", "DIRECT.GET.{}",
    "DIRECT.GET.{}.x", "DIRECT.GET.{}.$KV.sessions.user.x", "DIRECT.GET.{}.$KV.calls.user.x",
    "STREAM.LEADER.STEPDOWN.{}", "STREAM.PEER.REMOVE.{}",
    "CONSUMER.NAMES.{}", "CONSUMER.LIST.{}",
    *(
        f"CONSUMER.{verb}.{{}}.{name}"
        for verb in ("INFO", "CREATE", "MSG.NEXT", "DELETE", "DURABLE.CREATE", "LEADER.STEPDOWN", "PAUSE")
        for name in ("ring", "grace", "lease", "other")
    ),
    *(f"CONSUMER.CREATE.{{}}.{name}.x" for name in ("ring", "grace", "lease", "other")),
)  # fmt: skip


def _keeps(stream: str) -> set[str]:
    return {f"STREAM.CREATE.{stream}", f"STREAM.UPDATE.{stream}"}


def _owns(bucket: str) -> set[str]:
    of = f"KV_{bucket}"
    everything = {f"DIRECT.GET.{of}.{key}" for key in ("x", "$KV.sessions.user.x", "$KV.calls.user.x")}
    return _keeps(of) | {f"STREAM.INFO.{of}", f"STREAM.MSG.GET.{of}"} | everything


def _waits_for(*kinds: str) -> set[str]:
    subjects_of = ("INFO.DEADLINES.{}", "CREATE.DEADLINES.{}.x", "MSG.NEXT.DEADLINES.{}")
    return {f"CONSUMER.{subject.format(kind)}" for kind in kinds for subject in subjects_of}


_ALLOWED: dict[str, set[str]] = {
    "gateway": {"DIRECT.GET.DELIVER", "STREAM.MSG.GET.DELIVER", "STREAM.INFO.DELIVER"},
    "callcore": _owns("calls") | _keeps("DELIVER") | _keeps("EVENTS") | _keeps("DEADLINES") | _waits_for("ring")
    | {"STREAM.INFO.KV_sessions", "STREAM.MSG.GET.KV_sessions", "DIRECT.GET.KV_sessions.$KV.sessions.user.x"},
    "presence": _owns("sessions") | _keeps("EVENTS") | _keeps("DEADLINES") | _waits_for("grace", "lease")
    | {"STREAM.INFO.KV_calls", "STREAM.MSG.GET.KV_calls", "DIRECT.GET.KV_calls.$KV.calls.user.x"},
    POLICY: set(),
    MONITOR: {f"STREAM.INFO.{stream}" for stream in _STREAMS if stream != "KV_sessions"}
    | {
        f"{read.format(stream)}{key}"
        for stream in ("EVENTS", "KV_calls")
        for read, keys in (
            ("STREAM.MSG.GET.{}", [""]),
            ("DIRECT.GET.{}", ["", ".x", ".$KV.sessions.user.x", ".$KV.calls.user.x"]),
        )
        for key in keys
    },
}  # fmt: skip


@pytest.mark.parametrize("user", USERS)
async def test_each_does_with_streams_what_is_theirs_and_nothing_else(access: Access, user: str) -> None:
    operations = {operation.format(stream) for stream in _STREAMS for operation in _OPERATIONS}
    assert _ALLOWED[user] <= operations
    async with access.act(user) as actor:
        allowed = {each for each in sorted(operations) if await actor.may_publish(f"$JS.API.{each}")}
    assert allowed == _ALLOWED[user]


@pytest.mark.parametrize("user", USERS)
async def test_each_writes_to_their_own_bucket_and_acknowledges_their_own_deadlines(
    access: Access, user: str
) -> None:
    theirs = {
        "callcore": {"$KV.calls.call.x", "$KV.calls.user.x", "$JS.ACK.DEADLINES.ring.1.2.3.4.5"},
        "presence": {
            "$KV.sessions.user.x", "$KV.sessions.gateway.x", "$JS.ACK.DEADLINES.grace.1.2.3.4.5",
            "$JS.ACK.DEADLINES.lease.1.2.3.4.5",
        },
    }  # fmt: skip
    everything = set().union(*theirs.values()) | {
        "$KV.other.x",
        "$JS.ACK.EVENTS.x.1.2.3.4.5",
        "$JS.API.X",
        "$SRV.X",
    }
    async with access.act(user) as actor:
        allowed = {each for each in sorted(everything) if await actor.may_publish(each)}
    assert allowed == theirs.get(user, set())


# --- what that means ----------------------------------------------------------------------------------------------


async def test_a_gateway_cannot_deliver_as_callcore_does(access: Access) -> None:
    async with (
        access.connect("gateway") as victim,
        access.connect("gateway", error_cb=_quiet) as gateway,
        access.connect("callcore") as callcore,
    ):
        mailbox = await victim.subscribe(subjects.deliver_all("gw-1"))
        await victim.flush()
        subject = subjects.deliver("gw-1", "session", "call:ended")
        await gateway.publish(subject, b"forged")
        await gateway.flush()
        await callcore.publish(subject, b"true")
        assert (await mailbox.next_msg(SECONDS)).data == b"true"


async def test_the_monitor_takes_no_requests_away(access: Access) -> None:
    async with access.act(MONITOR) as monitor:
        assert await monitor.may_subscribe("rpc.calls.*")
        assert not await monitor.may_subscribe("rpc.calls.*", queue="q")
        assert not await monitor.may_subscribe("rpc.>", queue="q")


async def test_the_monitor_hears_requests_but_not_those_with_tokens(access: Access) -> None:
    async with access.connect(MONITOR) as monitor, access.connect("gateway") as gateway:
        heard = await monitor.subscribe("rpc.>")
        await monitor.flush()
        for verb in ("join", "reassert", "leave"):
            await gateway.publish(subjects.rpc("presence", verb), b"{}")
        assert (await heard.next_msg(SECONDS)).subject == "rpc.presence.leave"


async def test_a_request_is_answered_across_users(access: Access) -> None:
    async def answer(msg: Msg) -> None:
        await msg.respond(b"here")

    async with (
        access.connect("presence", zone="gateway") as presence,
        access.connect("gateway", zone="presence") as gateway,
    ):
        await presence.subscribe(subjects.rpc("presence", "status"), cb=answer)
        await gateway.subscribe(subjects.alive("gw"), cb=answer)
        await presence.flush()
        await gateway.flush()
        assert (await gateway.request(subjects.rpc("presence", "status"), b"", SECONDS)).data == b"here"
        assert (await presence.request(subjects.alive("gw"), b"", SECONDS)).data == b"here"


async def test_only_the_system_account_sees_the_system(access: Access) -> None:
    async with access.connect(SYSTEM) as system:
        answer = json.loads((await system.request("$SYS.REQ.SERVER.PING", b"", SECONDS)).data)
        assert answer["server"]["name"] == "signalling"
        heard = await system.subscribe(">")
        await system.flush()
        async with access.connect("callcore") as callcore:
            await callcore.publish(subjects.deliver("gw", "session", "call:ended"), b"{}")
            await callcore.flush()
        await asyncio.sleep(0.2)
        while heard.pending_msgs:
            assert not (await heard.next_msg(SECONDS)).subject.startswith("deliver.")


@pytest.mark.parametrize("user", [None, "nobody", *ALL])
async def test_without_its_password_nobody_is_let_in(access: Access, user: str | None) -> None:
    async with access.act(user, "wrong") as actor:
        assert not await actor.is_let_in()


@pytest.mark.parametrize("user", ALL)
async def test_with_its_password_everybody_is_but_who_is_a_server(access: Access, user: str) -> None:
    async with access.act(user) as actor:
        assert await actor.is_let_in() is (user != CLUSTER)


async def _quiet(_: Exception) -> None:
    """What is expected."""


async def test_what_an_open_server_stored_is_there_when_it_has_users(tmp_path: Path) -> None:
    server = EmbeddedNats(tmp_path / "server")
    server.start()
    client = await nats.connect(server.url)
    await client.jetstream().add_stream(name="EVENTS", subjects=["event.>"])
    await client.jetstream().publish(subjects.event_call("x", "ended"), b"{}")
    await client.close()
    server.stop()
    passwords = Passwords.new(tmp_path / "passwords")
    server = EmbeddedNats(tmp_path / "server", passwords=passwords)
    server.start()
    try:
        async with Access(server.url, passwords).connect(MONITOR) as client:
            assert (await client.jetstream().stream_info("EVENTS")).state.messages == 1
    finally:
        server.kill()


# --- passwords ----------------------------------------------------------------------------------------------------


async def test_a_service_that_is_not_let_in_says_so_without_its_password(access: Access) -> None:
    url = access.url.replace("nats://", "nats://gateway:hunter2@")
    with pytest.raises(Unavailable) as raised:
        await Bus.connect(url, name="x", timeout=1)
    assert "hunter2" not in raised.value.message and "127.0.0.1" in raised.value.message
    with pytest.raises(Unavailable, match=r"(?i)authorization violation") as raised:
        await Bus.connect(access.url, name="x", login=Login("gateway", "hunter2"), timeout=1)
    assert "hunter2" not in raised.value.message


def test_passwords_are_nobody_elses_and_new_each_time(tmp_path: Path) -> None:
    first = Passwords.new(tmp_path / "passwords")
    before = {user: first.of(user) for user in ALL}
    assert len(set(before.values())) == len(ALL)
    again = Passwords.new(tmp_path / "passwords")
    assert not set(before.values()) & {again.of(user) for user in ALL}
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in again.files.values())


def test_passwords_are_in_no_file_of_the_server_and_on_no_command_line(tmp_path: Path) -> None:
    passwords = Passwords.new(tmp_path / "passwords")
    server = EmbeddedNats(tmp_path / "server", passwords=passwords)
    server.start()
    try:
        texts = [file.read_bytes() for file in (tmp_path / "server").rglob("*") if file.is_file()]
        texts.append(Path(f"/proc/{server.pid}/cmdline").read_bytes())
    finally:
        server.stop()
    assert texts
    assert not [user for user in ALL for text in texts if passwords.of(user).encode() in text]
