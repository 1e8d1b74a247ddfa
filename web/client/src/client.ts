import { Call, type RememberedCall } from "./call.js";
import type { Resume, Status } from "./contracts.js";
import { Emitter } from "./emitter.js";
import { SignallingError } from "./errors.js";
import { captureWhatIsThere, type Wanted } from "./media.js";
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
  /** `kept: false`: the session of before is over, and its calls with it. */
  joined: { kept: boolean };
  /** The connection broke; it is being made again, and calls go on. */
  disconnected: string;
  /** Over for good: refused, replaced by another connection, or left. */
  closed: SignallingError;
}

const JOIN_MS = 20_000;
const EARLY_MAX = 128;

/** A user's way to call and be called. */
export class SignallingClient extends Emitter<ClientEvents> {
  readonly #session: Session;
  readonly #calls = new Map<string, Call>();
  /** Events that came before the answer to the `call:initiate` that they belong to. */
  #early: CallEvent[] = [];
  #calling = 0;
  /** Calls that ring → `seq` of what told of them. */
  readonly #rang = new Map<string, number>();

  constructor({ memory, ...options }: ClientOptions) {
    super();
    const session = (this.#session = new Session({ ...options, ...(memory && { resume: memory.session }) }));
    for (const { id, user, type, incoming, metadata } of memory?.calls ?? []) {
      this.#keep(new Call(session, id, user, type, incoming, metadata));
    }
    session.on("joined", ({ kept, complete }) => {
      if (!kept) {
        this.#endAll();
      } else {
        this.#calls.forEach((call) => call.back(complete));
      }
      for (const remembered of memory?.calls.splice(0) ?? []) {
        void this.#calls.get(remembered.id)?.restore(remembered);
      }
      this.emit("joined", { kept });
    });
    session.on("disconnected", (reason) => this.emit("disconnected", reason));
    session.on("closed", (error) => {
      this.#endAll();
      this.emit("closed", error);
    });
    session.on("ice", (servers) => this.#calls.forEach((call) => call.setIceServers(servers)));
    session.on("call", (event) => this.#take(event));
  }

  get calls(): Call[] {
    return [...this.#calls.values()];
  }

  /** What the next page needs to go on if this one is reloaded now: for its `pagehide`. */
  memory(): Memory | undefined {
    const session = this.#session.resumable;
    const ringing = this.calls.filter(({ incoming, state }) => incoming && state === "ringing");
    // What rings is told again, with its early media.
    const since = ringing.map(({ id }) => (this.#rang.get(id) ?? 0) - 1);
    return (
      session && {
        session: { ...session, lastSeq: Math.max(0, Math.min(session.lastSeq, ...since)) },
        calls: this.calls.flatMap((call) => call.remember() ?? []),
      }
    );
  }

  /** Connect and join; after that the connection is kept. Rejects if refused, or after 20 s, and closes. */
  join(): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#session.close(), JOIN_MS);
      const settled = [
        this.#session.on("joined", () => settle(resolve)),
        this.#session.on("closed", (error) => settle(() => reject(error))),
      ];
      function settle(then: () => void): void {
        clearTimeout(timer);
        settled.forEach((off) => off());
        then();
      }
      this.#session.open();
    });
  }

  /** Leave; calls end. */
  leave(): void {
    this.#session.close();
  }

  status(userId: string): Promise<Status> {
    return this.#session.ask("user:status", { userId });
  }

  /** Call somebody, with what is there of the media wanted. Rejects with what the server says. */
  async call(userId: string, wanted: Wanted, metadata?: unknown): Promise<Call> {
    const callType = wanted.video ? "video" : "audio";
    const local = await captureWhatIsThere(wanted);
    this.#calling += 1;
    try {
      const initiate = { to: userId, callType, ...(metadata !== undefined && { metadata }) } as const;
      const { callId } = await this.#session.ask("call:initiate", initiate, { resend: false });
      const theirs = this.#calls.get(callId);
      // Both called at once and theirs was first: this is its acceptance, and the first offer is theirs.
      const second = theirs !== undefined || this.#early.some(
        ({ name, payload }) => name === "call:accepted" && payload.callId === callId && payload.by === this.#session.userId,
      );
      const call = new Call(this.#session, callId, userId, callType, false, metadata, local, second);
      this.#keep(call);
      if (theirs !== undefined) {
        // Both called at once: one call came of it, and it is the one that the app has just made.
        call.receiveAll(theirs.early());
        theirs.finish("answered_elsewhere", this.#session.userId);
        call.take({ name: "call:accepted", payload: { callId, by: this.#session.userId } });
      }
      this.#early.filter(({ payload }) => payload.callId === callId).forEach((event) => call.take(event));
      return call;
    } catch (error) {
      local.getTracks().forEach((track) => track.stop());
      throw error;
    } finally {
      this.#calling -= 1;
      if (this.#calling === 0) {
        this.#early = [];
      }
    }
  }

  #take(event: CallEvent): void {
    const known = this.#calls.get(event.payload.callId);
    if (event.name !== "call:incoming") {
      if (known === undefined && this.#calling > 0 && this.#early.length < EARLY_MAX) {
        this.#early.push(event);
      }
      return known?.take(event);
    }
    if (known === undefined) {
      const { from, callId, callType, metadata } = event.payload;
      const call = new Call(this.#session, callId, from, callType, true, metadata);
      this.#rang.set(callId, (event.payload as { seq?: number }).seq ?? 0);
      this.#keep(call);
      this.emit("incoming", call);
    }
  }

  #keep(call: Call): void {
    this.#calls.set(call.id, call);
    call.on("ended", () => {
      this.#rang.delete(call.id);
      if (this.#calls.get(call.id) === call) {
        this.#calls.delete(call.id);
      }
    });
  }

  #endAll(): void {
    this.calls.forEach((call) => call.finish("connection_lost", this.#session.userId));
  }
}
