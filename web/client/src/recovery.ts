type Timer = ReturnType<typeof setTimeout> | undefined;

const CONNECT_MS = 30_000;
/** When to negotiate once more if there is no connection yet, or none any more: that may be over in a moment. */
const AGAIN_MS = 8_000;
const BROKEN_MS = 3_000;
/** Between two restarts of ICE: while the network is away, each may fail at once. */
const RESTART_MS = 4_000;
const SOON_MS = 1_000;

/** Sees to it that a connection which does not come, or broke, is negotiated anew, and gives up in the end. */
export class Recovery {
  #limit: Timer;
  #again: Timer;
  #soon: Timer;
  #restart: Timer;
  #restarted = -Infinity;

  constructor(
    private readonly state: () => RTCPeerConnectionState | undefined,
    private readonly negotiate: () => void,
    /** Make another connection, and offer it. */
    private readonly replace: () => void,
    private readonly giveUp: (reason: string) => void,
    /** Of the two sides, the one that does not wait for the other to negotiate once more. */
    private readonly first: boolean,
  ) {}

  /** Give up with `reason` unless it connects in time. */
  start(reason: string, again = AGAIN_MS): void {
    clearTimeout(this.#limit);
    if (this.state() !== "connected") {
      this.#limit = setTimeout(() => this.giveUp(reason), CONNECT_MS);
      if (this.first) {
        this.#negotiateIn(again);
      }
    }
  }

  /** It was there and broke. */
  broken(): void {
    this.start("ice_failed", BROKEN_MS);
  }

  /** ICE failed: restart it at once, and then as long as it fails. */
  failed(): void {
    clearTimeout(this.#restart);
    if (this.state() === "failed" && Date.now() - this.#restarted >= RESTART_MS) {
      this.#restarted = Date.now();
      this.negotiate();
    }
    this.#restart = setTimeout(() => this.failed(), RESTART_MS);
  }

  /** Something did not get through. */
  soon(): void {
    clearTimeout(this.#soon);
    this.#soon = setTimeout(() => this.negotiate(), SOON_MS);
  }

  /** Then, and again and again until there is a connection: with a new one, where an ICE restart was of no use. */
  #negotiateIn(ms: number, tries = 0): void {
    clearTimeout(this.#again);
    this.#again = setTimeout(() => {
      const state = this.state();
      if (state !== "connected") {
        this.#negotiateIn(AGAIN_MS, tries + 1);
        if (tries > 0) {
          this.replace();
        } else if (state !== "failed") {
          this.negotiate();
        }
      }
    }, ms);
  }

  connected(): void {
    clearTimeout(this.#limit);
    clearTimeout(this.#restart);
  }

  stop(): void {
    this.connected();
    clearTimeout(this.#again);
    clearTimeout(this.#soon);
  }
}
