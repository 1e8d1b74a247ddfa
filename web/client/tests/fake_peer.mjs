// As much of WebRTC as negotiation needs: signalling states with rollback, and candidates. No media flows.

let made = 0;

export class FakePeer {
  signalingState = "stable";
  connectionState = "new";
  /** @type {{ type: string, sdp: string } | null} */
  localDescription = null;
  /** @type {{ type: string, sdp: string } | null} */
  remoteDescription = null;
  onnegotiationneeded = null;
  onicecandidate = null;
  /** @type {((event: object) => void) | null} */
  ontrack = null;
  candidates = [];
  transceivers = [];
  rollbacks = 0;
  restarts = 0;

  constructor(configuration = {}) {
    this.configuration = configuration;
  }

  async setLocalDescription() {
    await null;
    const type = this.signalingState === "have-remote-offer" ? "answer" : "offer";
    made += 1;
    this.localDescription = { type, sdp: `${type} ${made}` };
    this.signalingState = type === "offer" ? "have-local-offer" : "stable";
    setTimeout(() => {
      this.onicecandidate?.({ candidate: { toJSON: () => ({ candidate: `of ${this.localDescription?.sdp}` }) } });
      this.onicecandidate?.({ candidate: null });
    }, 0);
    if (type === "answer") {
      this.#connected();
    }
  }

  async setRemoteDescription({ type, sdp }) {
    await null;
    if (type === "answer" && this.signalingState !== "have-local-offer") {
      throw new Error(`answer in ${this.signalingState}`);
    }
    if (type === "offer" && this.signalingState === "have-local-offer") {
      this.rollbacks += 1;
    }
    this.remoteDescription = { type, sdp };
    this.signalingState = type === "offer" ? "have-remote-offer" : "stable";
    if (type === "answer") {
      this.#connected();
    }
  }

  async addIceCandidate(candidate) {
    if (this.remoteDescription === null) {
      throw new Error("candidate before a description");
    }
    this.candidates.push(candidate);
  }

  restartIce() {
    this.restarts += 1;
    this.need();
  }

  need() {
    setTimeout(() => this.signalingState === "stable" && this.onnegotiationneeded?.(), 0);
  }

  addTrack(track) {
    const free = this.transceivers.find(({ kind, sender }) => kind === track.kind && sender.track === null);
    const found = free ?? this.addTransceiver(track.kind);
    found.sender.track = track;
    found.direction = "sendrecv";
    this.need();
    return found.sender;
  }

  addTransceiver(kind, { direction } = { direction: "sendrecv" }) {
    const made = new FakeTransceiver(kind, direction, () => this.need());
    this.transceivers.push(made);
    this.need();
    return made;
  }

  getTransceivers() {
    return [...this.transceivers];
  }

  getSenders() {
    return this.transceivers.map(({ sender }) => sender);
  }

  become(connectionState) {
    this.connectionState = connectionState;
    this.onconnectionstatechange?.();
  }

  getConfiguration() {
    return this.configuration;
  }

  setConfiguration(configuration) {
    this.configuration = configuration;
  }

  close() {
    this.signalingState = this.connectionState = "closed";
  }

  #connected() {
    this.connectionState = "connected";
    queueMicrotask(() => this.onconnectionstatechange?.());
  }
}

class FakeTransceiver {
  #direction;
  #need;
  /** @type {{ track: FakeTrack | null, replaceTrack: (track: FakeTrack | null) => Promise<void> }} */
  sender = { track: null, replaceTrack: async (track) => void (this.sender.track = track) };

  constructor(kind, direction, need) {
    this.kind = kind;
    this.#direction = direction;
    this.#need = need;
  }
  get direction() {
    return this.#direction;
  }
  set direction(direction) {
    if (direction !== this.#direction) {
      this.#direction = direction;
      this.#need();
    }
  }
}

export class FakeStream {
  #tracks;
  constructor(tracks = []) {
    this.#tracks = new Set(tracks);
  }
  getTracks() {
    return [...this.#tracks];
  }
  addTrack(track) {
    this.#tracks.add(track);
  }
  removeTrack(track) {
    this.#tracks.delete(track);
  }
}

export class FakeTrack {
  enabled = true;
  stopped = false;
  /** @param {string} kind */
  constructor(kind, device = "") {
    this.kind = kind;
    this.device = device;
  }
  stop() {
    this.stopped = true;
  }
}
