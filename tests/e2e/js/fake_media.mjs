// Peer connections for Node, as strict as real ones about the order of things: a description or a candidate that comes
// at the wrong time throws. Two are connected once each has the other's description and one of its candidates.

let numbers = 0;
const CANDIDATES = 3;

class FakeConnection {
  constructor() {
    this.id = numbers += 1;
    this.signalingState = "stable";
    this.connectionState = "new";
    this.tracks = 0;
    this.gathering = Promise.resolve();
  }

  addTrack() {
    this.tracks += 1;
  }

  async createOffer() {
    return this.#make("offer");
  }

  async createAnswer() {
    if (this.signalingState !== "have-remote-offer") throw new Error(`createAnswer in ${this.signalingState}`);
    return this.#make("answer");
  }

  async setLocalDescription({ type }) {
    this.#turn(type, "local");
    this.gathering = this.#gather();
    this.#connect();
  }

  async setRemoteDescription(description) {
    this.#turn(description.type, "remote");
    this.remoteDescription = description;
    this.ontrack?.({ streams: [{ of: description.sdp }] });
    this.#connect();
  }

  async addIceCandidate(candidate) {
    if (this.signalingState === "closed") throw new Error("closed");
    if (this.remoteDescription === undefined) throw new Error("InvalidStateError: no remote description");
    if (!this.remoteDescription.sdp.includes(`id ${candidate.usernameFragment}\r\n`)) throw new Error("OperationError: of another");
    this.reachable = true;
    this.#connect();
  }

  close() {
    this.signalingState = this.connectionState = "closed";
  }

  #make(type) {
    return { type, sdp: `v=0\r\no=- ${this.id} 2 IN IP4 127.0.0.1\r\na=id ${this.id}\r\na=tracks ${this.tracks}\r\n` };
  }

  #turn(type, side) {
    const from = type === "offer" ? "stable" : `have-${side === "local" ? "remote" : "local"}-offer`;
    if (this.signalingState !== from) throw new Error(`InvalidStateError: ${side} ${type} in ${this.signalingState}`);
    this.signalingState = type === "offer" ? `have-${side}-offer` : "stable";
  }

  async #gather() {
    for (let n = 0; n < CANDIDATES; n += 1) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      if (this.signalingState === "closed") return;
      const candidate = `candidate:${n} 1 udp 2122260223 192.0.2.7 ${50_000 + n} typ host`;
      this.onicecandidate?.({ candidate: { candidate, sdpMid: "0", sdpMLineIndex: 0, usernameFragment: String(this.id) } });
    }
    this.onicecandidate?.({ candidate: null });
  }

  #connect() {
    if (this.connectionState === "new" && this.reachable && this.signalingState === "stable") {
      this.connectionState = "connected";
      this.onconnectionstatechange?.();
    }
  }
}

export const media = {
  open: async (callType) => {
    const tracks = callType === "video" ? ["audio", "video"] : ["audio"];
    return { getTracks: () => tracks.map(() => ({ stop() {} })) };
  },
  connection: () => new FakeConnection(),
  description: ({ type, sdp }) => ({ type, sdp }),
  candidate(candidate) {
    // As `new RTCIceCandidate` does.
    if (candidate.sdpMid === undefined && candidate.sdpMLineIndex === undefined) throw new TypeError("sdpMid and sdpMLineIndex are both null");
    return candidate;
  },
  gathered: (pc) => pc.gathering,
  plays: () => true,
};
