type Timer = ReturnType<typeof setTimeout> | undefined;

const CONNECT_MS = 30_000;
/** When to negotiate once more if there is no connection yet. */
const AGAIN_MS = 8_000;
/** Between two restarts of ICE: while the network is away, each may fail at once. */
const RESTART_MS = 4_000;
const SOON_MS = 1_000;

/** Sees to it that a connection which does not come, or broke, is negotiated anew, and gives up in the end. */
export class Recovery {
  #limit: Timer;
  #again: Timer;
  #restart: Timer;
  #restarted = -Infinity;

  constructor(
    private readonly state: () => RTCPeerConnectionState | undefined,
    private readonly negotiate: () => void,
    private readonly giveUp: (reason: string) => void,
    /** Of the two sides, the one that does not wait for the other to negotiate once more. */
    private readonly first: boolean,
  ) {}

  /** Give up with `reason` unless it connects in time. */
  start(reason: string): void {
    clearTimeout(this.#limit);
    if (this.state() !== "connected") {
      this.#limit = setTimeout(() => this.giveUp(reason), CONNECT_MS);
      clearTimeout(this.#again);
      if (this.first) {
        this.#again = setTimeout(() => !["connected", "failed"].includes(this.state() ?? "") && this.negotiate(), AGAIN_MS);
      }
    }
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
    clearTimeout(this.#again);
    this.#again = setTimeout(() => this.negotiate(), SOON_MS);
  }

  connected(): void {
    clearTimeout(this.#limit);
    clearTimeout(this.#restart);
  }

  stop(): void {
    this.connected();
    clearTimeout(this.#again);
  }
}
