"""All that clients and NATS see of a system that is put through its paces is as the AsyncAPI documents have it."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from shared import subjects
from shared.contracts.presence import CountRequest
from shared.ids import new_id
from tests.support.asyncapi import Document
from tests.support.cluster import Cluster
from tests.support.collector import collecting
from tests.support.inbox import PATIENCE_SECONDS
from tests.support.policy import PolicyService
from tests.support.raw_client import RawClient

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

_SEVERAL = ("relay.", "deliver.")
NOT_OURS = ("$JS.", "$SRV.", "$SYS.", "_INBOX.")
SELDOM = {
    "doubt",  # somebody was cut off
    "rpc.presence.reassert",  # a gateway that was given up comes back
    "relay.callcore.call.state",  # a call is decided elsewhere than where its relays run
}
SETTINGS = {
    "POLICY": "required",
    "STATUS_VISIBILITY": "contacts",
    "RATE_LIMIT": "on",
    "RING_BACKOFF_SECONDS": "0",
    "RESUME_WINDOW_SECONDS": "2",
    "ICE_SERVERS": '[{"urls": "stun:stun.example.com:3478"}]',
}
SDP = {"type": "offer", "sdp": "v=0\r\n"}


class Bus:
    """Judges what passes. ``seen``: how many messages of which channels."""

    def __init__(self) -> None:
        self.document = Document("nats", closed=True)
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []
        self.traced: set[str] = set()
        self.together = 0
        """Most that was in one message."""
        self._answers: dict[str, str] = {}

    async def hear(self, msg: Msg) -> None:
        """A message."""
        answered = self._answers.get(msg.subject)
        if answered is not None:
            if (msg.headers or {}).get("Status") != "503":
                self._judge(answered, msg)
            return
        if msg.subject.startswith(NOT_OURS):
            return
        channel = self.document.channel(msg.subject)
        if channel is None:
            self.faults.append(f"no channel for {msg.subject}")
            return
        if msg.reply and f"{channel}.answer" in self.document.whole["channels"]:
            self._answers[msg.reply] = f"{channel}.answer"
        self._judge(channel, msg)

    def _judge(self, channel: str, msg: Msg) -> None:
        self.seen[channel] += 1
        texts = msg.data.decode().split("\n") if channel.startswith(_SEVERAL) else [msg.data.decode()]
        self.together = max(self.together, len(texts))
        for text in texts:
            self._judge_text(channel, msg, text)

    def _judge_text(self, channel: str, msg: Msg, text: str) -> None:
        found, right = [], []
        for key in self.document.messages(channel):
            message = self.document.whole["components"]["messages"][key]
            try:
                payload = text if message.get("contentType") == "text/plain" else json.loads(text)
            except ValueError:
                found.append(f"{key}: not JSON")
                continue
            faults = self.document.faults(key, payload)
            if "headers" in message:
                faults += self.document.faults(key, dict(msg.headers or {}), "headers")
            found += faults
            right += [] if faults else [key]
        if not right:
            self.faults.append(f"{msg.subject}: {msg.data[:500]!r} {msg.headers}: {found}")
        if msg.subject.startswith(("rpc.", "deliver.")) and msg.headers:
            self.traced.add(channel)
            if list(msg.headers) != ["traceparent"]:
                self.faults.append(f"{msg.subject}: {msg.headers}")
        if msg.subject.startswith("relay.") and msg.headers:
            self.faults.append(f"{msg.subject}: {msg.headers}")


class Judge:
    """Judges what clients send and are told. ``seen``: how many messages of which kinds."""

    def __init__(self) -> None:
        self.document = Document("socketio", closed=True)
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []
        self.clients: list[Witness] = []

    def __call__(self, key: str, payload: Any) -> None:
        self.seen[key] += 1
        if key not in self.document.whole["components"]["messages"]:
            self.faults.append(f"unknown: {key}")
            return
        self.faults += [f"{fault} in {payload}" for fault in self.document.faults(key, payload)]


class Witness(RawClient):
    """A client whose judge hears all that is said, but for what it says ``wrong`` on purpose."""

    def __init__(self, name: str, judge: Judge) -> None:
        super().__init__(name)
        self._judge = judge
        judge.clients.append(self)

    async def ask(
        self, event: str, *args: Any, timeout: float = PATIENCE_SECONDS, wrong: bool = False
    ) -> Any:
        if not wrong:
            self._judge(f"{_key(event)}.sent", args[0])
        ack = await super().ask(event, *args, timeout=timeout)
        self._judge(f"{_key(event)}.ack" if ack["ok"] else "refusal", ack)
        return ack

    async def _take(self, frame: str) -> None:
        if frame.startswith("42"):
            event, payload = json.loads(frame[2:])
            self._judge(f"{_key(event)}.told", payload)
        await super()._take(frame)


def _key(event: str) -> str:
    return event.replace(":", ".")


async def _enter(cluster: Cluster, judge: Judge, user: str, gateway: int, **extra: Any) -> Witness:
    client = Witness(user, judge)
    await client.connect(cluster.gateways[gateway].url)
    ack = await client.ok("user:join", {"userId": user, **extra})
    client.user, client.session = user, ack["sessionId"]
    await client.expect("user:joined")
    return client


async def _ring(caller: Witness, *devices: Witness, **extra: Any) -> str:
    ack = await caller.ok("call:initiate", {"to": devices[0].user, "callType": "video", **extra})
    for device in devices:
        await device.expect("call:incoming", callId=ack["callId"])
    return str(ack["callId"])


async def _talk(caller: Witness, callee: Witness) -> str:
    call = await _ring(caller, callee)
    await callee.ok("call:accept", {"callId": call})
    for client in (caller, callee):
        await client.expect("call:accepted", callId=call)
    return call


async def _gone(client: Witness) -> None:
    await client.tear()
    await client.expect_closed()


async def _whole_call(cluster: Cluster, judge: Judge, alice: Witness, bob: Witness) -> None:
    """Two devices ring, early candidates, an answer that is an acceptance, renegotiation, a resume, the end."""
    tablet = await _enter(cluster, judge, bob.user, 0, deviceId="tablet ☎")
    call = await _ring(alice, bob, tablet, metadata={"topic": "☎"})
    there, back = {"from": alice.user, "to": bob.user}, {"from": bob.user, "to": alice.user}
    await alice.emit("ice:candidate", {**there, "callId": call, "candidates": [{"candidate": "a"}, None]})
    await alice.ok("call:offer", {**there, "offer": SDP, "callType": "video"})  # of the call between them
    await bob.expect("call:offer", callId=call)
    await bob.ok("call:answer", {**back, "callId": call, "answer": SDP})
    await alice.expect("call:answer", callId=call)
    await tablet.expect("call:ended", callId=call, reason="answered_elsewhere")
    await bob.ok("ice:candidate", {**back, "callId": call, "candidate": None})
    await alice.expect("ice:candidate", callId=call)
    for n in range(8):
        await alice.emit("ice:candidate", {**there, "callId": call, "candidate": {"candidate": f"{n}"}})
    await bob.inbox.expect_many("ice:candidate", 9)
    await alice.refused("ice:candidate", {**there, "to": "nobody", "callId": call, "candidate": {}})

    seq = max(event.data.get("seq", 0) for event in bob.inbox.all)
    joined = next(event.data for event in bob.inbox.all if event.event == "user:joined")
    await _gone(bob)
    again = Witness(bob.user, judge)
    await again.connect(cluster.gateways[0].url)
    resume = {"sessionId": joined["sessionId"], "token": joined["resume"]["token"], "lastSeq": seq}
    assert (await again.ok("user:join", {"userId": bob.user, "resume": resume}))["resumed"]
    await alice.ok("call:offer", {**there, "callId": call, "offer": SDP})
    await again.expect("call:offer", callId=call)
    late = Witness(bob.user, judge)
    await late.connect(cluster.gateways[1].url)
    assert not (await late.ok("user:join", {"userId": bob.user, "resume": resume}))["resumed"]
    await again.ok("call:end", {"callId": call, "reason": "ice_failed"})
    await alice.expect("call:ended", callId=call)
    for client in (again, tablet, late):
        await client.disconnect()


async def _other_ends(cluster: Cluster, judge: Judge, alice: Witness) -> None:
    """Calls that are rejected, given up, timed out, or end because somebody is gone."""
    carol = await _enter(cluster, judge, "carol", 1, deviceId="phone")
    call = await _ring(alice, carol)
    await carol.ok("call:reject", {"callId": call, "reason": "busy"})
    await alice.expect("call:rejected", callId=call, reason="busy")
    for _ in range(4):  # so that some are asked of the instance in charge, and some are not
        call = await _ring(alice, carol)
        await alice.ok("call:end", {"callId": call})
        await carol.expect("call:ended", callId=call, reason="cancelled")
    call = await _ring(alice, carol)
    await alice.expect("call:ended", callId=call, reason="timeout")
    await carol.expect("call:ended", callId=call, reason="timeout")
    await _talk(alice, carol)
    await carol.disconnect()
    await alice.expect("call:ended", reason="hangup")
    carol = await _enter(cluster, judge, "carol", 1)
    await _talk(alice, carol)
    tablet = await _enter(cluster, judge, "carol", 0)
    await _gone(carol)
    await alice.expect("call:ended", reason="connection_lost")
    await tablet.disconnect()


async def _questions(cluster: Cluster, judge: Judge, alice: Witness) -> None:
    """What is asked besides calls, refusals, and a device that is replaced."""
    await alice.ok("user:status", {"userId": "dave"})
    await alice.ok("ice:servers", {})
    await alice.ok("user:refresh", {"token": "any"})
    await alice.refused("call:initiate", {"to": "dave", "callType": "audio"}, code="user_not_found")
    await alice.refused("call:accept", {"callId": "A" * 22}, code="call_not_found")
    assert not (await alice.ask("call:initiate", {"to": 7}, wrong=True))["ok"]
    dave = await _enter(cluster, judge, "dave", 0, deviceId="phone")
    other = await _enter(cluster, judge, "dave", 1, deviceId="phone")
    await dave.expect("session:replaced")
    await dave.close()
    for _ in range(10):  # so often that it is counted in the store
        await other.ok("user:join", {"userId": "dave", "deviceId": "phone"})
    await other.disconnect()


async def test_everything_is_as_documented(tmp_path: Path) -> None:
    bus, judge, policy = Bus(), Judge(), PolicyService()
    with collecting() as collector:
        cluster = Cluster(
            tmp_path,
            gateways=2,
            callcores=2,
            ring_seconds=2,
            locked=False,
            TRACES_ENDPOINT=collector.url,
            **SETTINGS,
        )
        await cluster.start()
        try:
            async with cluster.access.connect("policy") as client:
                await policy.answer(client)
                await client.subscribe(">", cb=bus.hear)
                await client.flush()
                alice = await _enter(cluster, judge, "alice", 0)
                bob = await _enter(cluster, judge, "bob=1.☎", 1)
                await _whole_call(cluster, judge, alice, bob)
                await _other_ends(cluster, judge, alice)
                await _questions(cluster, judge, alice)
                async with cluster.access.connect("monitor", zone="presence") as monitor:
                    count = CountRequest(request_id=new_id())
                    await monitor.request(subjects.rpc("presence", "count"), count.dump(), PATIENCE_SECONDS)
                async with cluster.access.connect("monitor", zone="gateway") as other:
                    # As a gateway asks that cannot read in the mailbox what a client has heard.
                    joined = next(told.data for told in alice.inbox.all if told.event == "user:joined")
                    seq = str(max(told.data.get("seq", 0) for told in alice.inbox.all))
                    await other.request(subjects.heard(joined["sessionId"]), seq.encode(), PATIENCE_SECONDS)
                cluster.pause_one("gw-2")  # its lease runs out, so it is asked whether it lives
                await asyncio.sleep(8)
                cluster.resume_one("gw-2")
                stopped = cluster.stop_one("gw-1")
                await alice.expect("server:draining")
                await alice.expect_closed()
                assert await stopped == 0
                cluster.restart("gw-1")  # which asks who is there
                await cluster.ready()
        finally:
            await asyncio.gather(*(client.close() for client in judge.clients))
            await cluster.stop()
    assert bus.faults == [] and judge.faults == []

    channels = {key for key, channel in bus.document.whole["channels"].items()}
    assert channels - bus.seen.keys() <= SELDOM | {f"{key}.answer" for key in SELDOM}
    assert bus.traced >= {"rpc.calls.initiate", "rpc.policy.may.call", "deliver.gateway.session.event"}
    messages = judge.document.whole["components"]["messages"].keys()
    assert messages - judge.seen.keys() == {"session.expired.told"}
