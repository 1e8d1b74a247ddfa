import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Call } from "../src/call.js";
import { SignallingError } from "../src/errors.js";
import type { Session } from "../src/session.js";
import { FakePeer, FakeStream, FakeTrack } from "./fake_peer.mjs";

let peers: FakePeer[];
let asked: { event: string; payload: Record<string, unknown> }[];
let refuse: SignallingError | undefined;
/** Names of errors that the next captures end with; `undefined` for one that does not. */
let failures: (string | undefined)[];
let captured: FakeTrack[];
/** What has to be stopped before there can be another. */
let open: FakeTrack | undefined;

const session = {
  userId: "bob",
  early: false,
  state: "joined",
  forget: () => undefined,
  rtc: { iceTransportPolicy: "relay", iceServers: [{ urls: "turn:a" }] },
  ask: async (event: string, payload: Record<string, unknown>) => {
    asked.push({ event, payload });
    if (refuse !== undefined) {
      throw refuse;
    }
    return {};
  },
} as unknown as Session;

beforeEach(() => {
  vi.useFakeTimers();
  peers = [];
  asked = [];
  refuse = undefined;
  failures = [];
  captured = [];
  open = undefined;
  vi.stubGlobal("MediaStream", FakeStream);
  vi.stubGlobal("RTCPeerConnection", class extends FakePeer {
    constructor(configuration: object) {
      super(configuration);
      peers.push(this);
    }
  });
  const getUserMedia = async (wanted: Record<"audio" | "video", boolean | { deviceId: { exact: string } }>) => {
    const name = open?.stopped === false ? "NotReadableError" : failures.shift();
    if (name !== undefined) {
      throw Object.assign(new Error(name), { name });
    }
    const tracks = (["audio", "video"] as const).flatMap((kind) => {
      const device = wanted[kind];
      return device ? [new FakeTrack(kind, typeof device === "object" ? device.deviceId.exact : "")] : [];
    });
    captured.push(...tracks);
    return new FakeStream(tracks);
  };
  vi.stubGlobal("navigator", { mediaDevices: { getUserMedia } });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const sdp = (connection: string) => `v=0\r\na=fingerprint:sha-256 ${connection}\r\n`;
const turns = (ms = 0) => vi.advanceTimersByTimeAsync(ms);
const sent = (peer: FakePeer) => peer.transceivers.map(({ sender }) => sender.track?.kind ?? null);
const directions = (peer: FakePeer) => peer.transceivers.map(({ direction }) => direction);

/** Bob calls alice, with these kinds of media. */
async function calling(kinds: string[], type: "audio" | "video" = "audio", as = session): Promise<Call> {
  const call = new Call(as, { user: "alice", type, incoming: false, state: "dialling" });
  await call.prepare({ audio: kinds.includes("audio"), video: kinds.includes("video") });
  call.placed("c", false);
  return call;
}

/** Alice calls bob. */
const called = (type: "audio" | "video" = "video", as = session) =>
  new Call(as, { id: "c", user: "alice", type, incoming: true, state: "ringing" });

/** Bob has called alice, who has answered: he is the one who does not wait for her. */
async function talking(...kinds: string[]): Promise<Call> {
  const call = await calling(kinds);
  await turns();
  call.take({ name: "call:accepted", payload: { callId: "c", by: "alice" } });
  call.take({ name: "call:answer", payload: { callId: "c", from: "alice", answer: { type: "answer", sdp: sdp("A1") } } });
  await turns(10);
  expect(call.state).toBe("connected");
  asked = [];
  captured = [];
  return call;
}

const offers = () => asked.filter(({ event }) => event === "call:offer").length;

test("nothing is offered before the call is accepted, unless the app says so", async () => {
  for (const early of [false, true]) {
    peers = [];
    asked = [];
    const call = await calling(["audio"], "audio", { ...session, early } as Session);
    await turns(100);
    const sent = ["call:offer", "ice:candidate"];
    expect(asked.map(({ event }) => event)).toEqual(early ? sent : []);
    call.take({ name: "call:accepted", payload: { callId: "c", by: "alice" } });
    expect(asked.map(({ event }) => event)).toEqual(sent);
  }
});

test("a connection is made as the app says, with the servers of now, and learns of others", async () => {
  const call = await talking("audio");
  expect(peers[0]!.configuration).toEqual({ iceTransportPolicy: "relay", iceServers: [{ urls: "turn:a" }] });
  call.setIceServers([{ urls: "turn:b" }]);
  expect(peers[0]!.configuration).toEqual({ iceTransportPolicy: "relay", iceServers: [{ urls: "turn:b" }] });
});

test("hold stops everything, also what is added meanwhile, and lets it flow again as it was", async () => {
  const call = await talking("audio");
  peers[0]!.addTransceiver("video", { direction: "recvonly" });
  void call.hold();
  await call.hold();
  expect(call.onHold).toBe(true);
  expect(directions(peers[0]!)).toEqual(["inactive", "inactive"]);
  await call.addVideo();
  expect(directions(peers[0]!)).toEqual(["inactive", "inactive"]);
  await call.hold(false);
  expect(call.onHold).toBe(false);
  expect(directions(peers[0]!)).toEqual(["sendrecv", "sendrecv"]);
  expect(sent(peers[0]!)).toEqual(["audio", "video"]);
});

test("camera and microphone are closed on hold, and opened again after it", async () => {
  const call = await talking("audio", "video");
  const before = call.local.getTracks() as unknown as FakeTrack[];
  await call.mute("audio");
  await call.hold();
  expect(before.map(({ stopped }) => stopped)).toEqual([true, true]);
  expect([sent(peers[0]!), call.local.getTracks(), call.sends("video")]).toEqual([[null, null], [], false]);
  await call.hold(false);
  expect(sent(peers[0]!)).toEqual(["audio", "video"]);
  expect(captured.map(({ kind, enabled }) => [kind, enabled])).toEqual([["audio", false], ["video", true]]);
  expect([call.sends("audio"), call.sends("video")]).toEqual([false, true]);
});

test("a camera that is off is closed, and the peer is told; a muted microphone is there at once", async () => {
  const call = await talking("audio", "video");
  const [microphone, camera] = call.local.getTracks() as unknown as FakeTrack[];
  await call.mute("video");
  await call.mute("audio");
  expect([camera!.stopped, microphone!.stopped, microphone!.enabled]).toEqual([true, false, false]);
  expect([sent(peers[0]!), directions(peers[0]!)]).toEqual([["audio", null], ["sendrecv", "recvonly"]]);
  await turns(10);
  expect(offers()).toBeGreaterThan(0);
  await call.mute("video", false);
  await call.mute("audio", false);
  expect([sent(peers[0]!), directions(peers[0]!)]).toEqual([["audio", "video"], ["sendrecv", "sendrecv"]]);
  expect([captured.map(({ kind }) => kind), microphone!.enabled]).toEqual([["video"], true]);
});

test("a camera that cannot be opened again stays off", async () => {
  const call = await talking("audio", "video");
  await call.mute("video");
  failures = ["NotAllowedError"];
  await expect(call.mute("video", false)).rejects.toThrow("NotAllowedError");
  expect([call.sends("video"), directions(peers[0]!)]).toEqual([false, ["sendrecv", "recvonly"]]);
  await call.mute("video", false);
  expect(call.sends("video")).toBe(true);
});

test("a camera that is switched off, on and off again is off in the end", async () => {
  const call = await talking("video");
  await Promise.all([call.mute("video"), call.mute("video", false), call.mute("video")]);
  expect([call.sends("video"), sent(peers[0]!)]).toEqual([false, [null, null]]);
  expect(captured.every(({ stopped }) => stopped)).toBe(true);
});

test("the device that was chosen is opened again, or another where it is gone", async () => {
  const call = await talking("video");
  await call.switchDevice("video", "back");
  for (const [failure, device] of [[undefined, "back"], ["OverconstrainedError", ""]] as const) {
    await call.mute("video");
    failures = [failure];
    await call.mute("video", false);
    expect(captured.at(-1)).toMatchObject({ device });
  }
});

test("a call that ends while the camera is opened again leaves none open", async () => {
  const call = await talking("video");
  await call.mute("video");
  const opened = call.mute("video", false);
  call.finish("hangup", "alice");
  await opened;
  expect(captured.every(({ stopped }) => stopped)).toBe(true);
});

test("a peer that comes back on another connection finds the call on hold as before", async () => {
  const call = await talking("audio");
  await call.hold();
  call.take({ name: "call:offer", payload: { callId: "c", from: "alice", offer: { type: "offer", sdp: sdp("A2") } } });
  await turns(10);
  expect(peers).toHaveLength(2);
  peers[1]!.ontrack?.({ track: new FakeTrack("video"), transceiver: peers[1]!.addTransceiver("video", { direction: "recvonly" }) });
  expect(directions(peers[1]!)).toEqual(["inactive"]);
  await call.hold(false);
  expect(directions(peers[1]!)).toEqual(["recvonly", "sendrecv"]);
});

test("a reload remembers what was sent, what was muted, and the hold", async () => {
  for (const held of [false, true]) {
    peers = [];
    const before = await talking("audio", "video");
    await before.mute("video");
    await before.hold(held);
    const remembered = before.remember()!;
    expect(remembered).toMatchObject({ sends: ["audio", "video"], muted: ["video"], onHold: held });
    const after = new Call(session, { id: "c", user: "alice", type: "audio", incoming: false, state: "reconnecting" });
    await after.restore(remembered);
    expect(captured.map(({ kind }) => kind)).toEqual(held ? [] : ["audio"]);
    expect(directions(peers[1]!)).toEqual(held ? ["inactive", "inactive"] : ["sendrecv", "recvonly"]);
    await after.hold(false);
    await after.mute("video", false);
    expect(sent(peers[1]!)).toEqual(["audio", "video"]);
  }
});

test("what is muted while the call is still being accepted is muted then", async () => {
  const call = called();
  const accepted = call.accept();
  expect([call.sends("audio"), call.sends("video")]).toEqual([true, true]);
  await Promise.all([call.mute("audio"), call.mute("video")]);
  expect([call.sends("audio"), call.sends("video")]).toEqual([false, false]);
  await accepted;
  expect(captured.map(({ enabled, stopped }) => enabled && !stopped)).toEqual([false, false]);
  expect(call.state).toBe("connecting");
});

test("what is muted while it is dialled is muted then", async () => {
  const call = new Call(session, { user: "alice", type: "audio", incoming: false, state: "dialling" });
  const prepared = call.prepare({ audio: true, video: false });
  expect(call.sends("audio")).toBe(true);
  void call.mute("audio");
  await prepared;
  expect(captured.map(({ enabled }) => enabled)).toEqual([false]);
});

test("another device takes the place of the one in use, muted if that was", async () => {
  const call = await talking("audio");
  const old = call.local.getTracks()[0] as unknown as FakeTrack;
  await call.mute("audio");
  await call.switchDevice("audio", "headset");
  expect(old.stopped).toBe(true);
  expect(call.local.getTracks()).toEqual([captured[0]]);
  expect(captured[0]).toMatchObject({ device: "headset", enabled: false });
  expect(peers[0]!.transceivers.map(({ sender }) => sender.track)).toEqual([captured[0]]);
});

test("where only one camera may be open the old one is closed first, and only then", async () => {
  const call = await talking("video");
  const old = call.local.getTracks()[0] as unknown as FakeTrack;
  failures = ["NotAllowedError"];
  await expect(call.switchDevice("video", "back")).rejects.toThrow("NotAllowedError");
  expect(old.stopped).toBe(false);
  open = old;
  await call.switchDevice("video", "back");
  expect(old.stopped).toBe(true);
  expect(call.local.getTracks()).toEqual([captured[0]]);
});

test("what fails is restarted, not more often than every four seconds, and for half a minute", async () => {
  const call = await talking("audio");
  const ended = vi.fn();
  call.on("ended", ended);
  const peer = peers[0]!;
  const answer = () => (peer.signalingState = "stable");
  peer.become("failed");
  expect([call.state, peer.restarts]).toEqual(["reconnecting", 1]);
  for (let n = 0; n < 10; n += 1) {
    peer.become("failed");
  }
  expect(peer.restarts).toBe(1);
  await turns(50);
  for (let n = 2; n < 4; n += 1) {
    await turns(3_900);
    answer();
    expect(peer.restarts).toBe(n - 1);
    await turns(100);
    expect(peer.restarts).toBe(n);
  }
  peer.become("connected");
  expect(call.state).toBe("connected");
  await turns(60_000);
  expect([peer.restarts, ended.mock.calls]).toEqual([3, []]);
  peer.become("disconnected");
  await turns(29_000);
  expect(ended).not.toHaveBeenCalled();
  await turns(1_500);
  expect(ended).toHaveBeenCalledWith({ reason: "ice_failed", by: "bob" });
  expect(asked.at(-1)).toEqual({ event: "call:end", payload: { callId: "c", reason: "ice_failed" } });
  expect(vi.getTimerCount()).toBe(0);
});

test("a connection that is broken but has not failed is restarted by one side, and then replaced", async () => {
  for (const [userId, restarts] of [["bob", 1], ["aaron", 0]] as const) {
    peers = [];
    const call = await calling(["audio"], "audio", { ...session, userId } as Session);
    await turns();
    call.take({ name: "call:accepted", payload: { callId: "c", by: "alice" } });
    call.take({ name: "call:answer", payload: { callId: "c", from: "alice", answer: { type: "answer", sdp: sdp("A1") } } });
    await turns(10);
    const peer = peers[0]!;
    peer.become("disconnected");
    await turns(2_900);
    expect(peer.restarts).toBe(0);
    await turns(200);
    expect([peer.restarts, peers.length]).toEqual([restarts, 1]);
    await turns(8_000);
    expect([peers.length, peer.signalingState]).toEqual(restarts > 0 ? [2, "closed"] : [1, "stable"]);
    peers.at(-1)!.become("connected");
    await turns(60_000);
    expect([peers.length, call.state]).toEqual([1 + restarts, "connected"]);
  }
});

test("when the server is in reach again a connection that broke, too, is restarted at once", async () => {
  const call = await talking("audio");
  call.back(true);
  expect(peers[0]!.restarts).toBe(0);
  peers[0]!.become("disconnected");
  call.back(true);
  expect(peers[0]!.restarts).toBe(1);
  peers[0]!.become("connected");
  call.back(false);
  await turns(10);
  expect(offers()).toBeGreaterThan(0);
});

test("what the server could not pass on is negotiated once more", async () => {
  const call = await talking("audio");
  const errors = vi.fn();
  call.on("error", errors);
  refuse = new SignallingError("unavailable", "later", true);
  void call.hold();
  peers[0]!.need();
  await turns(10);
  expect([offers(), errors.mock.calls.length]).toEqual([1, expect.any(Number)]);
  refuse = undefined;
  await turns(1_000);
  expect(offers()).toBe(2);
});

test("an incoming call that another device took leaves no camera on", async () => {
  const call = called();
  refuse = new SignallingError("call_not_found", "gone");
  await expect(call.accept()).rejects.toThrow("gone");
  expect(captured.map(({ stopped }) => stopped)).toEqual([true, true]);
  expect(peers).toEqual([]);
});

test.each([
  [["NotFoundError"], ["audio"]],
  [["NotFoundError", "NotFoundError"], ["video"]],
  [["NotFoundError", "NotFoundError", "NotFoundError"], []],
])("a call is taken with what there is of camera and microphone (%j)", async (missing, kinds) => {
  failures = missing;
  const call = called();
  await call.accept();
  expect(call.local.getTracks().map(({ kind }) => kind)).toEqual(kinds);
  expect(call.state).toBe("connecting");
});

test("who sends nothing receives all the same", async () => {
  await calling([], "video");
  expect(peers[0]!.transceivers.map(({ kind, direction }) => [kind, direction])).toEqual([
    ["audio", "recvonly"], ["video", "recvonly"],
  ]);
});

test("it rings for as long as the server says, by no clock that could be wrong", async () => {
  for (const [told, ms] of [
    [{ expiresInMs: 9_000, expiresAt: Date.now() - 600_000 }, 9_000], [{ expiresAt: Date.now() + 5_000 }, 5_000],
  ] as const) {
    for (const call of [called(), await calling(["audio"])]) {
      const ended = vi.fn();
      call.on("ended", ended);
      call.rings(told);
      vi.setSystemTime(Date.now() + 3600_000);
      await turns(ms - 1);
      expect(call.state).toBe("ringing");
      await turns(1);
      expect(ended).toHaveBeenCalledWith({ reason: "timeout", by: "server" });
      vi.setSystemTime(Date.now() - 3600_000 - ms);
    }
  }
});

test("told again, what is left of the ring is another; accepted, nothing is", async () => {
  const call = called();
  call.rings({ expiresInMs: 5_000 });
  call.take({ name: "call:incoming", payload: { callId: "c", from: "alice", callType: "video", expiresAt: 0, expiresInMs: 20_000 } as never });
  await turns(19_000);
  expect(call.state).toBe("ringing");
  await call.accept();
  await turns(10_000);
  expect(call.state).toBe("connecting");
});

test("an acceptance on its way outlives the ring where it can be answered, and not where it cannot", async () => {
  for (const [state, end] of [["joined", "connecting"], ["joining", "ended"]] as const) {
    let answer = (_: object) => {};
    const ask = () => new Promise((resolve) => (answer = resolve));
    const call = called("audio", { ...session, state, ask } as unknown as Session);
    call.rings({ expiresInMs: 1_000 });
    const accepted = call.accept();
    await turns(1_500);
    answer({});
    await accepted;
    expect(call.state).toBe(end);
    expect(captured.at(-1)!.stopped).toBe(end === "ended");
  }
  refuse = new SignallingError("call_not_found", "gone");
  const call = called();
  call.rings({ expiresInMs: 0 });
  await expect(call.accept()).rejects.toThrow("gone");
  expect(call.state).toBe("ended");
});

test("two clicks on accept are one acceptance", async () => {
  const call = called();
  await Promise.all([call.accept(), call.accept()]);
  expect(asked.map(({ event }) => event)).toEqual(["call:accept"]);
  expect([captured.length, peers.length]).toEqual([2, 1]);
});

test("a listener that throws keeps nobody from anything, and its error is reported", async () => {
  const call = await talking("audio");
  const reported = vi.fn();
  vi.stubGlobal("reportError", reported);
  const mistake = new Error("a mistake of the application");
  const others = vi.fn();
  call.on("state", () => { throw mistake; });
  call.on("ended", () => { throw mistake; });
  call.on("ended", others);
  await call.hangup();
  expect(asked).toEqual([{ event: "call:end", payload: { callId: "c" } }]);
  expect(peers[0]!.signalingState).toBe("closed");
  expect([reported.mock.calls, others.mock.calls.length]).toEqual([[[mistake], [mistake]], 1]);
});

test("listeners are removed again, and those that listen once hear one event", async () => {
  const call = await talking("audio");
  const [every, first, none] = [vi.fn(), vi.fn(), vi.fn()];
  call.on("state", every);
  call.once("state", first);
  call.on("state", none);
  call.off("state", none);
  peers[0]!.become("disconnected");
  peers[0]!.become("connected");
  expect([every, first, none].map(({ mock }) => mock.calls.length)).toEqual([2, 1, 0]);
});
