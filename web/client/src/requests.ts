import type { ClientToServer, ErrorEvent } from "./contracts.js";
import { SignallingError } from "./errors.js";

/** An acknowledgement of the server. */
export type Answer = ({ ok: true } & object) | { ok: false; error: Omit<ErrorEvent, "event"> };

/** Emit an event; `done` is called with its acknowledgement, or an error if none came. */
export type Transmit = (event: string, payload: object, done: (failed: Error | null, answer?: Answer) => void) => void;

interface Pending {
  event: string;
  payload: object;
  stale: boolean;
  resolve: (answer: object) => void;
  reject: (error: SignallingError) => void;
  timer: ReturnType<typeof setTimeout>;
}

const ASK_MS = 60_000;
const PENDING_MAX = 512;
/** What is of no use later, or of harm: rejected with `disconnected` while the server is out of reach, and on a break. */
const GOES_STALE: ReadonlySet<string> = new Set<keyof ClientToServer>([
  "call:initiate", "user:status", "ice:servers", "user:refresh",
]);
/** What is told of a call that is over here. */
const LAST_WORDS: ReadonlySet<string> = new Set<keyof ClientToServer>(["call:end", "call:reject"]);

/**
 * Requests in order, each until it is answered. Those of calls wait while the server is out of reach, one minute at
 * most, and are sent again after a break.
 */
export class Requests {
  #pending: Pending[] = [];
  #flows = false;

  /** `connected`: whether the connection that a request was sent on is up. */
  constructor(
    private readonly transmit: Transmit,
    private readonly connected: () => boolean,
  ) {}

  ask(event: string, payload: object): Promise<object> {
    return new Promise((resolve, reject) => {
      const stale = GOES_STALE.has(event);
      if (stale && !this.#flows) {
        return reject(new SignallingError("disconnected", "The server is out of reach", true));
      }
      if (this.#pending.length >= PENDING_MAX) {
        return reject(new SignallingError("queue_full", "Too much waits for the server", true));
      }
      const timer = setTimeout(
        () => this.#settle(pending, new SignallingError("timeout", `No answer to ${event}`, true)),
        ASK_MS,
      );
      const pending: Pending = { event, payload, stale, resolve, reject, timer };
      this.#pending.push(pending);
      if (this.#flows) {
        this.#send(pending);
      }
    });
  }

  /** Send what waits, and from now on at once. */
  flow(): void {
    this.#flows = true;
    [...this.#pending].forEach((pending) => this.#send(pending));
  }

  /** From now on what is asked waits. */
  stop(): void {
    this.#flows = false;
  }

  /** Drop what waits or is on its way for a call that is over, but for what ends it. */
  forget(callId: string): void {
    for (const pending of [...this.#pending]) {
      if ((pending.payload as { callId?: string }).callId === callId && !LAST_WORDS.has(pending.event)) {
        this.#settle(pending, new SignallingError("invalid_state", "The call is over"));
      }
    }
  }

  dropAll(error: SignallingError): void {
    [...this.#pending].forEach((pending) => this.#settle(pending, error));
  }

  #send(pending: Pending): void {
    const { event, payload } = pending;
    try {
      this.transmit(event, payload, (failed, answer) => {
        if (answer !== undefined) {
          this.#settle(pending, answer.ok ? undefined : refusal(answer.error), answer);
        } else if (failed !== null && this.connected()) {
          this.#settle(pending, new SignallingError("timeout", `No answer to ${event}`, true));
        } else if (pending.stale) {
          this.#settle(pending, new SignallingError("disconnected", "The connection broke", true));
        }
      });
    } catch (error) {
      this.#settle(pending, new SignallingError("bad_request", `${event} cannot be sent: ${String(error)}`));
    }
  }

  #settle(pending: Pending, error: SignallingError | undefined, answer: object = {}): void {
    clearTimeout(pending.timer);
    this.#pending = this.#pending.filter((other) => other !== pending);
    if (error === undefined) {
      pending.resolve(answer);
    } else {
      pending.reject(error);
    }
  }
}

/** The server's refusal as an error. */
export function refusal(error: Omit<ErrorEvent, "event">): SignallingError {
  const code = error.code as SignallingError["code"];
  return new SignallingError(code, error.message, error.retryable, error.retryAfterMs ?? undefined);
}
