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
const directions = (peer: FakePeer) => peer.transceivers.map(({ direction }) => direction);

/** Bob has called alice, who has answered: he is the one who does not wait for her. */
async function talking(...kinds: string[]): Promise<Call> {
  const local = new FakeStream(kinds.map((kind) => new FakeTrack(kind)));
  const call = new Call(session, "c", "alice", "audio", false, undefined, local as unknown as MediaStream);
  await turns();
  call.take({ name: "call:accepted", payload: { callId: "c", by: "alice" } });
  call.take({ name: "call:answer", payload: { callId: "c", from: "alice", answer: { type: "answer", sdp: sdp("A1") } } });
  await turns(10);
  expect(call.state).toBe("connected");
  asked = [];
  return call;
}

const offers = () => asked.filter(({ event }) => event === "call:offer").length;

test("nothing is offered before the call is accepted, unless the app says so", async () => {
  for (const early of [false, true]) {
    peers = [];
    asked = [];
    const local = new FakeStream([new FakeTrack("audio")]) as unknown as MediaStream;
    const call = new Call({ ...session, early } as Session, "c", "alice", "audio", false, undefined, local);
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
  call.hold();
  call.hold();
  expect(call.onHold).toBe(true);
  expect(directions(peers[0]!)).toEqual(["inactive", "inactive"]);
  await call.addVideo();
  expect(directions(peers[0]!)).toEqual(["inactive", "inactive"]);
  call.hold(false);
  expect(call.onHold).toBe(false);
  expect(directions(peers[0]!)).toEqual(["sendrecv", "sendrecv"]);
});

test("a peer that comes back on another connection finds the call on hold as before", async () => {
  const call = await talking("audio");
  call.hold();
  call.take({ name: "call:offer", payload: { callId: "c", from: "alice", offer: { type: "offer", sdp: sdp("A2") } } });
  await turns(10);
  expect(peers).toHaveLength(2);
  peers[1]!.ontrack?.({ track: new FakeTrack("video"), transceiver: peers[1]!.addTransceiver("video", { direction: "recvonly" }) });
  expect(directions(peers[1]!)).toEqual(["inactive", "inactive"]);
  call.hold(false);
  expect(directions(peers[1]!)).toEqual(["sendrecv", "recvonly"]);
});

test("a reload remembers what was sent, what was muted, and the hold", async () => {
  const before = await talking("audio", "video");
  before.mute("video");
  before.hold();
  const remembered = before.remember()!;
  expect(remembered).toMatchObject({ sends: ["audio", "video"], muted: ["video"], onHold: true });
  const after = new Call(session, "c", "alice", "audio", false, undefined);
  await after.restore(remembered);
  expect(captured.map(({ kind, enabled }) => [kind, enabled])).toEqual([["audio", true], ["video", false]]);
  expect(directions(peers[1]!)).toEqual(["inactive", "inactive"]);
});

test("another device takes the place of the one in use, muted if that was", async () => {
  const call = await talking("audio");
  const old = call.local.getTracks()[0] as unknown as FakeTrack;
  call.mute("audio");
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
    const local = new FakeStream([new FakeTrack("audio")]) as unknown as MediaStream;
    const call = new Call({ ...session, userId } as Session, "c", "alice", "audio", false, undefined, local);
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
  call.hold();
  peers[0]!.need();
  await turns(10);
  expect([offers(), errors.mock.calls.length]).toEqual([1, expect.any(Number)]);
  refuse = undefined;
  await turns(1_000);
  expect(offers()).toBe(2);
});

test("an incoming call that another device took leaves no camera on", async () => {
  const call = new Call(session, "c", "alice", "video", true, undefined);
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
  const call = new Call(session, "c", "alice", "video", true, undefined);
  await call.accept();
  expect(call.local.getTracks().map(({ kind }) => kind)).toEqual(kinds);
  expect(call.state).toBe("connecting");
});

test("who sends nothing receives all the same", async () => {
  new Call(session, "c", "alice", "video", false, undefined, new FakeStream() as unknown as MediaStream);
  expect(peers[0]!.transceivers.map(({ kind, direction }) => [kind, direction])).toEqual([
    ["audio", "recvonly"], ["video", "recvonly"],
  ]);
});
