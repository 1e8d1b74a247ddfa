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
  candidates = [];
  tracks = [];
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
    this.tracks.push(track);
    this.need();
  }

  addTransceiver() {
    this.need();
  }

  getTransceivers() {
    return [];
  }

  getSenders() {
    return this.tracks.map((track) => ({ track, replaceTrack: async () => undefined }));
  }

  getConfiguration() {
    return this.configuration;
  }

  setConfiguration(configuration) {
    this.configuration = configuration;
  }

  close() {
    this.signalingState = "closed";
  }

  #connected() {
    this.connectionState = "connected";
    queueMicrotask(() => this.onconnectionstatechange?.());
  }
}

export class FakeStream {
  #tracks = new Set();
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
