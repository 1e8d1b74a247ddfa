import { CandidateBatch, CandidateQueue, type Candidate } from "./candidates.js";

/** What peers send each other in a call. */
export type Signal =
  | { description: RTCSessionDescriptionInit }
  | { candidates: Candidate[] };

/**
 * Perfect negotiation over one connection: either side may offer at any time, and of two offers at once
 * the impolite side's holds. Signals are taken one after the other.
 */
export class Negotiation {
  #makingOffer = false;
  #ignoringOffer = false;
  #waits: boolean;
  #received: Promise<void> = Promise.resolve();
  readonly #batch: CandidateBatch;
  readonly #queue: CandidateQueue;

  constructor(
    private readonly peer: RTCPeerConnection,
    /** `waits`: leave the first offer to the peer, who called. */
    private readonly role: { polite: boolean; waits: boolean },
    private readonly send: (signal: Signal) => void,
    private readonly failed: (error: unknown) => void,
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
      this.failed(error);
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
    if (!offered && this.peer.signalingState !== "have-local-offer") {
      return; // a copy, or an answer to an offer that was rolled back
    }
    const collision = offered && (this.#makingOffer || this.peer.signalingState !== "stable");
    this.#ignoringOffer = collision && !this.role.polite;
    if (this.#ignoringOffer) {
      return;
    }
    await this.peer.setRemoteDescription(description);
    await this.#queue.release();
    if (offered) {
      await this.peer.setLocalDescription();
      this.#sendDescription();
    }
  }

  #sendDescription(): void {
    const description = this.peer.localDescription;
    if (description !== null) {
      this.#batch.flush();
      this.send({ description: { type: description.type, sdp: description.sdp } });
    }
  }
}
