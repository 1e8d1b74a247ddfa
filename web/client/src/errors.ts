import type { ErrorCode } from "./contracts.js";

/** What may go wrong on this side: out of reach, no answer in time, or a full queue. */
export type LocalCode = "disconnected" | "timeout" | "queue_full" | "closed";

/** A refusal by the server, or a failure on the way to it. `code` is for programs and never changes. */
export class SignallingError extends Error {
  override readonly name = "SignallingError";

  constructor(
    readonly code: ErrorCode | LocalCode,
    message: string,
    readonly retryable = false,
    readonly retryAfterMs?: number,
  ) {
    super(message);
  }
}
