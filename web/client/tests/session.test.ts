import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Socket } from "socket.io-client";
import { SignallingError } from "../src/errors.js";
import { Session } from "../src/session.js";
import { FakeSocket, joined, refused } from "./fake_socket.js";

let socket: FakeSocket;
let session: Session;

beforeEach(() => {
  vi.useFakeTimers();
  socket = new FakeSocket();
  session = new Session({ url: "", userId: "alice", token: () => "jwt", connect: () => socket as unknown as Socket });
});

afterEach(() => void vi.useRealTimers());

async function join(values: object = {}) {
  await vi.advanceTimersByTimeAsync(0);
  const { payload, ack } = socket.take("user:join");
  ack(null, joined(values));
  return payload;
}

test("it resumes after the last seq, with the token of the last join", async () => {
  session.open();
  expect(await join()).toEqual({ userId: "alice", token: "jwt" });
  socket.say("call:incoming", { callId: "c", seq: 77 });
  socket.lose();
  socket.connect();
  const told = vi.fn();
  session.on("joined", told);
  expect(await join({ resumed: true })).toMatchObject({ resume: { sessionId: "s", token: "t1", lastSeq: 77 } });
  expect(told).toHaveBeenCalledWith({ kept: true, complete: true, call: undefined });
});

test("what was not acknowledged is sent again, in order, and not before the join", async () => {
  session.open();
  await join();
  const answers = ["a", "b"].map((callId) => session.ask("call:end", { callId }));
  socket.lose();
  answers.push(session.ask("call:end", { callId: "c" }));
  socket.connect();
  await vi.advanceTimersByTimeAsync(0);
  expect(socket.events).toEqual(["user:join"]);
  await join({ resumed: true });
  expect(socket.sent.map(({ payload }) => payload.callId)).toEqual(["a", "b", "c"]);
  socket.sent.splice(0).forEach(({ ack, payload }) => ack(null, { ok: true, callId: payload.callId }));
  expect(await Promise.all(answers)).toMatchObject([{ callId: "a" }, { callId: "b" }, { callId: "c" }]);
});

const gone = { code: "disconnected", retryable: true };

test("what goes stale is never queued, and never sent again", async () => {
  session.open();
  await join();
  const lost = [
    session.ask("user:status", { userId: "b" }), session.ask("call:initiate", { to: "bob", callType: "audio" }),
    session.ask("ice:servers", {}), session.ask("user:refresh", { token: "t" }),
  ];
  socket.lose();
  for (const asked of [...lost, session.ask("user:status", { userId: "b" })]) {
    await expect(asked).rejects.toMatchObject(gone);
  }
  socket.connect();
  await join({ resumed: true });
  expect(socket.events).toEqual([]);
});

test("nothing more is sent of a call that is over, but that it is", async () => {
  session.open();
  await join();
  socket.lose();
  const to = { from: "alice", to: "bob", callId: "c" };
  const dropped = [
    session.ask("call:accept", { callId: "c" }), session.ask("call:offer", { ...to, offer: {} }),
    session.ask("ice:candidate", { ...to, candidates: [null] }),
  ].map((asked) => expect(asked).rejects.toMatchObject({ code: "invalid_state" }));
  void session.ask("ice:candidate", { ...to, callId: "another", candidates: [null] });
  session.forget("c");
  void session.ask("call:end", { callId: "c" });
  await Promise.all(dropped);
  socket.connect();
  await join({ resumed: true });
  expect(socket.sent.map(({ event, payload }) => [event, payload.callId])).toEqual([
    ["ice:candidate", "another"], ["call:end", "c"],
  ]);
});

test("what cannot be sent is refused at once, and nothing else waits for it", async () => {
  session.open();
  await join();
  vi.spyOn(socket, "timeout").mockReturnValueOnce({ emit: () => { throw new TypeError("a circle"); } });
  await expect(session.ask("call:end", { callId: "c" })).rejects.toMatchObject({ code: "bad_request" });
  socket.lose();
  socket.connect();
  await join({ resumed: true });
  expect(socket.events).toEqual([]);
});

test("a refusal is an error with its code", async () => {
  session.open();
  await join();
  const asked = session.ask("call:end", { callId: "c" });
  socket.take("call:end").ack(null, { ok: false, error: { code: "call_not_found", message: "gone", retryable: false } });
  await expect(asked).rejects.toThrow(new SignallingError("call_not_found", "gone"));
});

test("another session: what waited is rejected", async () => {
  session.open();
  await join();
  const asked = session.ask("call:end", { callId: "c" });
  const failed = expect(asked).rejects.toMatchObject({ code: "disconnected" });
  const told = vi.fn();
  session.on("joined", told);
  socket.lose();
  socket.connect();
  await join({ sessionId: "other" });
  await failed;
  expect(told).toHaveBeenCalledWith({ kept: false, complete: false, call: undefined });
  expect(socket.sent).toEqual([]);
});

test("a join that may work later is tried again; one that is refused ends it", async () => {
  session.open();
  await vi.advanceTimersByTimeAsync(0);
  socket.take("user:join").ack(null, { ok: false, error: { code: "unavailable", message: "", retryable: true } });
  await vi.advanceTimersByTimeAsync(1000);
  const closed = vi.fn();
  session.on("closed", closed);
  expect(socket.sent[0]?.payload).toEqual({ userId: "alice", token: "jwt" }); // a fresh one: the first may be old by now
  socket.take("user:join").ack(null, { ok: false, error: { code: "unauthorized", message: "", retryable: false } });
  expect(closed.mock.calls[0]?.[0]).toMatchObject({ code: "unauthorized" });
  expect(socket.connected).toBe(false);
  await expect(session.ask("user:status", { userId: "b" })).rejects.toMatchObject({ code: "closed" });
});

test("a server that never answers is given up after a minute", async () => {
  session.open();
  const asked = expect(session.ask("call:end", { callId: "c" })).rejects.toMatchObject({ code: "timeout" });
  await vi.advanceTimersByTimeAsync(60_000);
  await asked;
});

test("ICE servers are renewed before they expire", async () => {
  session.open();
  await join({ iceServers: [{ urls: "turn:a" }], iceExpiresAt: Date.now() + 100_000 });
  expect(session.iceServers).toEqual([{ urls: "turn:a" }]);
  await vi.advanceTimersByTimeAsync(79_000);
  expect(socket.sent).toEqual([]);
  await vi.advanceTimersByTimeAsync(2_000);
  const { ack } = socket.take("ice:servers");
  ack(null, { ok: true, iceServers: [{ urls: "turn:b" }], expiresAt: Date.now() + 100_000 });
  await vi.advanceTimersByTimeAsync(0);
  expect(session.iceServers).toEqual([{ urls: "turn:b" }]);
});

const provided = (token: () => string | Promise<string>) =>
  (session = new Session({ url: "", userId: "alice", token, connect: () => socket as unknown as Socket }));

test("each connection shows a token of its own", async () => {
  const tokens = ["one", "two"];
  provided(() => tokens.shift()!).open();
  expect(await join()).toMatchObject({ token: "one" });
  socket.lose();
  socket.connect();
  expect(await join()).toMatchObject({ token: "two" });
});

test.each([
  ["the application has none", (n: number) => (n < 2 ? Promise.reject(new Error("offline")) : "good")],
  ["the application throws", (n: number) => { if (n < 2) throw new Error("no"); return "good"; }],
  ["it has run out", (n: number) => (n < 2 ? "old" : "good")],
])("on a reconnect a token is asked for again: %s", async (_, token) => {
  let asked = -2;
  const closed = vi.fn();
  provided(() => token(++asked < 0 ? 2 : asked)).open();
  session.on("closed", closed);
  await join();
  socket.lose();
  asked = -1;
  socket.connect();
  for (let tries = 0; tries < 100 && session.state !== "joined"; tries += 1) {
    await vi.advanceTimersByTimeAsync(100);
    for (const { payload, ack } of socket.sent.splice(0)) {
      expect(payload).toMatchObject({ resume: { sessionId: "s" } });
      ack(null, payload.token === "good" ? joined({ resumed: true }) : refused("token_expired"));
    }
  }
  expect([session.state, asked, closed.mock.calls]).toEqual(["joined", 2, []]);
});

test("a token that is not to be had is given up with the session", async () => {
  let have = true;
  provided(() => { if (!have) throw new Error("no"); return "good"; }).open();
  const closed = vi.fn();
  session.on("closed", closed);
  await join();
  have = false;
  socket.lose();
  socket.connect();
  await vi.advanceTimersByTimeAsync(24_000);
  expect(closed).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(7_000);
  expect(closed.mock.calls[0]?.[0]).toMatchObject({ code: "unauthorized" });
  expect([socket.connected, socket.events, vi.getTimerCount()]).toEqual([false, [], 0]);
});

test("at the first join one that has run out is asked for again, but not the same for ever", async () => {
  let count = 0;
  provided(() => `token ${++count}`).open();
  await vi.advanceTimersByTimeAsync(0);
  socket.take("user:join").ack(null, refused("token_expired"));
  await vi.advanceTimersByTimeAsync(1_000);
  expect(socket.take("user:join").payload).toMatchObject({ token: "token 2" });
  const closed = vi.fn();
  provided(() => "always this").on("closed", closed);
  socket.lose();
  session.open();
  for (let n = 0; n < 2; n += 1) {
    await vi.advanceTimersByTimeAsync(1_000);
    socket.take("user:join").ack(null, refused("token_expired"));
  }
  expect(closed.mock.calls[0]?.[0]).toMatchObject({ code: "token_expired" });
});

test("a token that comes too late for its connection is not shown on the next", async () => {
  const given: ((token: string) => void)[] = [];
  provided(() => new Promise((resolve) => given.push(resolve))).open();
  socket.lose();
  socket.connect();
  given[0]!("late");
  await vi.advanceTimersByTimeAsync(0);
  expect(socket.events).toEqual([]);
  given[1]!("in time");
  expect(await join()).toMatchObject({ token: "in time" });
});

test("a server that is down, or refuses the connection, is tried again, and it is said", async () => {
  const told = vi.fn();
  session.on("disconnected", told);
  socket.reachable = false;
  session.open();
  socket.say("connect_error", new Error("xhr poll error"));
  expect(told).toHaveBeenLastCalledWith("xhr poll error");
  expect(session.state).toBe("joining");
  await vi.advanceTimersByTimeAsync(60_000);
  expect(socket.asked).toBe(1); // the library does that
  socket.active = false; // but not this
  socket.say("connect_error", new Error("too many"));
  socket.reachable = true;
  await vi.advanceTimersByTimeAsync(1_000);
  await join();
  expect([session.state, socket.asked]).toEqual(["joined", 2]);
});

test("a join that is not answered breaks the connection, and does not leave", async () => {
  session.open();
  await join();
  socket.lose();
  socket.connect();
  await vi.advanceTimersByTimeAsync(0);
  const broken = vi.fn(() => socket.lose("forced close"));
  socket.io = { engine: { close: broken } };
  const left = vi.spyOn(socket, "disconnect");
  socket.take("user:join").ack(new Error("timeout"));
  expect([broken.mock.calls.length, left.mock.calls.length]).toEqual([1, 0]);
});

test("while it is out of reach it knows how long the server keeps it", async () => {
  session.open();
  await join();
  expect(session.graceLeftMs).toBeUndefined();
  socket.lose();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(session.graceLeftMs).toBe(20_000);
  await vi.advanceTimersByTimeAsync(30_000);
  expect(session.graceLeftMs).toBe(0);
  socket.connect();
  await join({ resumed: true });
  expect(session.graceLeftMs).toBeUndefined();
});

test("what was closed can be opened again, as another session", async () => {
  session.open();
  await join();
  session.close();
  session.close();
  await expect(session.ask("call:end", { callId: "c" })).rejects.toMatchObject({ code: "closed" });
  session.open();
  session.open();
  expect(await join({ sessionId: "t" })).toEqual({ userId: "alice", token: "jwt" });
  void session.ask("call:end", { callId: "c" }).catch(() => undefined);
  expect(socket.events).toEqual(["call:end"]);
});

test("a token is refreshed before it runs out, again and again", async () => {
  let count = 0;
  provided(() => `token ${++count}`).open();
  await join({ tokenSeconds: 100 });
  for (const token of ["token 2", "token 3"]) {
    await vi.advanceTimersByTimeAsync(79_000);
    expect(socket.sent).toEqual([]);
    await vi.advanceTimersByTimeAsync(2_000);
    const { payload, ack } = socket.take("user:refresh");
    expect(payload).toEqual({ token });
    ack(null, { ok: true, tokenSeconds: 100 });
    await vi.advanceTimersByTimeAsync(0);
  }
});

test("a token that cannot be refreshed is tried again while it holds, and no longer", async () => {
  const token = vi.fn().mockResolvedValueOnce("one").mockRejectedValueOnce(new Error("offline")).mockResolvedValue("two");
  provided(token).open();
  await join({ tokenSeconds: 100 });
  await vi.advanceTimersByTimeAsync(81_000);
  expect(socket.sent).toEqual([]); // the app had none
  await vi.advanceTimersByTimeAsync(17_000);
  const refusal = { ok: false, error: { code: "unauthorized", message: "", retryable: false } };
  socket.take("user:refresh").ack(null, refusal);
  let tries = 1;
  for (let ms = 0; ms < 60_000; ms += 500) {
    await vi.advanceTimersByTimeAsync(500);
    for (const { ack } of socket.sent.splice(0)) {
      tries += 1;
      ack(null, refusal);
    }
  }
  expect(tries).toBeGreaterThan(1);
  expect(tries).toBeLessThan(12);
  expect(vi.getTimerCount()).toBe(0);
});

test("without a need for tokens nothing is refreshed, and after a break nothing of before", async () => {
  session.open();
  await join();
  await vi.advanceTimersByTimeAsync(3600_000);
  expect(socket.sent).toEqual([]);
  socket.lose();
  socket.connect();
  await join({ tokenSeconds: 100 });
  socket.lose();
  await vi.advanceTimersByTimeAsync(200_000);
  expect(socket.sent).toEqual([]);
});

test("a session taken over by another connection stays closed", async () => {
  session.open();
  await join();
  const closed = vi.fn();
  session.on("closed", closed);
  socket.say("session:replaced", { sessionId: "s" });
  expect(closed).toHaveBeenCalledOnce();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(socket.connected).toBe(false);
});

test("another page goes on with the session, and is told whether it could", async () => {
  session.open();
  await join();
  socket.say("call:incoming", { callId: "c", seq: 77 });
  const resume = session.resumable!;
  expect(resume).toEqual({ sessionId: "s", token: "t1", lastSeq: 77 });
  for (const sessionId of ["s", "another"]) {
    socket = new FakeSocket();
    session = new Session({ url: "", userId: "alice", resume, connect: () => socket as unknown as Socket });
    const told = vi.fn();
    session.on("joined", told);
    session.open();
    expect(await join({ sessionId, resumed: sessionId === "s" })).toMatchObject({ resume });
    expect(told).toHaveBeenCalledWith({ kept: sessionId === "s", complete: sessionId === "s", call: undefined });
  }
});
