import { Connection } from "./connection.js";
import type { Incoming } from "./contracts.js";
import { Emitter } from "./emitter.js";
import { SignallingError } from "./errors.js";
import type { Kind, Wanted } from "./media.js";
import type { Signal } from "./negotiation.js";
import { Recovery } from "./recovery.js";
import { Ring } from "./ring.js";
import { Sending } from "./sending.js";
import type { CallEvent, Session } from "./session.js";
import { summarize, type StatsSummary } from "./stats.js";

/** `dialling`: the server does not know of the call yet. */
export type CallState = "dialling" | "ringing" | "connecting" | "connected" | "reconnecting" | "ended";

export interface CallEvents {
  state: CallState;
  /** The peer's stream has another track; it is always the same stream. */
  remote: MediaStream;
  /**
   * One of the protocol's end reasons, or `rejected` with the word of who did. For a call that could not be made it is
   * the code of the refusal, and `error` is there.
   */
  ended: { reason: string; by: string; error?: unknown };
  /** What went wrong without ending the call. */
  error: unknown;
}

/** What another page needs to go on with a call after a reload. */
export interface RememberedCall {
  id: string;
  user: string;
  type: Incoming["callType"];
  incoming: boolean;
  metadata?: unknown;
  accepted: boolean;
  sends: Kind[];
  muted: Kind[];
  onHold: boolean;
  /** When it stops ringing, ms since the epoch by this machine's clock. */
  ringsUntil?: number;
}

/** @internal What a call is from its beginning. `state`: `reconnecting` for one of another page that had been accepted. */
export interface CallOrigin {
  id?: string;
  user: string;
  type: Incoming["callType"];
  incoming: boolean;
  metadata?: unknown;
  state: "dialling" | "ringing" | "reconnecting";
}

const KEPT_MAX = 64;
/** By whom a call ends that nobody answers. */
const SERVER = "server";

/** One call, in the browser: its state, its media and its connection. */
export class Call extends Emitter<CallEvents> {
  readonly user: string;
  readonly type: Incoming["callType"];
  readonly incoming: boolean;
  readonly metadata: unknown;
  readonly #sending = new Sending();
  readonly #connection: Connection;
  readonly #recovery: Recovery;
  readonly #ring: Ring;
  #id: string | undefined;
  #state: CallState;
  /** What is sent as soon as the call is accepted. */
  #kept: Signal[] = [];
  /** The server has told this side that it is in the call. */
  #mine = false;
  #accepting: Promise<void> | undefined;

  /** @internal Use {@link SignallingClient}. */
  constructor(
    private readonly session: Session,
    { id, user, type, incoming, metadata, state }: CallOrigin,
  ) {
    super();
    this.#id = id;
    this.user = user;
    this.type = type;
    this.incoming = incoming;
    this.metadata = metadata;
    this.#state = state;
    this.#connection = new Connection({
      configuration: () => session.rtc,
      sending: this.#sending,
      polite: session.userId < user,
      kinds: type === "video" ? ["audio", "video"] : ["audio"],
      send: (signal) => this.#send(signal),
      failed: (error) => this.emit("error", error),
      changed: (now) => this.#changed(now),
      remote: (stream) => this.emit("remote", stream),
      replaced: () => this.#replaced(),
    });
    this.#recovery = new Recovery(
      () => this.#connection.state,
      () => this.#connection.again(),
      () => this.#connection.replace(false),
      (reason) => void this.hangup(reason).catch((error: unknown) => this.emit("error", error)),
      session.userId > user,
    );
    this.#ring = new Ring(() => this.#rangOut());
  }

  /** What the server calls it; not known while it is being dialled. */
  get id(): string | undefined {
    return this.#id;
  }

  get state(): CallState {
    return this.#state;
  }

  /** What this side sends; it is always the same stream. */
  get local(): MediaStream {
    return this.#sending.stream;
  }

  get remote(): MediaStream {
    return this.#connection.remote;
  }

  get onHold(): boolean {
    return this.#sending.held;
  }

  /** Whether this side sends sound or a picture, or will as soon as it can: what a button is to show. */
  sends(kind: Kind): boolean {
    return this.#sending.sends(kind);
  }

  /** Whether it is off because of {@link mute}. */
  muted(kind: Kind): boolean {
    return this.#sending.muted(kind);
  }

  /** Take an incoming call, with what is there of the media wanted. Rejects if another device was faster. */
  accept(wanted: Wanted = this.#usual): Promise<void> {
    this.#accepting ??= this.#accept(wanted).finally(() => (this.#accepting = undefined));
    return this.#accepting;
  }

  /** Decline an incoming call. It is over here at once. */
  async reject(reason?: string): Promise<void> {
    this.#mustRing();
    this.finish("rejected", this.session.userId);
    await this.session.ask("call:reject", { callId: this.#id!, ...(reason !== undefined && { reason }) });
  }

  /** End the call. It is over here at once, whatever becomes of telling the server. */
  async hangup(reason?: string): Promise<void> {
    if (this.state !== "ended") {
      const unanswered = !this.incoming && (this.state === "dialling" || this.state === "ringing");
      this.finish(reason ?? (unanswered ? "cancelled" : "hangup"), this.session.userId);
      if (this.#id !== undefined) {
        await this.session.ask("call:end", { callId: this.#id, ...(reason !== undefined && { reason }) });
      }
    }
  }

  /** Go on with a call of before, which the client's `ongoing` event told of: on a new connection. */
  async rejoin(wanted: Wanted = this.#usual): Promise<void> {
    await this.#resume(wanted, this.state !== "dialling");
  }

  /**
   * Send no sound, or no picture, or send it again. The camera is closed meanwhile. Rejects with what the browser says
   * if it cannot be opened again.
   */
  async mute(kind: Kind, muted = true): Promise<void> {
    await this.#sending.mute(kind, muted);
  }

  /** Send video too, from now on. Rejects with what the browser says if there is no camera to be had. */
  async addVideo(deviceId?: string): Promise<void> {
    await this.switchDevice("video", deviceId);
  }

  /** Send from another microphone or camera; the first of its kind starts sending. */
  async switchDevice(kind: Kind, deviceId?: string): Promise<void> {
    if (this.state === "ended" || (this.incoming && this.state === "ringing" && this.#accepting === undefined)) {
      throw new SignallingError("invalid_state", "There is no connection to send on");
    }
    await this.#sending.use(kind, deviceId);
  }

  /**
   * Stop all media both ways, and close camera and microphone; or let it flow again. Rejects with what the browser says
   * if one of them cannot be opened again.
   */
  async hold(on = true): Promise<void> {
    await this.#sending.hold(on);
  }

  async stats(): Promise<StatsSummary> {
    const report = await this.#connection.stats();
    return summarize((report ?? new Map()) as Iterable<[string, Record<string, unknown>]>);
  }

  /** @internal Open what is wanted of a call that is being dialled. */
  async prepare(wanted: Wanted): Promise<void> {
    this.#sending.want(wanted);
    await this.#sending.open();
  }

  /** @internal The server has made the call that was dialled. `waits`: the first offer is the peer's. */
  placed(id: string, waits: boolean): void {
    this.#id = id;
    this.#become("ringing");
    this.#connection.open(waits);
  }

  /** @internal For how long it rings from now on. `expiresInMs` counts, as this machine's clock may be wrong. */
  rings({ expiresInMs, expiresAt }: Partial<Pick<Incoming, "expiresInMs" | "expiresAt">>): void {
    if (this.state === "ringing") {
      this.#ring.in(expiresInMs ?? (expiresAt === undefined ? undefined : expiresAt - Date.now()));
    }
  }

  /** @internal Take an event of this call. */
  take(event: CallEvent): void {
    switch (event.name) {
      case "call:initiated":
      case "call:incoming":
        return this.rings(event.payload); // told again: the time left is another
      case "call:accepted":
        this.#mine = true;
        return this.incoming ? undefined : this.#accepted();
      case "call:rejected":
        return this.finish(event.payload.reason ?? "rejected", event.payload.by);
      case "call:ended":
        return this.finish(event.payload.reason, event.payload.by);
      case "call:offer":
        return this.#connection.receive({ description: event.payload.offer as RTCSessionDescriptionInit });
      case "call:answer":
        return this.#connection.receive({ description: event.payload.answer as RTCSessionDescriptionInit });
      case "ice:candidate":
        return this.#connection.receive({ candidates: event.payload.candidates ?? [event.payload.candidate ?? null] });
    }
  }

  /** @internal What another page needs to go on with this call; nothing if it is not one's own yet. */
  remember(): RememberedCall | undefined {
    const { user, type, incoming, metadata, onHold } = this;
    const id = this.#id;
    const accepted = this.state !== "ringing";
    if (id === undefined || this.state === "ended" || (incoming && !accepted)) {
      return undefined;
    }
    const sends = this.#sending.kinds;
    const muted = sends.filter((kind) => this.#sending.muted(kind));
    const left = this.#ring.left;
    return {
      id, user, type, incoming, metadata, accepted, sends, muted, onHold,
      ...(left !== undefined && { ringsUntil: Date.now() + left }),
    };
  }

  /** @internal Go on with a call of before the page was reloaded: on a new connection, with the same media. */
  async restore({ accepted, sends, muted, onHold, ringsUntil }: RememberedCall): Promise<void> {
    muted.forEach((kind) => void this.#sending.mute(kind, true));
    void this.#sending.hold(onHold === true);
    const resumed = this.#resume({ audio: sends.includes("audio"), video: sends.includes("video") }, accepted);
    if (ringsUntil !== undefined) {
      this.rings({ expiresAt: ringsUntil });
    }
    await resumed;
  }

  /** @internal The server is in reach again. Negotiate anew if something was missed, or if the media broke, too. */
  back(complete: boolean): void {
    if (!complete || ["disconnected", "failed"].includes(this.#connection.state ?? "")) {
      this.#connection.again();
    }
  }

  /** @internal */
  setIceServers(iceServers: RTCIceServer[]): void {
    this.#connection.setIceServers(iceServers);
  }

  /** @internal The call is over. */
  finish(reason: string, by: string, error?: unknown): void {
    if (this.state !== "ended") {
      this.#ring.stop();
      this.#recovery.stop();
      this.#connection.close();
      this.#sending.close();
      if (this.#id !== undefined) {
        this.session.forget(this.#id);
      }
      this.#become("ended");
      this.emit("ended", { reason, by, ...(error !== undefined && { error }) });
    }
  }

  /** @internal Hand over what came for this call before it was known to be one's own (both called at once). */
  early(): Signal[] {
    return this.#connection.takeEarly();
  }

  /** @internal */
  receiveAll(signals: Signal[]): void {
    signals.forEach((signal) => this.#connection.receive(signal));
  }

  get #usual(): Wanted {
    return { audio: true, video: this.type === "video" };
  }

  async #accept(wanted: Wanted): Promise<void> {
    this.#mustRing();
    await this.prepare(wanted);
    try {
      this.#mustRing();
      await this.session.ask("call:accept", { callId: this.#id! });
    } catch (error) {
      // Sent again after a break, it may have been done before.
      if (!this.#mine) {
        this.#sending.shut();
        if (this.#ring.over) {
          this.finish("timeout", SERVER);
        }
        throw error;
      }
    }
    if (this.state !== "ended") {
      this.#connection.open(true);
      this.#accepted();
    }
  }

  async #resume(wanted: Wanted, accepted: boolean): Promise<void> {
    this.#sending.want(wanted);
    if (accepted) {
      this.#accepted();
    } else {
      this.#become("ringing");
    }
    await this.#sending.open();
    if (this.state !== "ended") {
      this.#connection.open(false);
    }
  }

  /** It rang for as long as it may. An acceptance that is on its way decides, as long as it can be answered. */
  #rangOut(): void {
    const answered = this.#mine || (this.#accepting !== undefined && this.session.state === "joined");
    if (this.state === "ringing" && !answered) {
      this.finish("timeout", SERVER);
    }
  }

  #replaced(): void {
    if (this.state !== "ringing") {
      this.#recovery.start("ice_failed");
      this.#lost();
    }
  }

  #lost(): void {
    if (this.state === "connected") {
      this.#become("reconnecting");
    }
  }

  #changed(state: RTCPeerConnectionState): void {
    if (state === "connected") {
      this.#recovery.connected();
      // With early media there may be a connection before the call is accepted.
      if (this.state !== "ringing") {
        this.#become("connected");
      }
    } else if (state === "disconnected") {
      this.#recovery.broken();
      this.#lost();
    } else if (state === "failed") {
      if (this.state === "connected") {
        this.#recovery.broken();
        this.#lost();
      }
      this.#recovery.failed();
    }
  }

  #accepted(): void {
    if (this.state === "ringing" || this.state === "dialling" || this.state === "reconnecting") {
      this.#ring.stop();
      this.#recovery.start("ice_timeout");
      this.#become(this.#connection.state === "connected" ? "connected" : "connecting");
      this.#kept.splice(0).forEach((signal) => this.#send(signal));
    }
  }

  #send(signal: Signal): void {
    if (this.state === "ended") {
      return;
    }
    if (this.state === "ringing" && !this.session.early) {
      if (this.#kept.length < KEPT_MAX) {
        this.#kept.push(signal);
      }
      return;
    }
    const to = { from: this.session.userId, to: this.user, callId: this.#id! };
    // Candidates one by one, without their end: clients of the old server read `candidate`, an object, and nothing else.
    const sent: Promise<unknown> =
      "candidates" in signal
        ? Promise.all(
            signal.candidates
              .filter((candidate) => candidate !== null)
              .map((candidate) => this.session.ask("ice:candidate", { ...to, candidate })),
          )
        : signal.description.type === "offer"
          ? this.session.ask("call:offer", { ...to, offer: signal.description, callType: this.type })
          : this.session.ask("call:answer", { ...to, answer: signal.description });
    sent.catch((error: unknown) => {
      if (this.state === "ended") {
        return;
      }
      this.emit("error", error);
      if (error instanceof SignallingError && error.retryable) {
        this.#recovery.soon();
      }
    });
  }

  #become(state: CallState): void {
    if (this.#state !== state && this.#state !== "ended") {
      this.#state = state;
      this.emit("state", state);
    }
  }

  #mustRing(): void {
    if (!this.incoming || this.state !== "ringing") {
      throw new SignallingError("invalid_state", `The call is ${this.state}`);
    }
  }
}
