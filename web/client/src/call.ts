import type { Incoming } from "./contracts.js";
import { Emitter } from "./emitter.js";
import { SignallingError } from "./errors.js";
import { Hold } from "./hold.js";
import { captureInstead, captureWhatIsThere, type Kind, type Wanted } from "./media.js";
import { Negotiation, type Signal } from "./negotiation.js";
import { Recovery } from "./recovery.js";
import type { CallEvent, Session } from "./session.js";
import { summarize, type StatsSummary } from "./stats.js";

export type CallState = "ringing" | "connecting" | "connected" | "reconnecting" | "ended";

export interface CallEvents {
  state: CallState;
  /** The peer's stream has another track; it is always the same stream. */
  remote: MediaStream;
  /** One of the protocol's end reasons, or `rejected` with the word of who did. */
  ended: { reason: string; by: string };
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
}

const EARLY_MAX = 64;

/** One call, in the browser: its state, its media and its connection. */
export class Call extends Emitter<CallEvents> {
  readonly local: MediaStream;
  readonly remote = new MediaStream();
  #state: CallState = "ringing";
  #peer: RTCPeerConnection | undefined;
  #negotiation: Negotiation | undefined;
  #early: Signal[] = [];
  /** What is sent as soon as the call is accepted. */
  #kept: Signal[] = [];
  #received: Promise<void> = Promise.resolve();
  #mine = false;
  readonly #hold = new Hold();
  readonly #recovery: Recovery;

  /** @internal Use {@link SignallingClient}. `local` is there for a call that one has just made; `waits`: the first offer is the peer's. */
  constructor(
    private readonly session: Session,
    readonly id: string,
    readonly user: string,
    readonly type: Incoming["callType"],
    readonly incoming: boolean,
    readonly metadata: unknown,
    local?: MediaStream,
    waits = incoming,
  ) {
    super();
    this.#recovery = new Recovery(
      () => this.#peer?.connectionState,
      () => this.#negotiation?.again(),
      () => this.#replace(false),
      (reason) => void this.hangup(reason).catch((error: unknown) => this.emit("error", error)),
      session.userId > user,
    );
    this.local = local ?? new MediaStream();
    if (local !== undefined) {
      this.#connect(waits);
    }
  }

  get state(): CallState {
    return this.#state;
  }

  get onHold(): boolean {
    return this.#hold.on;
  }

  /** Take an incoming call, with what is there of the media wanted. Rejects if another device was faster. */
  async accept(wanted: Wanted = { audio: true, video: this.type === "video" }): Promise<void> {
    this.#mustBe("ringing");
    const media = await captureWhatIsThere(wanted);
    try {
      this.#mustBe("ringing");
      await this.session.ask("call:accept", { callId: this.id });
    } catch (error) {
      // Sent again after a break, it may have been done before.
      if (!this.#mine) {
        stop(media);
        throw error;
      }
    }
    media.getTracks().forEach((track) => this.local.addTrack(track));
    if (this.state === "ended") {
      return stop(this.local);
    }
    this.#connect();
    this.#accepted();
  }

  /** Decline an incoming call. */
  async reject(reason?: string): Promise<void> {
    this.#mustBe("ringing");
    await this.session.ask("call:reject", { callId: this.id, ...(reason !== undefined && { reason }) });
    this.finish("rejected", this.session.userId);
  }

  /** End the call. It is over here at once, whatever becomes of telling the server. */
  async hangup(reason?: string): Promise<void> {
    if (this.state !== "ended") {
      this.finish(reason ?? "hangup", this.session.userId);
      await this.session.ask("call:end", { callId: this.id, ...(reason !== undefined && { reason }) });
    }
  }

  mute(kind: Kind, muted = true): void {
    this.#tracks(kind).forEach((track) => (track.enabled = !muted));
  }

  /** Send video too, from now on. Rejects with what the browser says if there is no camera to be had. */
  async addVideo(deviceId?: string): Promise<void> {
    await this.switchDevice("video", deviceId);
  }

  /** Send from another microphone or camera; the first of its kind starts sending. */
  async switchDevice(kind: Kind, deviceId?: string): Promise<void> {
    const wanted = deviceId ?? true;
    const media = await captureInstead({ audio: kind === "audio" && wanted, video: kind === "video" && wanted }, this.#tracks(kind));
    const track = media.getTracks()[0];
    const peer = this.#peer;
    if (track === undefined || peer === undefined || this.state === "ended") {
      stop(media);
      throw new SignallingError("invalid_state", "There is no connection to send on");
    }
    const sender = peer.getSenders().find((one) => one.track?.kind === kind);
    if (sender === undefined) {
      const added = peer.addTrack(track, this.local);
      peer.getTransceivers().filter((one) => one.sender === added).forEach((one) => this.#hold.sends(one));
    } else {
      track.enabled = sender.track?.enabled ?? true;
      await sender.replaceTrack(track);
    }
    for (const old of this.#tracks(kind)) {
      old.stop();
      this.local.removeTrack(old);
    }
    this.local.addTrack(track);
  }

  /** Stop all media both ways, or let it flow again. */
  hold(on = true): void {
    if (on) {
      this.#hold.start(this.#peer?.getTransceivers());
    } else {
      this.#hold.end();
    }
  }

  async stats(): Promise<StatsSummary> {
    const report = await this.#peer?.getStats();
    return summarize((report ?? new Map()) as Iterable<[string, Record<string, unknown>]>);
  }

  /** @internal Take an event of this call. */
  take(event: CallEvent): void {
    switch (event.name) {
      case "call:accepted":
        this.#mine = true;
        return this.incoming ? undefined : this.#accepted();
      case "call:rejected":
        return this.finish(event.payload.reason ?? "rejected", event.payload.by);
      case "call:ended":
        return this.finish(event.payload.reason, event.payload.by);
      case "call:offer":
        return this.#receive({ description: event.payload.offer as RTCSessionDescriptionInit });
      case "call:answer":
        return this.#receive({ description: event.payload.answer as RTCSessionDescriptionInit });
      case "ice:candidate":
        return this.#receive({ candidates: event.payload.candidates ?? [event.payload.candidate ?? null] });
    }
  }

  /** @internal What another page needs to go on with this call; nothing if it is not one's own yet. */
  remember(): RememberedCall | undefined {
    const { id, user, type, incoming, metadata, onHold } = this;
    const accepted = this.state !== "ringing";
    if (this.state === "ended" || (incoming && !accepted)) {
      return undefined;
    }
    const kinds = (["audio", "video"] as const).filter((kind) => this.#tracks(kind).length > 0);
    const muted = kinds.filter((kind) => this.#tracks(kind).every((track) => !track.enabled));
    return { id, user, type, incoming, metadata, accepted, sends: kinds, muted, onHold };
  }

  /** @internal Go on with a call of before the page was reloaded: on a new connection, with the same media. */
  async restore({ accepted, sends, muted, onHold }: RememberedCall): Promise<void> {
    if (accepted) {
      this.#accepted();
    }
    const media = await captureWhatIsThere({ audio: sends.includes("audio"), video: sends.includes("video") });
    if (this.state === "ended") {
      return stop(media);
    }
    media.getTracks().forEach((track) => this.local.addTrack(track));
    muted.forEach((kind) => this.mute(kind));
    this.hold(onHold === true);
    this.#connect(false);
  }

  /** @internal The server is in reach again. Negotiate anew if something was missed, or if the media broke, too. */
  back(complete: boolean): void {
    if (!complete || ["disconnected", "failed"].includes(this.#peer?.connectionState ?? "")) {
      this.#negotiation?.again();
    }
  }

  /** @internal */
  setIceServers(iceServers: RTCIceServer[]): void {
    this.#peer?.setConfiguration({ ...this.#peer.getConfiguration(), iceServers });
  }

  /** @internal The call is over. */
  finish(reason: string, by: string): void {
    if (this.state !== "ended") {
      this.#recovery.stop();
      this.#negotiation?.stop();
      this.#peer?.close();
      stop(this.local);
      this.#become("ended");
      this.emit("ended", { reason, by });
    }
  }

  /** @internal Hand over what came for this call before it was known to be one's own (both called at once). */
  early(): Signal[] {
    return this.#early.splice(0);
  }

  /** @internal */
  receiveAll(signals: Signal[]): void {
    signals.forEach((signal) => this.#receive(signal));
  }

  /** `waits`: the first offer is the peer's. */
  #connect(waits = this.incoming): void {
    const peer = new RTCPeerConnection(this.session.rtc);
    this.#peer = peer;
    this.#negotiation = new Negotiation(
      peer,
      { polite: this.session.userId < this.user, waits },
      (signal) => this.#send(signal),
      (error) => this.emit("error", error),
      (offer) => this.#renew(offer),
    );
    peer.ontrack = ({ track, transceiver }) => {
      this.#hold.keep(transceiver);
      this.remote.addTrack(track);
      this.emit("remote", this.remote);
    };
    peer.onconnectionstatechange = () => this.#connection(peer.connectionState);
    this.local.getTracks().forEach((track) => peer.addTrack(track, this.local));
    if (!waits) {
      const kinds: Kind[] = this.type === "video" ? ["audio", "video"] : ["audio"];
      kinds
        .filter((kind) => this.#tracks(kind).length === 0)
        .forEach((kind) => peer.addTransceiver(kind, { direction: "recvonly" }));
    }
    this.#hold.again(peer.getTransceivers());
    this.receiveAll(this.early());
  }

  /** The peer has another connection than before, or offers one as this side does, and so there must be another. */
  async #renew(offer: Signal | undefined): Promise<void> {
    this.#replace(offer !== undefined);
    if (this.state !== "ringing") {
      this.#recovery.start("ice_failed");
      this.#lost();
    }
    if (offer !== undefined) {
      await this.#negotiation?.receive(offer);
    }
  }

  /** Another connection in the place of this one, with the same media. */
  #replace(waits: boolean): void {
    this.#negotiation?.stop();
    if (this.#peer !== undefined) {
      this.#peer.ontrack = this.#peer.onconnectionstatechange = null;
      this.#peer.close();
    }
    this.remote.getTracks().forEach((track) => this.remote.removeTrack(track));
    this.#connect(waits);
  }

  #lost(): void {
    if (this.state === "connected") {
      this.#become("reconnecting");
    }
  }

  #connection(state: RTCPeerConnectionState): void {
    if (state === "connected") {
      this.#recovery.connected();
      this.#become("connected");
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
    if (this.state === "ringing") {
      this.#recovery.start("ice_timeout");
      this.#become(this.#peer?.connectionState === "connected" ? "connected" : "connecting");
      this.#kept.splice(0).forEach((signal) => this.#send(signal));
    }
  }

  #receive(signal: Signal): void {
    if (this.#negotiation !== undefined) {
      // In order, also across a new connection.
      this.#received = this.#received.then(() => this.#negotiation?.receive(signal));
    } else if (this.#early.length < EARLY_MAX) {
      this.#early.push(signal);
    }
  }

  #send(signal: Signal): void {
    if (this.state === "ringing" && !this.session.early) {
      if (this.#kept.length < EARLY_MAX) {
        this.#kept.push(signal);
      }
      return;
    }
    const to = { from: this.session.userId, to: this.user, callId: this.id };
    const sent =
      "candidates" in signal
        ? this.session.ask("ice:candidate", { ...to, candidates: signal.candidates })
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

  #mustBe(state: CallState): void {
    if (!this.incoming || this.state !== state) {
      throw new SignallingError("invalid_state", `The call is ${this.state}`);
    }
  }

  #tracks(kind: Kind): MediaStreamTrack[] {
    return this.local.getTracks().filter((track) => track.kind === kind);
  }
}

function stop(media: MediaStream): void {
  media.getTracks().forEach((track) => track.stop());
}
