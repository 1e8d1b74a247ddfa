import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Socket } from "socket.io-client";
import { SignallingError } from "../src/errors.js";
import { Session } from "../src/session.js";

type Ack = (failed: Error | null, answer?: object) => void;

/** A socket whose server is the test. */
class FakeSocket {
  id: string | undefined;
  connected = false;
  auth: ((give: (data: object) => void) => void) | undefined;
  shown: object | undefined;
  sent: { event: string; payload: Record<string, unknown>; ack: Ack }[] = [];
  #handlers = new Map<string, (payload: unknown) => void>();
  #connections = 0;

  on(event: string, handler: (payload: unknown) => void) {
    this.#handlers.set(event, handler);
  }
  timeout() {
    return { emit: (event: string, payload: Record<string, unknown>, ack: Ack) => this.sent.push({ event, payload, ack }) };
  }
  connect() {
    if (this.auth === undefined) {
      this.#open();
    } else {
      this.auth((shown) => ((this.shown = shown), this.#open()));
    }
    return this;
  }
  #open() {
    this.connected = true;
    this.#connections += 1;
    this.id = `socket ${this.#connections}`;
    this.say("connect");
  }
  disconnect() {
    this.lose("io client disconnect");
    return this;
  }
  lose(reason = "transport close") {
    this.connected = false;
    this.say("disconnect", reason);
    this.sent.splice(0).forEach(({ ack }) => ack(new Error("disconnected")));
  }
  say(event: string, payload: unknown = {}) {
    this.#handlers.get(event)?.(payload);
  }
  take(event: string) {
    const found = this.sent.find((one) => one.event === event);
    if (found === undefined) {
      throw new Error(`${event} was not sent, but ${this.sent.map((one) => one.event).join()}`);
    }
    this.sent.splice(this.sent.indexOf(found), 1);
    return found;
  }
}

let socket: FakeSocket;
let session: Session;

beforeEach(() => {
  vi.useFakeTimers();
  socket = new FakeSocket();
  session = new Session({ url: "", userId: "alice", token: () => "jwt", connect: () => socket as unknown as Socket });
});

afterEach(() => void vi.useRealTimers());

const joined = (values: object = {}) => ({
  ok: true, userId: "alice", sessionId: "s", resume: { token: "t1", windowSeconds: 30 }, iceServers: [],
  resumed: false, seq: 5, ...values,
});

async function join(values: object = {}) {
  await vi.advanceTimersByTimeAsync(0);
  const { payload, ack } = socket.take("user:join");
  ack(null, joined(values));
  return payload;
}

test("it resumes after the last seq, with the token of the last join", async () => {
  session.open();
  expect(await join()).toEqual({ userId: "alice" });
  expect(socket.shown).toEqual({ token: "jwt" });
  socket.say("call:incoming", { callId: "c", seq: 77 });
  socket.lose();
  socket.connect();
  const told = vi.fn();
  session.on("joined", told);
  expect(await join({ resumed: true })).toMatchObject({ resume: { sessionId: "s", token: "t1", lastSeq: 77 } });
  expect(told).toHaveBeenCalledWith({ kept: true, complete: true });
});

test("what was not acknowledged is sent again, in order, and not before the join", async () => {
  session.open();
  await join();
  const answers = ["a", "b"].map((userId) => session.ask("user:status", { userId }));
  socket.lose();
  answers.push(session.ask("user:status", { userId: "c" }));
  socket.connect();
  await vi.advanceTimersByTimeAsync(0);
  expect(socket.sent.map(({ event }) => event)).toEqual(["user:join"]);
  await join({ resumed: true });
  expect(socket.sent.map(({ payload }) => payload.userId)).toEqual(["a", "b", "c"]);
  socket.sent.splice(0).forEach(({ ack, payload }) => ack(null, { ok: true, userId: payload.userId }));
  expect(await Promise.all(answers)).toMatchObject([{ userId: "a" }, { userId: "b" }, { userId: "c" }]);
});

test("what must not be done twice is rejected when the connection breaks", async () => {
  session.open();
  await join();
  const asked = session.ask("call:initiate", { to: "bob", callType: "audio" }, { resend: false });
  socket.lose();
  await expect(asked).rejects.toMatchObject({ code: "disconnected", retryable: true });
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
  expect(told).toHaveBeenCalledWith({ kept: false, complete: false });
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
  const asked = expect(session.ask("user:status", { userId: "b" })).rejects.toMatchObject({ code: "timeout" });
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

test("each connection shows a token of its own, and none is connected without", async () => {
  const tokens = ["one", "two"];
  provided(() => tokens.shift() ?? Promise.reject(new Error("no more"))).open();
  await join();
  expect(socket.shown).toEqual({ token: "one" });
  socket.lose();
  socket.connect();
  await join();
  expect(socket.shown).toEqual({ token: "two" });
  const closed = vi.fn();
  session.on("closed", closed);
  socket.lose();
  socket.connect();
  await vi.advanceTimersByTimeAsync(0);
  expect(closed.mock.calls[0]?.[0]).toMatchObject({ code: "unauthorized" });
  expect(socket.connected).toBe(false);
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
    expect(told).toHaveBeenCalledWith({ kept: sessionId === "s", complete: sessionId === "s" });
  }
});
