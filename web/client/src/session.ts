import { io, type Socket } from "socket.io-client";
import type {
  Accepted, ClientToServer, CurrentCall, Ended, IceServers, Initiated, Joined, Refreshed, Resume, ServerToClient, Status,
} from "./contracts.js";
import { Credentials } from "./credentials.js";
import { Emitter } from "./emitter.js";
import { SignallingError } from "./errors.js";
import { refreshDelay } from "./ice.js";
import { refusal, Requests, type Answer } from "./requests.js";

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
  joined: { kept: boolean; complete: boolean; call: CurrentCall | undefined };
  /** The connection broke, or could not be made; it is tried again. */
  disconnected: string;
  /** For good: refused, or taken over by another socket. */
  closed: SignallingError;
  ice: RTCIceServer[];
  call: CallEvent;
}

export const CALL_EVENTS = [
  "call:initiated", "call:incoming", "call:accepted", "call:rejected", "call:ended",
  "call:offer", "call:answer", "ice:candidate",
] as const;

type JoinAnswer = Joined & { seq?: number };

const ANSWER_MS = 10_000;
const JOIN_AGAIN_MS = 1_000;
/** How long a session is kept for its client where the server has not said it yet. */
const WINDOW_MS = 30_000;

/**
 * A session with the server that outlives its sockets: it joins, resumes after each break with what was missed,
 * and sends again, in order, what was not acknowledged.
 */
export class Session extends Emitter<SessionEvents> {
  iceServers: RTCIceServer[] = [];
  readonly #socket: Socket;
  readonly #requests: Requests;
  readonly #credentials: Credentials;
  #lastSeq = 0;
  #resume: { sessionId: string; token: string } | undefined;
  /** How long the server keeps the session after a break, and when the connection broke. */
  #window: number | undefined;
  #lostAt: number | undefined;
  #state: "closed" | "joining" | "joined" = "closed";
  /** Counts connections, for what was begun on one that is gone. */
  #connection = 0;
  #joinTimer: ReturnType<typeof setTimeout> | undefined;
  #iceTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly options: SessionOptions) {
    super();
    this.#resume = options.resume;
    this.#lastSeq = options.resume?.lastSeq ?? 0;
    this.#credentials = new Credentials(options.token, async (token) => {
      const { tokenSeconds } = await this.ask("user:refresh", { token });
      return tokenSeconds;
    });
    const connect = options.connect ?? ((url: string) => io(url, { autoConnect: false, forceNew: true }));
    const socket = (this.#socket = connect(options.url));
    this.#requests = new Requests(
      (event, payload, done) => void socket.timeout(ANSWER_MS).emit(event, payload, done),
      () => socket.connected,
    );
    socket.on("connect", () => void this.#join());
    socket.on("disconnect", (reason) => this.#lost(reason, reason === "io server disconnect"));
    // What the server refuses in the handshake is not tried again by the library.
    socket.on("connect_error", (error) => this.#lost(error.message, socket.active === false));
    socket.on("session:replaced", () =>
      this.#close(new SignallingError("closed", "This session was taken over by another connection")),
    );
    for (const name of CALL_EVENTS) {
      socket.on(name, (payload: { seq?: number }) => {
        this.#saw(payload.seq);
        this.emit("call", { name, payload } as unknown as CallEvent);
      });
    }
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

  get state(): "closed" | "joining" | "joined" {
    return this.#state;
  }

  /** With what another page may go on with this session; nothing before the first join. */
  get resumable(): Resume | undefined {
    return this.#resume && { ...this.#resume, lastSeq: this.#lastSeq };
  }

  /** How many ms the server will still keep the session while it is out of reach; `undefined` while it is in reach. */
  get graceLeftMs(): number | undefined {
    return this.#lostAt === undefined || this.#window === undefined
      ? undefined
      : Math.max(0, this.#lostAt + this.#window - performance.now());
  }

  /** Connect and go on doing so; the events tell how it went. A session that was closed begins anew. */
  open(): void {
    if (this.#state === "closed") {
      this.#state = "joining";
      this.#socket.connect();
    }
  }

  /** Leave for good, at once. */
  close(): void {
    this.#close(new SignallingError("closed", "The session was closed"));
  }

  /** Send an event; the answer is its acknowledgement. It waits through a break, but for what goes stale. */
  async ask<Name extends keyof Answers & keyof ClientToServer>(
    event: Name,
    payload: ClientToServer[Name],
  ): Promise<Answers[Name]> {
    if (this.#state === "closed") {
      throw new SignallingError("closed", "The session was closed");
    }
    return (await this.#requests.ask(event, payload)) as Answers[Name];
  }

  /** Drop what was not acknowledged yet of a call that is over, but for what ends it. */
  forget(callId: string): void {
    this.#requests.forget(callId);
  }

  async #join(): Promise<void> {
    const connection = ++this.#connection;
    let token: string | undefined;
    try {
      token = await this.#credentials.get();
    } catch {
      return this.#withoutToken(connection, new SignallingError("unauthorized", "No token was to be had"));
    }
    if (connection !== this.#connection || !this.#socket.connected) {
      return;
    }
    const join: ClientToServer["user:join"] = {
      userId: this.options.userId,
      ...(token !== undefined && { token }),
      ...(this.options.deviceId !== undefined && { deviceId: this.options.deviceId }),
      ...(this.#resume !== undefined && { resume: { ...this.#resume, lastSeq: this.#lastSeq } }),
    };
    this.#socket.timeout(ANSWER_MS).emit("user:join", join, (failed: Error | null, answer?: Answer) => {
      if (connection !== this.#connection) {
        return;
      }
      if (answer?.ok === true) {
        this.#start(answer as unknown as JoinAnswer);
      } else if (answer?.ok === false && answer.error.code === "token_expired") {
        this.#withoutToken(connection, refusal(answer.error), token);
      } else if (answer?.ok === false && !answer.error.retryable) {
        this.#close(refusal(answer.error));
      } else if (this.#socket.connected && failed === null) {
        this.#joinIn(connection, retryAfter(answer));
      } else if (this.#socket.connected) {
        this.#break();
      }
    });
  }

  /** Ask for a token again as long as the session may be resumed; then it is over. */
  #withoutToken(connection: number, error: SignallingError, token?: string): void {
    if (connection !== this.#connection || this.#state === "closed") {
      return;
    }
    const delay = this.#credentials.again(this.#resume && (this.#window ?? WINDOW_MS), token);
    if (delay === undefined) {
      this.#close(error);
    } else {
      this.#joinIn(connection, delay);
    }
  }

  #joinIn(connection: number, ms: number): void {
    clearTimeout(this.#joinTimer);
    this.#joinTimer = setTimeout(() => connection === this.#connection && void this.#join(), ms);
  }

  /** Give up a connection that answers nothing. To disconnect would be to leave, and end calls. */
  #break(): void {
    const engine = (this.#socket.io as Socket["io"] | undefined)?.engine;
    if (engine === undefined) {
      this.#socket.disconnect().connect();
    } else {
      engine.close();
    }
  }

  #start(joined: JoinAnswer): void {
    const before = this.#resume?.sessionId;
    const kept = before === joined.sessionId;
    if (before !== undefined && !kept) {
      this.#lastSeq = 0;
      this.#requests.dropAll(new SignallingError("disconnected", "The session is over"));
    }
    this.#resume = { sessionId: joined.sessionId, token: joined.resume.token };
    this.#window = joined.resume.windowSeconds * 1000;
    this.#lostAt = undefined;
    this.#saw(joined.seq);
    this.#state = "joined";
    this.#takeIce(joined.iceServers, joined.iceExpiresAt);
    this.#credentials.good(joined.tokenSeconds);
    this.#requests.flow();
    this.emit("joined", {
      kept: kept || before === undefined,
      complete: before === undefined || joined.resumed,
      call: joined.call ?? undefined,
    });
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
      // While it is out of reach there is nothing to do: the next join brings others.
      () => this.#state === "joined" && this.#takeIce(this.iceServers, expiresAt),
    );
  }

  #saw(seq: number | undefined): void {
    this.#lastSeq = Math.max(this.#lastSeq, seq ?? 0);
  }

  /** `idle`: the library does not connect again by itself. */
  #lost(reason: string, idle: boolean): void {
    this.#connection += 1;
    this.#requests.stop();
    clearTimeout(this.#joinTimer);
    this.#credentials.stop();
    if (this.#state === "closed") {
      return;
    }
    this.#state = "joining";
    this.#lostAt ??= performance.now();
    if (idle) {
      this.#joinTimer = setTimeout(() => this.#state !== "closed" && this.#socket.connect(), JOIN_AGAIN_MS);
    }
    this.emit("disconnected", reason);
  }

  #close(error: SignallingError): void {
    if (this.#state === "closed") {
      return;
    }
    this.#state = "closed";
    this.#connection += 1;
    this.#resume = this.#lostAt = this.#window = undefined;
    this.#lastSeq = 0;
    clearTimeout(this.#joinTimer);
    clearTimeout(this.#iceTimer);
    this.#credentials.stop();
    this.#requests.stop();
    this.#socket.disconnect();
    this.#requests.dropAll(error);
    this.emit("closed", error);
  }
}

function retryAfter(answer: Answer | undefined): number {
  return (answer?.ok === false ? answer.error.retryAfterMs : undefined) ?? JOIN_AGAIN_MS;
}
