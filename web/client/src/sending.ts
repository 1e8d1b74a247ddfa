import { captureInstead, captureWhatIsThere, stop, type Kind, type Wanted } from "./media.js";

type Way = RTCRtpTransceiverDirection;

const KINDS = ["audio", "video"] as const;

/**
 * What this side sends in a call. A camera that is off, and everything on hold, is closed: its light goes off, and the
 * peer is told by the direction of the transceiver. A muted microphone stays open, so that it is there at once.
 */
export class Sending {
  readonly stream = new MediaStream();
  /** What is sent unless it is off: a kind, and the device that was asked for. */
  readonly #devices = new Map<Kind, string | true>();
  readonly #muted = new Set<Kind>();
  readonly #slots = new Map<Kind, RTCRtpTransceiver>();
  #held = false;
  #opened = false;
  #closed = false;
  #peer: RTCPeerConnection | undefined;
  #work: Promise<unknown> = Promise.resolve();

  get held(): boolean {
    return this.#held;
  }

  /** Kinds that this side sends, or would if they were not off. */
  get kinds(): Kind[] {
    return KINDS.filter((kind) => this.#devices.has(kind));
  }

  muted(kind: Kind): boolean {
    return this.#muted.has(kind);
  }

  /** Whether this side sends it now, or will as soon as it can. */
  sends(kind: Kind): boolean {
    return !this.#closed && this.#devices.has(kind) && !this.#muted.has(kind) && !this.#held;
  }

  /** Say what is wanted, before there is any of it. */
  want(wanted: Wanted): void {
    for (const kind of KINDS) {
      const device = wanted[kind];
      if (device) {
        this.#devices.set(kind, device);
      } else {
        this.#devices.delete(kind);
      }
    }
  }

  /** Capture what is there of what is wanted. Never rejects. */
  async open(): Promise<void> {
    const before = { audio: this.#wanted("audio"), video: this.#wanted("video") };
    const media = await captureWhatIsThere(before);
    if (this.#closed) {
      return stop(media.getTracks());
    }
    media.getTracks().forEach((track) => this.stream.addTrack(track));
    KINDS.filter((kind) => before[kind] && this.#track(kind) === undefined).forEach((kind) => this.#devices.delete(kind));
    this.#opened = true;
    KINDS.forEach((kind) => this.#enable(kind));
    await this.#settle().catch(() => undefined); // what was muted meanwhile
  }

  /** Close what is open: nothing is sent any more, but it may be opened again. */
  shut(): void {
    stop(this.stream.getTracks());
    this.stream.getTracks().forEach((track) => this.stream.removeTrack(track));
    this.#opened = false;
  }

  /** The call is over. */
  close(): void {
    this.#closed = true;
    stop(this.stream.getTracks());
  }

  /** Send on this connection from now on. `offers`: it makes the first offer, which has a place for each of `kinds`. */
  attach(peer: RTCPeerConnection, offers: boolean, kinds: readonly Kind[]): void {
    this.#peer = peer;
    this.#slots.clear();
    for (const kind of KINDS) {
      const track = this.#track(kind);
      if (track !== undefined) {
        this.#give(kind, track);
      } else if (offers && this.#devices.has(kind)) {
        this.#slots.set(kind, peer.addTransceiver(kind, { direction: "recvonly", streams: [this.stream] }));
      } else if (offers && kinds.includes(kind)) {
        peer.addTransceiver(kind, { direction: "recvonly" });
      }
    }
    this.steer();
  }

  /** Let each transceiver flow the way it is to: also one that has just come with an offer. */
  steer(): void {
    const mine = new Map([...this.#slots].map(([kind, slot]) => [slot, kind]));
    for (const one of this.#peer?.getTransceivers() ?? []) {
      const kind = mine.get(one);
      const way: Way = this.#held ? "inactive" : kind !== undefined && this.#track(kind) !== undefined ? "sendrecv" : "recvonly";
      if (one.direction !== way && one.direction !== "stopped") {
        one.direction = way;
      }
    }
  }

  /** Rejects with what the browser says if the camera cannot be had again; then it stays off. */
  async mute(kind: Kind, muted: boolean): Promise<void> {
    const before = this.#muted.has(kind);
    this.#mark(kind, muted);
    try {
      await this.#settle();
    } catch (error) {
      if (before && this.#track(kind) === undefined) {
        this.#mark(kind, true);
      }
      throw error;
    }
  }

  /** Rejects with what the browser says if something cannot be had again. */
  async hold(held: boolean): Promise<void> {
    this.#held = held;
    await this.#settle();
  }

  /** Send from another device; one of a kind that is not sent yet, or is off, is switched on. */
  async use(kind: Kind, device: string | undefined): Promise<void> {
    const before = this.#devices.get(kind);
    const muted = this.#muted.has(kind);
    this.#devices.set(kind, device ?? before ?? true);
    if (kind === "video") {
      this.#mark(kind, false);
    }
    try {
      await this.#queue(async () => {
        if (this.#live(kind)) {
          await this.#capture(kind, device ?? this.#wanted(kind));
        }
      });
    } catch (error) {
      if (before === undefined) {
        this.#devices.delete(kind);
      } else {
        this.#devices.set(kind, before);
        this.#mark(kind, muted);
      }
      throw error;
    }
  }

  #mark(kind: Kind, muted: boolean): void {
    if (muted) {
      this.#muted.add(kind);
    } else {
      this.#muted.delete(kind);
    }
    this.#enable(kind);
  }

  #enable(kind: Kind): void {
    const track = this.#track(kind);
    if (track !== undefined) {
      track.enabled = !this.#muted.has(kind);
    }
  }

  /** Whether a device is to be open now. */
  #live(kind: Kind): boolean {
    return this.#opened && !this.#closed && this.#wanted(kind) !== false;
  }

  #wanted(kind: Kind): string | boolean {
    const off = this.#held || (kind === "video" && this.#muted.has(kind));
    return off ? false : (this.#devices.get(kind) ?? false);
  }

  /** Bring what is open to what is to be, one step after the other. */
  #settle(): Promise<void> {
    return this.#queue(async () => {
      const failures: unknown[] = [];
      for (const kind of KINDS) {
        if (this.#opened && !this.#live(kind)) {
          await this.#release(kind);
        } else if (this.#live(kind) && this.#track(kind) === undefined) {
          await this.#reopen(kind).catch((error: unknown) => failures.push(error));
        }
      }
      this.steer();
      if (failures.length > 0) {
        throw failures[0];
      }
    });
  }

  #queue(step: () => Promise<void>): Promise<void> {
    const done = this.#work.then(step);
    this.#work = done.catch(() => undefined);
    return done;
  }

  /** Open the device of before, or another where that is gone. */
  async #reopen(kind: Kind): Promise<void> {
    try {
      await this.#capture(kind, this.#wanted(kind));
    } catch (error) {
      if (!["NotFoundError", "OverconstrainedError"].includes((error as { name?: string }).name ?? "")) {
        throw error;
      }
      await this.#capture(kind, true);
    }
  }

  async #capture(kind: Kind, device: string | boolean): Promise<void> {
    const old = this.#track(kind);
    const wanted = { audio: kind === "audio" && device, video: kind === "video" && device };
    const media = await captureInstead(wanted, old === undefined ? [] : [old]);
    const [track] = media.getTracks();
    if (track === undefined || !this.#live(kind)) {
      stop(media.getTracks());
      return await this.#release(kind);
    }
    if (old !== undefined) {
      stop([old]);
      this.stream.removeTrack(old);
    }
    this.stream.addTrack(track);
    this.#enable(kind);
    const slot = this.#slots.get(kind);
    if (slot === undefined) {
      this.#give(kind, track);
    } else {
      await slot.sender.replaceTrack(track);
    }
    this.steer();
  }

  async #release(kind: Kind): Promise<void> {
    const track = this.#track(kind);
    if (track !== undefined) {
      stop([track]);
      this.stream.removeTrack(track);
      this.steer();
      await this.#slots.get(kind)?.sender.replaceTrack(null);
    }
  }

  /** Add a first track of its kind to the connection. */
  #give(kind: Kind, track: MediaStreamTrack): void {
    const sender = this.#peer?.addTrack(track, this.stream);
    const slot = this.#peer?.getTransceivers().find((one) => one.sender === sender);
    if (slot !== undefined) {
      this.#slots.set(kind, slot);
    }
  }

  #track(kind: Kind): MediaStreamTrack | undefined {
    return this.stream.getTracks().find((track) => track.kind === kind);
  }
}
