import { Negotiation, type Signal } from "./negotiation.js";
import type { Kind } from "./media.js";
import type { Sending } from "./sending.js";

const EARLY_MAX = 64;

export interface ConnectionOptions {
  /** With what each connection is made. */
  configuration: () => RTCConfiguration;
  sending: Sending;
  polite: boolean;
  /** What there is to be a place for in the first offer. */
  kinds: readonly Kind[];
  send: (signal: Signal) => void;
  failed: (error: unknown) => void;
  changed: (state: RTCPeerConnectionState) => void;
  /** The peer's stream has another track. */
  remote: (stream: MediaStream) => void;
  /** Another connection has taken the place of this one. */
  replaced: () => void;
}

/** The connection to the peer of a call, or one after the other: what comes before there is one waits for it. */
export class Connection {
  readonly remote = new MediaStream();
  #peer: RTCPeerConnection | undefined;
  #negotiation: Negotiation | undefined;
  #early: Signal[] = [];
  #received: Promise<void> = Promise.resolve();

  constructor(private readonly options: ConnectionOptions) {}

  get state(): RTCPeerConnectionState | undefined {
    return this.#peer?.connectionState;
  }

  /** `waits`: the first offer is the peer's. */
  open(waits: boolean): void {
    const { configuration, sending, polite, kinds, send, failed, changed } = this.options;
    const peer = (this.#peer = new RTCPeerConnection(configuration()));
    this.#negotiation = new Negotiation(peer, { polite, waits }, send, failed, (offer) => this.#renew(offer));
    peer.ontrack = ({ track }) => {
      sending.steer();
      this.remote.addTrack(track);
      this.options.remote(this.remote);
    };
    peer.onconnectionstatechange = () => changed(peer.connectionState);
    sending.attach(peer, !waits, kinds);
    this.takeEarly().forEach((signal) => this.receive(signal));
  }

  receive(signal: Signal): void {
    if (this.#negotiation !== undefined) {
      // In order, also across a new connection.
      this.#received = this.#received.then(() => this.#negotiation?.receive(signal));
    } else if (this.#early.length < EARLY_MAX) {
      this.#early.push(signal);
    }
  }

  /** Hand over what came before there was a connection. */
  takeEarly(): Signal[] {
    return this.#early.splice(0);
  }

  /** Negotiate anew. */
  again(): void {
    this.#negotiation?.again();
  }

  /** Make another connection in the place of this one, with the same media. */
  replace(waits: boolean): void {
    this.#negotiation?.stop();
    if (this.#peer !== undefined) {
      this.#peer.ontrack = this.#peer.onconnectionstatechange = null;
      this.#peer.close();
    }
    this.remote.getTracks().forEach((track) => this.remote.removeTrack(track));
    this.open(waits);
  }

  setIceServers(iceServers: RTCIceServer[]): void {
    this.#peer?.setConfiguration({ ...this.#peer.getConfiguration(), iceServers });
  }

  async stats(): Promise<RTCStatsReport | undefined> {
    return await this.#peer?.getStats();
  }

  close(): void {
    this.#negotiation?.stop();
    this.#peer?.close();
  }

  /** The peer has another connection than before, or offers one as this side does, and so there must be another. */
  async #renew(offer: Signal | undefined): Promise<void> {
    this.replace(offer !== undefined);
    this.options.replaced();
    if (offer !== undefined) {
      await this.#negotiation?.receive(offer);
    }
  }
}
