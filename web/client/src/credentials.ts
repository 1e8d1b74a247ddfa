import { tokenDelay } from "./token.js";

/** How long to ask the application for a token that is good before the first join. */
const FIRST_MS = 5_000;
const AGAIN_MS = 500;
const AGAIN_MOST_MS = 5_000;
/** Failures further apart than that are not of one row. */
const ROW_MS = 15_000;

/** The application's tokens: one for each join, fresh ones before they run out, others where one was none. */
export class Credentials {
  /** A row of tries in vain: when it began, how many there were, and when the last one was. */
  #failing: { since: number; tries: number; last: number } | undefined;
  #refused: string | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Counts sessions on one connection each: what was begun in one does nothing in the next. */
  #round = 0;

  /** `refresh`: show the server a fresh token; the answer is how many seconds it holds, if it runs out. */
  constructor(
    private readonly provide: (() => string | Promise<string>) | undefined,
    private readonly refresh: (token: string) => Promise<number | null | undefined>,
  ) {}

  /** The application's token, if tokens are used. Rejects with what the application throws. */
  async get(): Promise<string | undefined> {
    return await this.provide?.();
  }

  /** The server took the token: it holds for so many seconds. */
  good(seconds: number | null | undefined): void {
    this.#failing = this.#refused = undefined;
    this.#round += 1;
    this.#refreshIn(seconds);
  }

  /**
   * In how many ms to ask for another token after one that was none, or had run out; `undefined`: give up.
   * `window`: how many ms a session is kept for its client; absent before the first join.
   */
  again(window: number | undefined, refused?: string): number | undefined {
    const now = performance.now();
    if (this.#failing !== undefined && now - this.#failing.last > ROW_MS) {
      this.#giveUp();
    }
    const failing = (this.#failing ??= { since: now, tries: 0, last: now });
    const stale = refused !== undefined && refused === this.#refused;
    this.#refused = refused ?? this.#refused;
    if (this.provide === undefined || (window === undefined && stale)) {
      return this.#giveUp();
    }
    const delay = Math.min(AGAIN_MOST_MS, AGAIN_MS * 2 ** failing.tries);
    failing.tries += 1;
    failing.last = now;
    return now + delay - failing.since > Math.max(window ?? 0, FIRST_MS) ? this.#giveUp() : delay;
  }

  /** The session is out of reach, or over. */
  stop(): void {
    this.#round += 1;
    clearTimeout(this.#timer);
  }

  #giveUp(): undefined {
    this.#failing = this.#refused = undefined;
  }

  #refreshIn(seconds: number | null | undefined): void {
    clearTimeout(this.#timer);
    if (seconds != null && this.provide !== undefined) {
      const until = Date.now() + seconds * 1000;
      this.#timer = setTimeout(() => void this.#prolong(until), tokenDelay(until, Date.now()));
    }
  }

  /** Prolong the session with a fresh token; if none is to be had, try again for as long as the old one holds. */
  async #prolong(until: number): Promise<void> {
    const round = this.#round;
    let seconds: number | null | undefined;
    try {
      const token = (await this.provide?.()) ?? "";
      if (round !== this.#round) {
        return; // the next join shows a token of its own
      }
      seconds = await this.refresh(token);
    } catch {
      seconds = (until - Date.now()) / 1000;
    }
    if (round === this.#round && (seconds == null || seconds > 0)) {
      this.#refreshIn(seconds);
    }
  }
}
