import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Socket } from "socket.io-client";
import { SignallingClient, type Call } from "../src/index.js";
import { FakePeer, FakeStream, FakeTrack } from "./fake_peer.mjs";
import { FakeSocket, joined, refused } from "./fake_socket.js";

const AUDIO = { audio: true, video: false };
const SOON = { expiresAt: 0, expiresInMs: 45_000 };
let socket: FakeSocket;
let client: SignallingClient;
let captured: FakeTrack[];
/** Settles when the user has given leave to use the microphone. */
let leave: Promise<void>;

beforeEach(() => {
  vi.useFakeTimers();
  captured = [];
  leave = Promise.resolve();
  vi.stubGlobal("MediaStream", FakeStream);
  vi.stubGlobal("RTCPeerConnection", FakePeer);
  const getUserMedia = async (wanted: Record<string, unknown>) => {
    await leave;
    const tracks = ["audio", "video"].filter((kind) => wanted[kind]).map((kind) => new FakeTrack(kind));
    captured.push(...tracks);
    return new FakeStream(tracks);
  };
  vi.stubGlobal("navigator", { mediaDevices: { getUserMedia } });
  client = another();
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function another(options: object = {}): SignallingClient {
  socket = new FakeSocket();
  const mine = socket;
  return new SignallingClient({ url: "", userId: "alice", connect: () => mine as unknown as Socket, ...options });
}

const turns = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

async function welcome(values: object = {}): Promise<void> {
  await turns();
  socket.take("user:join").ack(null, joined(values));
  await turns();
}

async function join(): Promise<void> {
  const done = client.join();
  await welcome();
  await done;
}

async function back(values: object = { resumed: true }): Promise<void> {
  socket.connect();
  await welcome(values);
}

/** What happens to a call. */
function watch(call: Call): unknown[] {
  const seen: unknown[] = [];
  call.on("state", (state) => seen.push(state));
  call.on("ended", ({ reason }) => seen.push(reason));
  return seen;
}

const sent = () => socket.sent.map(({ event, payload }) => [event, payload.callId ?? payload.to]);

// --- dialling ---

test("a call is there at once, and rings when the server has made it", async () => {
  await join();
  const call = client.call("bob", AUDIO, { topic: "tea" });
  expect([call.state, call.id, client.calls]).toEqual(["dialling", undefined, [call]]);
  const seen = watch(call);
  await turns();
  const { payload, ack } = socket.take("call:initiate");
  expect(payload).toEqual({ to: "bob", callType: "audio", metadata: { topic: "tea" } });
  ack(null, { ok: true, callId: "c", to: "bob", ...SOON });
  await turns();
  expect([call.state, call.id, seen, client.calls]).toEqual(["ringing", "c", ["ringing"], [call]]);
});

test("a refusal is how the call ends", async () => {
  await join();
  const call = client.call("bob", AUDIO);
  const ended = vi.fn();
  call.on("ended", ended);
  await turns();
  socket.take("call:initiate").ack(null, refused("user_not_found"));
  await turns();
  expect(ended.mock.calls[0]?.[0]).toMatchObject({ reason: "user_not_found", by: "alice", error: { code: "user_not_found" } });
  expect([captured.map(({ stopped }) => stopped), client.calls]).toEqual([[true], []]);
});

test("cancelled while the microphone is opened, nothing is sent, and it is closed", async () => {
  await join();
  let allow = () => {};
  leave = new Promise((resolve) => (allow = resolve));
  const call = client.call("bob", AUDIO);
  const seen = watch(call);
  await turns();
  await call.hangup();
  expect(seen).toEqual(["ended", "cancelled"]);
  allow();
  await turns(60_000);
  expect([sent(), captured.map(({ stopped }) => stopped), client.calls]).toEqual([[], [true], []]);
});

test("a signal cancels as hangup does, whenever it comes", async () => {
  await join();
  const early = client.call("bob", AUDIO, undefined, { signal: AbortSignal.abort() });
  const never = watch(early);
  await turns(1);
  expect([never, captured, sent()]).toEqual([["ended", "cancelled"], [], []]);
  const giveUp = new AbortController();
  const call = client.call("bob", AUDIO, undefined, { signal: giveUp.signal });
  await turns();
  socket.take("call:initiate").ack(null, { ok: true, callId: "c", to: "bob", ...SOON });
  await turns();
  giveUp.abort();
  expect([call.state, sent()]).toEqual(["ended", [["call:end", "c"]]]);
});

test("dialled and cancelled while the server is out of reach, nothing is sent when it is back", async () => {
  await join();
  socket.lose();
  const call = client.call("bob", AUDIO);
  await turns(1_000);
  expect([call.state, client.joined]).toEqual(["dialling", false]);
  await call.hangup();
  await back();
  await turns(60_000);
  expect(sent()).toEqual([]);
});

test("dialled while the server is out of reach, it is called when it is back, if that is soon", async () => {
  await join();
  socket.lose();
  const call = client.call("bob", AUDIO);
  await turns(10_000);
  await back();
  expect(sent()).toEqual([["call:initiate", "bob"]]);
  socket.take("call:initiate").ack(null, refused("user_unavailable"));
  await turns();
  expect(call.state).toBe("ended");
  socket.lose();
  const late = watch(client.call("bob", AUDIO));
  await turns(20_000);
  expect(late).toEqual(["ended", "disconnected"]);
  await back();
  expect(sent()).toEqual([]);
});

test("whose connection breaks before the answer learns of the call, and has it", async () => {
  await join();
  const call = client.call("bob", AUDIO);
  const seen = watch(call);
  await turns();
  socket.lose();
  await turns(3_000);
  await back();
  expect([call.state, sent()]).toEqual(["dialling", []]); // it is not asked for twice
  socket.say("call:initiated", { callId: "c", to: "bob", seq: 6, ...SOON });
  socket.say("call:accepted", { callId: "c", by: "bob", seq: 7 });
  await turns();
  expect([call.id, seen, client.calls]).toEqual(["c", ["ringing", "connecting"], [call]]);
});

test("whose event came, but not the answer, has the call too", async () => {
  await join();
  const call = client.call("bob", AUDIO);
  await turns();
  socket.say("call:initiated", { callId: "c", to: "bob", seq: 6, ...SOON });
  socket.lose();
  await turns();
  expect([call.state, call.id]).toEqual(["ringing", "c"]);
});

test.each([
  ["the next page's join", async () => back({ resumed: true, call: { callId: "c", peer: "bob", callType: "audio", state: "ringing" } }), "ringing"],
  ["the same, accepted", async () => back({ resumed: false, call: { callId: "c", peer: "bob", callType: "audio", state: "accepted" } }), "connecting"],
])("a call is adopted from %s", async (_, rejoin, state) => {
  await join();
  const call = client.call("bob", AUDIO);
  await turns();
  socket.lose();
  await rejoin();
  expect([call.id, call.state]).toEqual(["c", state]);
});

test("if the server has made none, it is over, and the next one can be made", async () => {
  await join();
  for (const values of [{ resumed: true }, { resumed: false, sessionId: "another" }]) {
    const call = client.call("bob", AUDIO);
    const seen = watch(call);
    await turns();
    socket.lose();
    await back(values);
    await turns(5_000);
    expect(seen).toEqual(["ended", "disconnected"]);
    client.call("bob", AUDIO);
    await turns();
    socket.take("call:initiate").ack(null, refused("user_not_found"));
    await turns();
  }
});

test("cancelled before the answer, the call that the server has made is ended", async () => {
  await join();
  const call = client.call("bob", AUDIO);
  await turns();
  await call.hangup();
  socket.take("call:initiate").ack(null, { ok: true, callId: "c", to: "bob", ...SOON });
  await turns();
  expect(sent()).toEqual([["call:end", "c"]]);
  socket.say("call:accepted", { callId: "c", by: "bob" });
  expect(client.calls).toEqual([]);
});

test("cancelled after a break, a call that the server tells of later is ended, and the next is made", async () => {
  await join();
  const call = client.call("bob", AUDIO);
  await turns();
  socket.lose();
  await turns();
  await call.hangup();
  const next = client.call("carol", AUDIO);
  await back();
  socket.take("call:initiate").ack(null, refused("already_in_call"));
  await turns();
  socket.say("call:initiated", { callId: "c", to: "bob", seq: 6, ...SOON });
  socket.take("call:end").ack(null, { ok: true, callId: "c" });
  await turns();
  socket.take("call:initiate").ack(null, { ok: true, callId: "d", to: "carol", ...SOON });
  await turns();
  expect([next.state, next.id]).toEqual(["ringing", "d"]);
});

test("who cancels and calls another waits until the first call is known, and ended", async () => {
  await join();
  const first = client.call("bob", AUDIO);
  await turns();
  await first.hangup();
  client.call("carol", AUDIO);
  await turns();
  expect(sent()).toEqual([["call:initiate", "bob"]]);
  socket.take("call:initiate").ack(null, { ok: true, callId: "c", to: "bob", ...SOON });
  await turns();
  expect(sent()).toEqual([["call:end", "c"], ["call:initiate", "carol"]]);
});

test("a call that nobody holds is ended when it is accepted", async () => {
  await join();
  socket.say("call:accepted", { callId: "x", by: "bob" });
  expect(sent()).toEqual([["call:end", "x"]]);
});

test("both call at once: what came first is kept for the call, and there is one", async () => {
  await join();
  const incoming = vi.fn();
  client.on("incoming", incoming);
  const call = client.call("bob", AUDIO);
  await turns();
  socket.say("call:incoming", { callId: "c", from: "bob", callType: "audio", ...SOON });
  socket.say("call:accepted", { callId: "c", by: "alice" });
  socket.take("call:initiate").ack(null, { ok: true, callId: "c", to: "bob", ...SOON });
  await turns();
  expect([call.state, client.calls, incoming.mock.calls[0]?.[0].state]).toEqual(["connecting", [call], "ended"]);
});

test("statuses are not queued", async () => {
  await join();
  socket.lose();
  for (let n = 0; n < 600; n += 1) {
    await expect(client.status(`user ${n}`)).rejects.toMatchObject({ code: "disconnected" });
  }
  const call = client.call("bob", AUDIO);
  await back();
  expect(sent()).toEqual([["call:initiate", "bob"]]);
  expect(call.state).toBe("dialling");
});

// --- joining ---

test("joining twice is joining once, and at once if it is done", async () => {
  const both = [client.join(), client.join()];
  await welcome();
  await Promise.all(both);
  await client.join();
  expect(sent()).toEqual([]);
  await turns(30_000);
  expect([client.joined, socket.asked]).toEqual([true, 1]);
});

test("after leaving one can join again, also at once", async () => {
  await join();
  const closed = vi.fn();
  client.on("closed", closed);
  client.leave();
  await join();
  const given = client.join();
  expect(await given).toBeUndefined();
  expect([client.joined, closed.mock.calls.length]).toEqual([true, 1]);
  client.leave();
  const pending = client.join();
  client.leave();
  await expect(pending).rejects.toMatchObject({ code: "closed" });
  await join();
});

test("an application that joins again where it hears that it is over does so", async () => {
  await join();
  client.once("closed", () => void client.join());
  client.leave();
  await welcome();
  expect(client.joined).toBe(true);
});

test("a server that is down at first is waited for, and that is said", async () => {
  socket.reachable = false;
  const told = vi.fn();
  client.on("disconnected", told);
  const done = client.join();
  socket.say("connect_error", new Error("websocket error"));
  await turns(120_000);
  expect(told).toHaveBeenCalledWith("websocket error");
  socket.reachable = true;
  socket.connect();
  await welcome();
  await done;
});

test("waiting can be given up", async () => {
  const giveUp = new AbortController();
  const done = client.join({ signal: giveUp.signal });
  giveUp.abort();
  await expect(done).rejects.toMatchObject({ code: "closed" });
  await expect(client.join({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "closed" });
  await join();
});

test("a refusal at the first join rejects it", async () => {
  const done = client.join();
  await turns();
  socket.take("user:join").ack(null, refused("unauthorized"));
  await expect(done).rejects.toMatchObject({ code: "unauthorized" });
});

test("a listener that throws keeps nobody from joining", async () => {
  vi.stubGlobal("reportError", vi.fn());
  client.on("joined", () => { throw new Error("a mistake"); });
  client.on("disconnected", () => { throw new Error("a mistake"); });
  await join();
  socket.lose();
  await back();
  expect(client.joined).toBe(true);
});

// --- a page after another ---

const ONGOING = { callId: "c", peer: "bob", callType: "video", state: "accepted" };

test("a call of a page that was lost can be gone on with", async () => {
  const ongoing = vi.fn();
  client.on("ongoing", ongoing);
  const done = client.join();
  await welcome({ call: ONGOING });
  await done;
  const call = ongoing.mock.calls[0]?.[0] as Call;
  expect([call.user, call.type, call.state, client.calls]).toEqual(["bob", "video", "reconnecting", [call]]);
  await call.rejoin();
  await turns(10);
  expect([call.state, captured.map(({ kind }) => kind)]).toEqual(["connecting", ["audio", "video"]]);
  expect(socket.events).toContain("call:offer");
});

test("where nobody asks, it is ended, so that nobody is held", async () => {
  const done = client.join();
  await welcome({ call: ONGOING });
  await done;
  expect([sent(), client.calls]).toEqual([[["call:end", "c"]], []]);
});

test("one's own call that rings can be gone on with, too, and is ended where nobody asks", async () => {
  const RINGS = { ...ONGOING, state: "ringing" };
  const ongoing = vi.fn();
  client.on("ongoing", ongoing);
  void client.join();
  await welcome({ call: RINGS });
  socket.say("call:initiated", { callId: "c", to: "bob", ...SOON });
  const call = ongoing.mock.calls[0]?.[0] as Call;
  const seen = watch(call);
  await call.rejoin();
  socket.say("call:initiated", { callId: "c", to: "bob", ...SOON });
  socket.say("call:accepted", { callId: "c", by: "bob" });
  expect([seen, sent().filter(([event]) => event === "call:end")]).toEqual([["ringing", "connecting"], []]);
  client = another();
  void client.join();
  await welcome({ call: RINGS });
  socket.say("call:initiated", { callId: "c", to: "bob", ...SOON });
  expect(sent().every(([event, id]) => event === "call:end" && id === "c")).toBe(true);
  expect(client.calls).toEqual([]);
});

test("a page that was there all the while is not asked about a call that it has cancelled", async () => {
  const ongoing = vi.fn();
  client.on("ongoing", ongoing);
  await join();
  const call = client.call("bob", AUDIO);
  await turns();
  socket.lose();
  await turns();
  await call.hangup();
  await back({ resumed: true, call: { ...ONGOING, state: "ringing" } });
  expect([ongoing.mock.calls, sent()]).toEqual([[], [["call:end", "c"]]]);
});

test("a call that was ended while the server was out of reach is not gone on with", async () => {
  const ongoing = vi.fn();
  client.on("ongoing", ongoing);
  await join();
  const call = client.call("bob", AUDIO);
  await turns();
  socket.take("call:initiate").ack(null, { ok: true, callId: "c", to: "bob", ...SOON });
  await turns();
  socket.lose();
  void call.hangup();
  await back({ resumed: false, call: { ...ONGOING, state: "ringing" } });
  expect([ongoing.mock.calls, socket.events.includes("call:end")]).toEqual([[], true]);
});

test("after a reload one's own call rings, and that is emitted", async () => {
  await join();
  const call = client.call("bob", AUDIO);
  await turns();
  socket.take("call:initiate").ack(null, { ok: true, callId: "c", to: "bob", ...SOON });
  await turns(5_000);
  expect(call.state).toBe("ringing");
  const memory = client.memory()!;
  client = another({ memory });
  const [same] = client.calls;
  const seen = watch(same!);
  const done = client.join();
  await welcome({ resumed: true });
  await done;
  expect([same!.id, seen]).toEqual(["c", ["ringing"]]);
  await turns(40_100);
  expect(seen).toEqual(["ringing", "ended", "timeout"]);
});

test("cut off from the server, a call rings no longer than it was told", async () => {
  await join();
  const rings = vi.fn();
  client.on("incoming", rings);
  socket.say("call:incoming", { callId: "c", from: "bob", callType: "audio", expiresAt: Date.now() - 600_000, expiresInMs: 8_000 });
  const seen = watch(rings.mock.calls[0]?.[0]);
  socket.lose();
  await turns(8_000);
  expect([seen, client.calls]).toEqual([["ended", "timeout"], []]);
  await back();
  expect(sent()).toEqual([]);
});
