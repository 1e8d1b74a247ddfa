type Way = RTCRtpTransceiverDirection;

/** Media stopped both ways, and which way it is to flow again. What is added while it is on is stopped, too. */
export class Hold {
  #ways: Map<RTCRtpTransceiver, Way> | undefined;

  get on(): boolean {
    return this.#ways !== undefined;
  }

  start(transceivers: RTCRtpTransceiver[] = []): void {
    this.#ways ??= new Map();
    transceivers.forEach((one) => this.keep(one));
  }

  end(): void {
    this.#ways?.forEach((way, one) => (one.direction = way));
    this.#ways = undefined;
  }

  /** Stop this one, too, if it is on. */
  keep(transceiver: RTCRtpTransceiver): void {
    if (this.#ways?.has(transceiver) === false) {
      this.#ways.set(transceiver, transceiver.direction);
      transceiver.direction = "inactive";
    }
  }

  /** A track was just given to this one, which has set it going again. */
  sends(transceiver: RTCRtpTransceiver): void {
    if (this.#ways !== undefined) {
      this.#ways.set(transceiver, "sendrecv");
      transceiver.direction = "inactive";
    }
  }

  /** Of another connection, which replaces that of before. */
  again(transceivers: RTCRtpTransceiver[]): void {
    if (this.#ways !== undefined) {
      this.#ways = undefined;
      this.start(transceivers);
    }
  }
}
