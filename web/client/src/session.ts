import { io, type Socket } from "socket.io-client";
import type {
  Accepted, ClientToServer, Ended, ErrorEvent, IceServers, Initiated, Joined, Refreshed, Resume, ServerToClient, Status,
} from "./contracts.js";
import { Emitter } from "./emitter.js";
import { SignallingError } from "./errors.js";
import { refreshDelay } from "./ice.js";
import { tokenDelay } from "./token.js";

/** How to get to the server, and as whom. */
export interface SessionOptions {
  url: string;
  userId: string;
  /** Asked for a token each time the client connects, and before the one it gave runs out. */
  token?: () => string | Promise<string>;
  deviceId?: string;
  /** For the connections of calls: `iceTransportPolicy: "relay"` hides people's addresses from each other, for one. */
  rtc?: Omit<RTCConfiguration, "iceServers">;
  /**
   * Offer the connection while it still rings, which saves a round trip after the answer. Only where every client of the
   * other side waits for its user: one that answers an offer as it comes has accepted the call by that, camera and all.
   */
  early?: boolean;
  /** The session to go on with, as {@link Session.resumable} told it. */
  resume?: Resume;
  /** For tests. */
  connect?: (url: string) => Socket;
}

/** What the acknowledgement of each event says. */
export interface Answers {
  "call:initiate": Initiated;
  "call:accept": Pick<Accepted, "callId">;
  "call:reject": Pick<Ended, "callId">;
  "call:end": Pick<Ended, "callId">;
  "call:offer": object;
  "call:answer": object;
  "ice:candidate": object;
  "user:status": Status;
  "ice:servers": IceServers;
  "user:refresh": Refreshed;
}

/** An event of a call, as the server sent it. */
export type CallEvent = {
  [Name in (typeof CALL_EVENTS)[number]]: { name: Name; payload: ServerToClient[Name] };
}[(typeof CALL_EVENTS)[number]];

export interface SessionEvents {
  /** `kept`: the session of before goes on; `complete`: and nothing was missed. */
  joined: { kept: boolean; complete: boolean };
  disconnected: string;
  /** For good: refused, or taken over by another socket. */
  closed: SignallingError;
  ice: RTCIceServer[];
  call: CallEvent;
}

export const CALL_EVENTS = [
  "call:incoming", "call:accepted", "call:rejected", "call:ended", "call:offer", "call:answer", "ice:candidate",
] as const;

type Answer = ({ ok: true } & object) | { ok: false; error: Omit<ErrorEvent, "event"> };

interface Pending {
  event: keyof Answers;
  payload: object;
  resend: boolean;
  resolve: (answer: never) => void;
  reject: (error: SignallingError) => void;
  timer: ReturnType<typeof setTimeout>;
}

const ANSWER_MS = 10_000;
const ASK_MS = 60_000;
const JOIN_AGAIN_MS = 1_000;
const PENDING_MAX = 512;

/**
 * A session with the server that outlives its sockets: it joins, resumes after each break with what was missed,
 * and sends again, in order, what was not acknowledged.
 */
export class Session extends Emitter<SessionEvents> {
  iceServers: RTCIceServer[] = [];
  #socket: Socket;
  #pending: Pending[] = [];
  #lastSeq = 0;
  #resume: { sessionId: string; token: string } | undefined;
  #joined = false;
  #closed = false;
  #joinTimer: ReturnType<typeof setTimeout> | undefined;
  #iceTimer: ReturnType<typeof setTimeout> | undefined;
  #tokenTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly options: SessionOptions) {
    super();
    this.#resume = options.resume;
    this.#lastSeq = options.resume?.lastSeq ?? 0;
    const connect = options.connect ?? ((url: string) => io(url, { autoConnect: false, forceNew: true }));
    this.#socket = connect(options.url);
    if (options.token !== undefined) {
      this.#socket.auth = (give) => void this.#token().then((token) => token !== undefined && give({ token }));
    }
    this.#socket.on("connect", () => void this.#join());
    this.#socket.on("disconnect", (reason) => this.#lost(reason));
    this.#socket.on("session:replaced", () =>
      this.#close(new SignallingError("closed", "This session was taken over by another connection")),
    );
    for (const name of CALL_EVENTS) {
      this.#socket.on(name, (payload: { seq?: number }) => {
        this.#saw(payload.seq);
        this.emit("call", { name, payload } as unknown as CallEvent);
      });
    }
    this.#socket.on("call:initiated", (payload: { seq?: number }) => this.#saw(payload.seq));
  }

  get userId(): string {
    return this.options.userId;
  }

  /** What a connection to a peer is made with now. */
  get rtc(): RTCConfiguration {
    return { ...this.options.rtc, iceServers: this.iceServers };
  }

  get early(): boolean {
    return this.options.early ?? false;
  }

  /** With what another page may go on with this session; nothing before the first join. */
  get resumable(): Resume | undefined {
    return this.#resume && { ...this.#resume, lastSeq: this.#lastSeq };
  }

  /** Connect and go on doing so; the events tell how it went. */
  open(): void {
    this.#socket.connect();
  }

  /** Leave for good, at once. */
  close(): void {
    this.#close(new SignallingError("closed", "The session was closed"));
  }

  /**
   * Send an event; the answer is its acknowledgement. Waits through a break of the connection, one minute at most.
   * `resend: false`: what was sent when the connection broke is rejected with `disconnected`.
   */
  ask<Name extends keyof Answers & keyof ClientToServer>(
    event: Name,
    payload: ClientToServer[Name],
    { resend = true } = {},
  ): Promise<Answers[Name]> {
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        return reject(new SignallingError("closed", "The session was closed"));
      }
      if (this.#pending.length >= PENDING_MAX) {
        return reject(new SignallingError("queue_full", "Too much waits for the server", true));
      }
      const timer = setTimeout(
        () => this.#settle(pending, new SignallingError("timeout", `No answer to ${event}`, true)),
        ASK_MS,
      );
      const pending: Pending = { event, payload, resend, resolve, reject, timer };
      this.#pending.push(pending);
      if (this.#joined) {
        this.#send(pending);
      }
    });
  }

  #send(pending: Pending): void {
    this.#socket
      .timeout(ANSWER_MS)
      .emit(pending.event, pending.payload, (failed: Error | null, answer?: Answer) => {
        if (answer !== undefined) {
          this.#settle(pending, answer.ok ? undefined : refusal(answer.error), answer);
        } else if (failed !== null && this.#socket.connected) {
          this.#settle(pending, new SignallingError("timeout", `No answer to ${pending.event}`, true));
        } else if (!pending.resend) {
          this.#settle(pending, new SignallingError("disconnected", "The connection broke", true));
        }
      });
  }

  #settle(pending: Pending, error: SignallingError | undefined, answer?: object): void {
    clearTimeout(pending.timer);
    this.#pending = this.#pending.filter((other) => other !== pending);
    if (error === undefined) {
      pending.resolve(answer as never);
    } else {
      pending.reject(error);
    }
  }

  /** A fresh token; without one the session is over. */
  async #token(): Promise<string | undefined> {
    try {
      return await this.options.token?.();
    } catch {
      this.#close(new SignallingError("unauthorized", "No token was to be had"));
      return undefined;
    }
  }

  /** `again`: the token that the connection showed may have run out meanwhile. */
  async #join(again = false): Promise<void> {
    const id = this.#socket.id;
    const token = again ? await this.#token() : undefined;
    if (this.#closed || !this.#socket.connected || this.#socket.id !== id) {
      return;
    }
    const join: ClientToServer["user:join"] = {
      userId: this.options.userId,
      ...(token !== undefined && { token }),
      ...(this.options.deviceId !== undefined && { deviceId: this.options.deviceId }),
      ...(this.#resume !== undefined && { resume: { ...this.#resume, lastSeq: this.#lastSeq } }),
    };
    this.#socket.timeout(ANSWER_MS).emit("user:join", join, (failed: Error | null, answer?: Answer) => {
      if (answer?.ok === true) {
        this.#start(answer as unknown as Joined & { seq?: number });
      } else if (answer?.ok === false && !answer.error.retryable) {
        this.#close(refusal(answer.error));
      } else if (this.#socket.connected && failed === null) {
        this.#joinTimer = setTimeout(() => void this.#join(true), retryAfter(answer));
      } else if (this.#socket.connected) {
        this.#socket.disconnect().connect();
      }
    });
  }

  #start(joined: Joined & { seq?: number }): void {
    const before = this.#resume?.sessionId;
    const kept = before === joined.sessionId;
    if (before !== undefined && !kept) {
      this.#lastSeq = 0;
      this.#dropAll(new SignallingError("disconnected", "The session is over"));
    }
    this.#resume = { sessionId: joined.sessionId, token: joined.resume.token };
    this.#saw(joined.seq);
    this.#joined = true;
    this.#takeIce(joined.iceServers, joined.iceExpiresAt);
    this.#refreshTokenIn(joined.tokenSeconds);
    for (const pending of [...this.#pending]) {
      this.#send(pending);
    }
    this.emit("joined", { kept: kept || before === undefined, complete: before === undefined || joined.resumed });
  }

  #takeIce(servers: object[], expiresAt: number | null | undefined): void {
    clearTimeout(this.#iceTimer);
    this.iceServers = servers as RTCIceServer[];
    this.emit("ice", this.iceServers);
    if (expiresAt != null) {
      this.#iceTimer = setTimeout(() => this.#refreshIce(expiresAt), refreshDelay(expiresAt, Date.now()));
    }
  }

  #refreshIce(expiresAt: number): void {
    this.ask("ice:servers", {}).then(
      (ice) => this.#takeIce(ice.iceServers, ice.expiresAt),
      () => !this.#closed && this.#takeIce(this.iceServers, expiresAt),
    );
  }

  #refreshTokenIn(seconds: number | null | undefined): void {
    clearTimeout(this.#tokenTimer);
    if (seconds != null && this.options.token !== undefined) {
      const until = Date.now() + seconds * 1000;
      this.#tokenTimer = setTimeout(() => void this.#refreshToken(until), tokenDelay(until, Date.now()));
    }
  }

  /** Prolong the session with a fresh token; if none is to be had, try again for as long as the old one holds. */
  async #refreshToken(until: number): Promise<void> {
    let seconds: number | null | undefined = (until - Date.now()) / 1000;
    try {
      const token = (await this.options.token?.()) ?? "";
      if (!this.#joined) {
        return; // the next join shows a token of its own
      }
      seconds = (await this.ask("user:refresh", { token }, { resend: false })).tokenSeconds;
    } catch {
      seconds = (until - Date.now()) / 1000;
    }
    if (this.#joined && (seconds == null || seconds > 0)) {
      this.#refreshTokenIn(seconds);
    }
  }

  #saw(seq: number | undefined): void {
    this.#lastSeq = Math.max(this.#lastSeq, seq ?? 0);
  }

  #lost(reason: string): void {
    this.#joined = false;
    clearTimeout(this.#joinTimer);
    clearTimeout(this.#tokenTimer);
    if (!this.#closed) {
      this.emit("disconnected", reason);
      if (reason === "io server disconnect") {
        this.#joinTimer = setTimeout(() => this.#closed || this.#socket.connect(), JOIN_AGAIN_MS);
      }
    }
  }

  #dropAll(error: SignallingError): void {
    for (const pending of [...this.#pending]) {
      this.#settle(pending, error);
    }
  }

  #close(error: SignallingError): void {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#joined = false;
    clearTimeout(this.#joinTimer);
    clearTimeout(this.#iceTimer);
    clearTimeout(this.#tokenTimer);
    this.#socket.disconnect();
    this.#dropAll(error);
    this.emit("closed", error);
  }
}

function refusal(error: Omit<ErrorEvent, "event">): SignallingError {
  const code = error.code as SignallingError["code"];
  return new SignallingError(code, error.message, error.retryable, error.retryAfterMs ?? undefined);
}

function retryAfter(answer: Answer | undefined): number {
  return (answer?.ok === false ? answer.error.retryAfterMs : undefined) ?? JOIN_AGAIN_MS;
}
