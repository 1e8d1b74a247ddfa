import { CandidateBatch, CandidateQueue, type Candidate } from "./candidates.js";

/** What peers send each other in a call. */
export type Signal =
  | { description: Description }
  | { candidates: Candidate[] };

/** `peer`: the fingerprint of the receiver's connection that it is for; absent as long as that is not known. */
export type Description = RTCSessionDescriptionInit & { peer?: string };

/**
 * Perfect negotiation over one connection: either side may offer at any time, and of two offers at once
 * the impolite side's holds. Signals are taken one after the other.
 *
 * A peer that was reloaded goes on with another connection, which its fingerprint tells. This one cannot follow it
 * there; `renew` is told, with the offer if it was one, and makes another. So it is with the first offers of both sides,
 * where this side yields. What was meant for a connection that this
 * one has replaced is dropped: who sent it will offer anew.
 */
export class Negotiation {
  #makingOffer = false;
  #ignoringOffer = false;
  #waits: boolean;
  #stopped = false;
  #mine: string | undefined;
  #theirs: string | undefined;
  #received: Promise<void> = Promise.resolve();
  readonly #batch: CandidateBatch;
  readonly #queue: CandidateQueue;

  constructor(
    private readonly peer: RTCPeerConnection,
    /** `waits`: leave the first offer to the peer, who called. */
    private readonly role: { polite: boolean; waits: boolean },
    private readonly send: (signal: Signal) => void,
    private readonly failed: (error: unknown) => void,
    private readonly renew: (offer: Signal | undefined) => Promise<void> | void = () => undefined,
  ) {
    this.#waits = role.waits;
    this.#batch = new CandidateBatch((candidates) => send({ candidates }));
    this.#queue = new CandidateQueue(peer);
    peer.onnegotiationneeded = () => void this.#offer();
    peer.onicecandidate = ({ candidate }) => this.#batch.add(candidate?.toJSON() ?? null);
  }

  /** Take what the peer sent. Settles when it is done; never rejects. */
  receive(signal: Signal): Promise<void> {
    this.#received = this.#received.then(() => this.#take(signal)).catch(this.failed);
    return this.#received;
  }

  stop(): void {
    this.#stopped = true;
    this.peer.onnegotiationneeded = this.peer.onicecandidate = null;
    this.#batch.stop();
  }

  /** Negotiate anew: the last offer, or else one that restarts ICE. */
  again(): void {
    this.#waits = false;
    if (this.peer.signalingState === "have-local-offer") {
      this.#sendDescription();
    } else {
      this.peer.restartIce();
    }
  }

  async #offer(): Promise<void> {
    if (this.#waits && this.peer.remoteDescription === null) {
      return;
    }
    try {
      this.#makingOffer = true;
      await this.peer.setLocalDescription();
      this.#sendDescription();
    } catch (error) {
      if (!this.#stopped) {
        this.failed(error);
      }
    } finally {
      this.#makingOffer = false;
    }
  }

  async #take(signal: Signal): Promise<void> {
    if (this.peer.signalingState === "closed") {
      return;
    }
    if ("candidates" in signal) {
      if (!this.#ignoringOffer) {
        await this.#queue.add(signal.candidates);
      }
      return;
    }
    const { description } = signal;
    const offered = description.type === "offer";
    if (description.peer !== undefined && description.peer !== this.#mine) {
      return;
    }
    const theirs = fingerprint(description);
    if (this.#theirs !== undefined && theirs !== undefined && theirs !== this.#theirs) {
      return await this.renew(offered ? signal : undefined);
    }
    if (!offered && this.peer.signalingState !== "have-local-offer") {
      return; // a copy, or an answer to an offer that was rolled back
    }
    const collision = offered && (this.#makingOffer || this.peer.signalingState !== "stable");
    this.#ignoringOffer = collision && !this.role.polite;
    if (this.#ignoringOffer) {
      return;
    }
    if (collision && this.peer.remoteDescription === null) {
      // Chromium may never gather candidates for a connection whose first offer was rolled back.
      return await this.renew(signal);
    }
    await this.peer.setRemoteDescription(description);
    this.#theirs = theirs;
    await this.#queue.release();
    if (offered) {
      await this.peer.setLocalDescription();
      this.#sendDescription();
    }
  }

  #sendDescription(): void {
    const description = this.peer.localDescription;
    if (description !== null && !this.#stopped) {
      const { type, sdp } = description;
      this.#mine = fingerprint(description);
      this.#batch.flush();
      this.send({ description: { type, sdp, ...(this.#theirs !== undefined && { peer: this.#theirs }) } });
    }
  }
}

/** What tells a connection from every other: that of its certificate. */
function fingerprint({ sdp }: RTCSessionDescriptionInit): string | undefined {
  return /^a=fingerprint:(.+?)\s*$/m.exec(sdp ?? "")?.[1];
}
