import { CANDIDATES_MAX } from "./contracts.js";

/** A candidate, or `null` for end-of-candidates. */
export type Candidate = RTCIceCandidateInit | null;

const BATCH_MS = 30;
const HELD_MAX = 256;

/** Sends local candidates a few at a time. */
export class CandidateBatch {
  #waiting: Candidate[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly send: (candidates: Candidate[]) => void) {}

  add(candidate: Candidate): void {
    this.#waiting.push(candidate);
    if (candidate === null || this.#waiting.length >= CANDIDATES_MAX) {
      this.flush();
    } else {
      this.#timer ??= setTimeout(() => this.flush(), BATCH_MS);
    }
  }

  /** Send what waits, now: what belongs to one description must not follow the next. */
  flush(): void {
    this.stop();
    const candidates = this.#waiting.splice(0);
    if (candidates.length > 0) {
      this.send(candidates);
    }
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

/** Holds the peer's candidates until there is a remote description to add them to; at most 256, oldest out first. */
export class CandidateQueue {
  #held: Candidate[] = [];

  constructor(private readonly peer: Pick<RTCPeerConnection, "remoteDescription" | "addIceCandidate">) {}

  async add(candidates: Candidate[]): Promise<void> {
    this.#held.push(...candidates);
    this.#held.splice(0, this.#held.length - HELD_MAX);
    await this.release();
  }

  /** Add what is held, if a remote description is set. A candidate that the browser refuses does not stop the others. */
  async release(): Promise<void> {
    while (this.peer.remoteDescription !== null && this.#held.length > 0) {
      try {
        await this.peer.addIceCandidate(this.#held.shift());
      } catch (error) {
        console.debug("candidate refused", error);
      }
    }
  }
}
