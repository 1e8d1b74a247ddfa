import type { Call } from "./call.js";
import type { Initiate, Initiated } from "./contracts.js";
import { SignallingError } from "./errors.js";
import type { Wanted } from "./media.js";
import type { Session } from "./session.js";

/** How long a call that is dialled waits for the server to be in reach. */
const REACH_MS = 20_000;
/** How long after a break the server may take to tell of a call that it may have made. */
export const TOLD_MS = 5_000;

export interface DiallingHooks {
  placed: (initiated: Initiated) => void;
  /** The server has made a call that is over here. */
  orphaned: (callId: string) => void;
  /** Whether the server may have made this call is not known. */
  lost: () => void;
  /** Settles when calls that nobody holds are ended; answers whether there were any. */
  freed: () => Promise<boolean>;
}

type Phase = "preparing" | "reaching" | "asking" | "learning" | "placed";

/**
 * One call from the click until the server has made it. It is asked for once: after a break the server tells of it
 * in what was missed, or there is none. Nothing is sent for a call that is over.
 */
export class Dialling {
  #phase: Phase = "preparing";
  #told: Initiated | undefined;
  /** Ends what is waited for. */
  #wake: ((error?: SignallingError) => void) | undefined;

  constructor(
    private readonly session: Session,
    readonly call: Call,
    private readonly initiate: Initiate,
    private readonly hooks: DiallingHooks,
  ) {
    call.on("ended", () => this.#wake?.());
  }

  /** Settles when the call is placed, refused or given up; never rejects. `before`: calls that are just being ended. */
  async run(wanted: Wanted, before: Promise<unknown>, signal: AbortSignal | undefined): Promise<void> {
    try {
      if (signal?.aborted === true || this.session.state === "closed") {
        await new Promise((resolve) => setTimeout(resolve)); // the application has yet to listen
      }
      if (signal?.aborted === true) {
        await this.call.hangup();
      } else if (this.session.state === "closed") {
        throw new SignallingError("closed", "The session was closed");
      }
      if (this.#wanted) {
        await this.call.prepare(wanted);
        await before;
        await this.#reach();
        await this.#ask();
      }
    } catch (error) {
      const code = error instanceof SignallingError ? error.code : "media_failed";
      this.call.finish(code, this.session.userId, error);
    }
  }

  /** The server has made a call to this user. Answers whether it is this one. */
  told(initiated: Initiated): boolean {
    if (this.#phase === "asking" || this.#phase === "learning") {
      this.#told = initiated;
      this.#wake?.();
      return true;
    }
    return false;
  }

  /** The server says that this user is in a call with the other one. Answers whether it is this one, which is placed. */
  adopt(callId: string): boolean {
    if (this.#phase !== "learning" || !this.#wanted) {
      return false;
    }
    this.#place({ callId, to: this.call.user, expiresAt: Number.NaN } as Initiated);
    this.#wake?.();
    return true;
  }

  joined(kept: boolean): void {
    if (this.#phase === "reaching" || (this.#phase === "learning" && kept)) {
      this.#wake?.();
    } else if (this.#phase === "learning") {
      this.#wake?.(new SignallingError("disconnected", "The session is over", true));
    }
  }

  closed(error: SignallingError): void {
    this.#wake?.(error);
  }

  get #wanted(): boolean {
    return this.call.state === "dialling";
  }

  async #reach(): Promise<void> {
    if (this.#wanted && this.session.state === "joining") {
      this.#phase = "reaching";
      await this.#wait(REACH_MS, new SignallingError("disconnected", "The server is out of reach", true));
    }
  }

  async #ask(tries = 2): Promise<void> {
    if (!this.#wanted) {
      return;
    }
    this.#phase = "asking";
    try {
      this.#place(await this.session.ask("call:initiate", this.initiate));
    } catch (error) {
      const { code } = error as Partial<SignallingError>;
      if (code === "already_in_call" && tries > 1 && (await this.hooks.freed())) {
        return await this.#ask(tries - 1);
      }
      if ((code !== "disconnected" && code !== "timeout") || this.session.state === "closed") {
        throw error;
      }
      await this.#learn(error as SignallingError);
    }
  }

  /** The connection broke before the answer: learn whether there is a call. */
  async #learn(error: SignallingError): Promise<void> {
    this.#phase = "learning";
    this.hooks.lost();
    if (this.#wanted && this.#told === undefined && this.session.state === "joining") {
      await this.#wait(REACH_MS, error);
    }
    if (this.#wanted && this.#told === undefined && this.call.id === undefined) {
      await this.#wait(TOLD_MS, error);
    }
    if (this.#told !== undefined) {
      this.#place(this.#told);
    }
  }

  #place(initiated: Initiated): void {
    if (this.#phase !== "placed") {
      this.#phase = "placed";
      if (this.#wanted) {
        this.hooks.placed(initiated);
      } else {
        this.hooks.orphaned(initiated.callId);
      }
    }
  }

  /** Wait until something happens to the call; rejects with `late` if nothing does. */
  #wait(ms: number, late: SignallingError): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#wake?.(late), ms);
      this.#wake = (error) => {
        clearTimeout(timer);
        this.#wake = undefined;
        if (error === undefined) {
          resolve();
        } else {
          reject(error);
        }
      };
    });
  }
}
