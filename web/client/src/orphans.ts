import { TOLD_MS } from "./dialling.js";

const OVER_MAX = 64;
/** For how long a call may ring that nobody holds. */
const LOST_MS = 120_000;

/** Calls that are over here: what the server still tells of them revives none, and those that it holds are ended. */
export class Orphans {
  /** Ids, latest last. */
  readonly #over = new Set<string>();
  /** Those that are being ended. */
  readonly #ending = new Set<Promise<void>>();
  #found: (() => void) | undefined;
  /** When it was last left open whether the server had made a call. */
  #lostAt: number | undefined;

  /** `tell`: end a call at the server. */
  constructor(private readonly tell: (callId: string) => Promise<unknown>) {}

  isOver(callId: string): boolean {
    return this.#over.has(callId);
  }

  /** The call is over here. */
  over(callId: string): void {
    this.#over.delete(callId);
    this.#over.add(callId);
    if (this.#over.size > OVER_MAX) {
      this.#over.delete(this.#over.values().next().value!);
    }
  }

  /** The call has another holder. */
  revive(callId: string): void {
    this.#over.delete(callId);
  }

  /** End a call that the server has made or accepted, and that nobody holds here any more. */
  end(callId: string): void {
    this.over(callId);
    const ended = this.tell(callId).then(() => undefined, () => undefined);
    this.#ending.add(ended);
    this.#lostAt = undefined;
    void ended.then(() => this.#ending.delete(ended));
    this.#found?.();
  }

  /** Whether the server has made a call was left open. */
  lost(): void {
    this.#lostAt = performance.now();
  }

  /** Wait until calls that nobody holds are ended, also one that the server may yet tell of; answers whether there were any. */
  async freed(): Promise<boolean> {
    if (this.#ending.size === 0 && this.#lostAt !== undefined && performance.now() - this.#lostAt < LOST_MS) {
      await new Promise<void>((resolve) => {
        this.#found = resolve;
        setTimeout(resolve, TOLD_MS);
      });
    }
    const some = this.#ending.size > 0;
    await Promise.all(this.#ending);
    return some;
  }
}
