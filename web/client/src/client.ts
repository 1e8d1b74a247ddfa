import { Call, type RememberedCall } from "./call.js";
import type { CurrentCall, Initiate, Initiated, Resume, Status } from "./contracts.js";
import { Dialling } from "./dialling.js";
import { Emitter } from "./emitter.js";
import { SignallingError } from "./errors.js";
import type { Wanted } from "./media.js";
import { Orphans } from "./orphans.js";
import { Session, type CallEvent, type SessionOptions } from "./session.js";

/** `memory`: what {@link SignallingClient.memory} told before the page was reloaded. */
export type ClientOptions = Omit<SessionOptions, "resume"> & { memory?: Memory };

/** What a page needs to go on after a reload. Good for one client, once; it holds the session's secret. */
export interface Memory {
  session: Resume;
  calls: RememberedCall[];
}

export interface ClientEvents {
  incoming: Call;
  /**
   * A call that this user was in when the page before was lost, without `memory`. `call.rejoin()` goes on with it,
   * `call.hangup()` ends it. Where nobody listens to this, it is ended.
   */
  ongoing: Call;
  /** `kept: false`: the session of before is over, and its calls with it. */
  joined: { kept: boolean };
  /**
   * The connection broke, or could not be made: why. It is tried again until `leave()`. Calls go on for as long as
   * {@link SignallingClient.graceLeftMs} says.
   */
  disconnected: string;
  /** Over for good: refused, replaced by another connection, or left. `join()` begins anew. */
  closed: SignallingError;
}

export interface JoinOptions {
  /** Aborted before the client has joined, `join()` leaves and rejects. */
  signal?: AbortSignal;
}

export interface CallOptions {
  /** Aborted, the call is over: as with `hangup()`. */
  signal?: AbortSignal;
}

interface Joining {
  promise: Promise<void>;
  resolve: () => void;
  reject: (error: SignallingError) => void;
}

const EARLY_MAX = 128;

/** A user's way to call and be called. */
export class SignallingClient extends Emitter<ClientEvents> {
  readonly #session: Session;
  readonly #calls = new Map<string, Call>();
  /** Calls that are being dialled → settles when they are no longer. */
  readonly #dialling = new Map<Dialling, Promise<void>>();
  /** Events that came before the answer to the `call:initiate` that they belong to. */
  #early: CallEvent[] = [];
  /** Calls that ring → `seq` of what told of them. */
  readonly #rang = new Map<string, number>();
  readonly #orphans: Orphans;
  #joining: Joining | undefined;
  /** This client has joined before: it knows the calls of its session. */
  #knows = false;

  constructor({ memory, ...options }: ClientOptions) {
    super();
    const session = (this.#session = new Session({ ...options, ...(memory && { resume: memory.session }) }));
    this.#orphans = new Orphans((callId) => session.ask("call:end", { callId }));
    for (const { id, user, type, incoming, metadata, accepted } of memory?.calls ?? []) {
      const state = accepted ? "reconnecting" : "dialling";
      this.#keep(id, new Call(session, { id, user, type, incoming, metadata, state }));
    }
    session.on("joined", ({ kept, complete, call }) => {
      if (kept) {
        this.#calls.forEach((one) => one.back(complete));
      } else {
        this.#endAll();
      }
      for (const remembered of memory?.calls.splice(0) ?? []) {
        void this.#calls.get(remembered.id)?.restore(remembered);
      }
      [...this.#dialling.keys()].forEach((one) => one.joined(kept));
      this.#settle((joining) => joining.resolve());
      const fresh = !this.#knows;
      this.#knows = true;
      this.emit("joined", { kept });
      if (call !== undefined) {
        this.#goesOn(call, fresh);
      }
    });
    session.on("disconnected", (reason) => this.emit("disconnected", reason));
    session.on("closed", (error) => {
      this.#knows = false;
      this.#endAll();
      [...this.#dialling.keys()].forEach((one) => one.closed(error));
      this.#settle((joining) => joining.reject(error));
      this.emit("closed", error);
    });
    session.on("ice", (servers) => this.#calls.forEach((call) => call.setIceServers(servers)));
    session.on("call", (event) => this.#take(event));
  }

  /** Calls that are not over, also those that are being dialled. */
  get calls(): Call[] {
    const dialled = [...this.#dialling.keys()].map(({ call }) => call).filter(({ id, state }) => id === undefined && state !== "ended");
    return [...dialled, ...this.#calls.values()];
  }

  /** Whether the server is in reach, and knows this client. */
  get joined(): boolean {
    return this.#session.state === "joined";
  }

  /** While the server is out of reach: how many ms it keeps calls that are up. After that they are over. */
  get graceLeftMs(): number | undefined {
    return this.#session.graceLeftMs;
  }

  /** What the next page needs to go on if this one is reloaded now: for its `pagehide`. */
  memory(): Memory | undefined {
    const session = this.#session.resumable;
    // What rings is told again, with its early media.
    const since = [...this.#calls]
      .filter(([, { incoming, state }]) => incoming && state === "ringing")
      .map(([id]) => (this.#rang.get(id) ?? 0) - 1);
    return (
      session && {
        session: { ...session, lastSeq: Math.max(0, Math.min(session.lastSeq, ...since)) },
        calls: this.calls.flatMap((call) => call.remember() ?? []),
      }
    );
  }

  /**
   * Connect and join; after that the connection is kept. While the server is out of reach it is tried again, and
   * `disconnected` tells why. Rejects if the server refuses, or on `leave()`.
   */
  join({ signal }: JoinOptions = {}): Promise<void> {
    if (this.joined) {
      return Promise.resolve();
    }
    if (signal?.aborted === true) {
      return Promise.reject(new SignallingError("closed", "Joining was given up"));
    }
    const promise = (this.#joining ??= newJoining()).promise;
    const leave = () => this.leave();
    signal?.addEventListener("abort", leave, { once: true });
    const done = () => signal?.removeEventListener("abort", leave);
    promise.then(done, done);
    this.#session.open();
    return promise;
  }

  /** Leave; calls end. */
  leave(): void {
    this.#session.close();
  }

  /** Who is there now. Rejects while the server is out of reach. */
  status(userId: string): Promise<Status> {
    return this.#session.ask("user:status", { userId });
  }

  /**
   * Call somebody, with what is there of the media wanted. The call is `dialling` until the server has made it, and
   * waits if the server is out of reach. If it is refused it is `ended`, with the code as reason.
   */
  call(userId: string, wanted: Wanted, metadata?: unknown, { signal }: CallOptions = {}): Call {
    const type = wanted.video ? "video" : "audio";
    const call = new Call(this.#session, { user: userId, type, incoming: false, metadata, state: "dialling" });
    const initiate: Initiate = { to: userId, callType: type, ...(metadata !== undefined && { metadata }) };
    const dialling = new Dialling(this.#session, call, initiate, {
      placed: (initiated) => this.#placed(call, initiated),
      orphaned: (id) => this.#orphans.end(id),
      lost: () => this.#orphans.lost(),
      freed: () => this.#orphans.freed(),
    });
    // What was cancelled before it was answered is to be ended first: a user is in one call at most.
    const before = [...this.#dialling].filter(([one]) => one.call.state === "ended").map(([, done]) => done);
    const hangup = () => void call.hangup().catch(() => undefined);
    signal?.addEventListener("abort", hangup, { once: true });
    call.on("ended", () => signal?.removeEventListener("abort", hangup));
    const done = dialling.run(wanted, Promise.all(before), signal).then(() => this.#dialled(dialling));
    this.#dialling.set(dialling, done);
    return call;
  }

  #placed(call: Call, initiated: Initiated): void {
    const { callId } = initiated;
    const theirs = this.#calls.get(callId);
    // Both called at once and theirs was first: this is its acceptance, and the first offer is theirs.
    const second = theirs !== undefined || this.#early.some(
      ({ name, payload }) => name === "call:accepted" && payload.callId === callId && payload.by === this.#session.userId,
    );
    if (theirs !== undefined) {
      // One call came of both, and it is the one that the app has just made.
      call.receiveAll(theirs.early());
      theirs.finish("answered_elsewhere", this.#session.userId);
    }
    this.#orphans.revive(callId);
    this.#keep(callId, call);
    call.placed(callId, second);
    call.rings(initiated);
    if (theirs !== undefined) {
      call.take({ name: "call:accepted", payload: { callId, by: this.#session.userId } });
    }
    const early = this.#early.filter(({ payload }) => payload.callId === callId);
    this.#early = this.#early.filter(({ payload }) => payload.callId !== callId);
    early.forEach((event) => call.take(event));
  }

  /** What is left of events that came while it was dialled belongs to no call here. */
  #dialled(dialling: Dialling): void {
    this.#dialling.delete(dialling);
    if (this.#dialling.size === 0) {
      this.#early.splice(0).forEach((event) => this.#take(event));
    }
  }

  #take(event: CallEvent): void {
    const { callId } = event.payload;
    const known = this.#calls.get(callId);
    if (known !== undefined && event.name !== "call:initiated") {
      return known.take(event);
    }
    if (event.name === "call:initiated") {
      const { to } = event.payload;
      const taken = [...this.#dialling.keys()].some((one) => one.call.user === to && one.told(event.payload));
      return taken ? undefined : known === undefined ? this.#orphans.end(callId) : known.take(event);
    }
    if (event.name === "call:incoming") {
      return this.#rings(event.payload);
    }
    if (this.#dialling.size > 0) {
      if (this.#early.length < EARLY_MAX) {
        this.#early.push(event);
      }
    } else if (event.name === "call:accepted") {
      this.#orphans.end(callId);
    }
  }

  #rings(incoming: Extract<CallEvent, { name: "call:incoming" }>["payload"]): void {
    const { from, callId, callType, metadata } = incoming;
    if (this.#orphans.isOver(callId)) {
      return;
    }
    const call = new Call(this.#session, {
      id: callId, user: from, type: callType, incoming: true, metadata, state: "ringing",
    });
    this.#rang.set(callId, (incoming as { seq?: number }).seq ?? 0);
    this.#keep(callId, call);
    call.rings(incoming);
    this.emit("incoming", call);
  }

  /** The server says that this session has made or accepted a call: perhaps one that this page knows nothing of. */
  #goesOn({ callId, peer, callType, state }: CurrentCall, fresh: boolean): void {
    if (this.#calls.has(callId)) {
      return;
    }
    if ([...this.#dialling.keys()].some((one) => one.call.user === peer && one.adopt(callId))) {
      if (state === "accepted") {
        this.#calls.get(callId)?.take({ name: "call:accepted", payload: { callId, by: peer } });
      }
      return;
    }
    if (!fresh || this.#orphans.isOver(callId)) {
      return this.#orphans.end(callId);
    }
    const call = new Call(this.#session, {
      id: callId, user: peer, type: callType, incoming: false, state: state === "ringing" ? "dialling" : "reconnecting",
    });
    this.#keep(callId, call);
    if (this.listens("ongoing")) {
      this.emit("ongoing", call);
    } else {
      call.hangup().catch(() => undefined);
    }
  }

  #keep(id: string, call: Call): void {
    this.#calls.set(id, call);
    call.on("ended", () => {
      this.#rang.delete(id);
      if (this.#calls.get(id) === call) {
        this.#calls.delete(id);
        this.#orphans.over(id);
      }
    });
  }

  #endAll(): void {
    [...this.#calls.values()].forEach((call) => call.finish("connection_lost", this.#session.userId));
  }

  #settle(how: (joining: Joining) => void): void {
    const joining = this.#joining;
    this.#joining = undefined;
    if (joining !== undefined) {
      how(joining);
    }
  }
}

function newJoining(): Joining {
  let settle: Omit<Joining, "promise">;
  const promise = new Promise<void>((resolve, reject) => (settle = { resolve, reject }));
  return { promise, ...settle! };
}
