const MOST_MS = 2 ** 31 - 1;

/** How long a call rings, by a clock that nobody sets. */
export class Ring {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #until: number | undefined;

  constructor(private readonly rangOut: () => void) {}

  /** In so many ms; `undefined` or no number: for as long as the server says nothing. */
  in(ms: number | undefined): void {
    this.stop();
    if (ms !== undefined && Number.isFinite(ms)) {
      const left = Math.min(MOST_MS, Math.max(0, ms));
      this.#until = performance.now() + left;
      this.#timer = setTimeout(this.rangOut, left);
    }
  }

  get left(): number | undefined {
    return this.#until === undefined ? undefined : Math.max(0, this.#until - performance.now());
  }

  /** Whether the time is over. */
  get over(): boolean {
    return this.left === 0;
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#until = this.#timer = undefined;
  }
}
