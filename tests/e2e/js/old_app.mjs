// An app written for the old HelloTalk server, from that server's client guide alone. It knows no acknowledgements, no
// `callId` in offers, no `seq`, no resuming and no error codes, and it sends the caller's id as `from` in its answer to
// a call. Runs in Node and in browsers; `media` makes peer connections and streams.

export class OldApp {
  // `habits`, of apps in the field: `joins` is "when connected" (each time), "at once" (once, before it is connected),
  // "twice", or "in the handshake" (by `auth` in the options, which is new); `offers` is "when accepted" or "while it
  // rings"; `candidates` of a callee go "after the answer" or "before the answer"; `extra` is in every payload.
  constructor({ io, url, options, userId, media, habits = {} }) {
    this.userId = userId;
    this.media = media;
    this.habits = { joins: "when connected", offers: "when accepted", candidates: "after the answer", extra: {}, ...habits };
    this.received = [];
    this.errors = []; // what went wrong here, which no app would show
    this.disconnects = [];
    this.joins = 0;
    this.changed = new Set();
    this.ending = false;
    this.clear();
    this.socket = io(url, options);
    this.#listen();
    if (this.habits.joins === "at once") this.#emit("user:join", { userId });
  }

  // --- what a user does ---

  // Settles as an old app's promise does: by the first `user:joined` or by the first `error`.
  async joined() {
    if (this.joins > 0) return true;
    return this.#either("user:joined");
  }

  async initiate(to, callType = "video") {
    this.initiator = true;
    this.remote = to;
    this.callType = callType;
    await this.#open();
    const initiated = this.#either("call:initiated");
    initiated.catch(() => {}); // it is awaited below
    this.#emit("call:initiate", { to, callType });
    if (this.habits.offers === "while it rings") await this.#offer();
    const { callId } = await initiated;
    this.callId = callId;
    return callId;
  }

  async accept() {
    const { callId, from, callType } = this.ringing;
    this.initiator = false;
    [this.callId, this.remote, this.callType] = [callId, from, callType];
    await this.#open();
    this.#emit("call:accept", { callId, from });
    if (this.earlyOffer !== undefined) await this.#answer(this.earlyOffer);
  }

  reject() {
    const { callId, from } = this.ringing;
    this.#emit("call:reject", { callId, from });
    this.ending = true;
    this.clear();
  }

  // Old apps clean up at once, and again when the server tells of the end.
  end(callId = this.callId ?? this.ringing?.callId) {
    if (callId == null) return; // the server has told of the end: the app shows no button any more
    this.#emit("call:end", { callId });
    this.ending = true;
    this.clear();
  }

  async endAndInitiate(to, callType) {
    this.end();
    return this.initiate(to, callType);
  }

  async status(userId) {
    const told = this.#next("user:status");
    this.#emit("user:status", { userId });
    return told;
  }

  // The message with which a method fails.
  async failure(method, ...args) {
    const result = await this[method](...args).catch((error) => error);
    if (result instanceof Error) return result.message;
    throw new Error(`${method} did not fail: ${JSON.stringify(result)}`);
  }

  raw(event, payload) {
    this.socket.emit(event, payload);
  }

  disconnect() {
    this.clear();
    this.socket.disconnect();
  }

  // The network breaks without a word; the client library connects again by itself.
  breaks() {
    const { engine } = this.socket.io;
    const ws = engine.transport.ws;
    if (ws?.terminate !== undefined) ws.terminate();
    else engine.transport.onClose("test");
  }

  // --- what a test wants to know ---

  events(name) {
    return this.received.filter(([event]) => event === name).map(([, payload]) => payload);
  }

  log() {
    return this.received;
  }

  snapshot() {
    const { callId, ringing, errors, disconnects, joins } = this;
    const transport = this.socket.io.engine?.transport?.name;
    const media = [this.pc?.signalingState, this.pc?.connectionState, this.stream && this.media.plays(this.stream)];
    return { connected: this.socket.connected, callId, ringing, errors, disconnects, joins, transport, media, added: this.added.length };
  }

  // The payload of the `count`th event of this name since the beginning.
  async nth(name, count = 1, ms = 15_000) {
    return this.#until(() => this.events(name)[count - 1], `${count} ${name}`, ms);
  }

  async transportIs(name) {
    return this.#until(() => this.socket.io.engine?.transport?.name === name, `transport ${name}`);
  }

  async connects(count) {
    return this.#until(() => this.joins >= count && this.socket.connected, `${count} joins`);
  }

  async disconnected() {
    return this.#until(() => this.disconnects[0], "a disconnect");
  }

  async refused() {
    return this.#until(() => this.refusal, "a connection error");
  }

  async flows() {
    return this.#until(() => this.pc?.connectionState === "connected" && this.stream && this.media.plays(this.stream), "media");
  }


  // --- the app ---

  clear() {
    this.local?.getTracks().forEach((track) => track.stop());
    this.pc?.close();
    this.pc = this.local = this.stream = this.callId = this.ringing = this.remote = this.earlyOffer = undefined;
    this.initiator = false;
    this.added = [];
  }

  #listen() {
    const { socket } = this;
    socket.on("connect", () => {
      if (["at once", "in the handshake"].includes(this.habits.joins)) return;
      this.#emit("user:join", { userId: this.userId });
      if (this.habits.joins === "twice") this.#emit("user:join", { userId: this.userId });
    });
    socket.on("connect_error", (error) => {
      this.refusal = error.message;
      this.#tell();
    });
    socket.on("disconnect", (reason) => {
      this.disconnects.push(reason);
      this.#tell();
    });
    const handlers = {
      "user:joined": () => (this.joins += 1),
      "call:incoming": (call) => (this.ringing = call),
      "call:initiated": () => {},
      "call:accepted": () => this.initiator && this.habits.offers === "when accepted" && this.#offer(),
      "call:rejected": () => this.#over(),
      "call:ended": () => this.#over(),
      "call:offer": ({ offer, from }) => {
        this.remote = from;
        if (this.pc !== undefined) return this.#answer(offer);
        this.earlyOffer = offer; // it rings here; answered when the user has accepted
      },
      "call:answer": ({ answer }) => this.pc.setRemoteDescription(this.media.description(answer)),
      "ice:candidate": async ({ candidate }) => {
        await this.pc.addIceCandidate(this.media.candidate(candidate));
        this.added.push(candidate);
      },
      "user:status": () => {},
      error: () => {},
    };
    for (const [event, handle] of Object.entries(handlers)) {
      socket.on(event, async (payload) => {
        this.received.push([event, payload]);
        // What was on its way when the user hung up is for nobody.
        const late = this.ending && ["call:offer", "call:answer", "ice:candidate"].includes(event);
        try {
          if (!late) await handle(payload);
        } catch (error) {
          this.errors.push(`${event}: ${error}`);
        }
        this.#tell();
      });
    }
  }

  #over() {
    this.ending = false;
    this.clear();
  }

  async #open() {
    this.local = await this.media.open(this.callType);
    const pc = (this.pc = this.media.connection());
    this.local.getTracks().forEach((track) => pc.addTrack(track, this.local));
    this.held = this.habits.candidates === "before the answer" ? undefined : [];
    pc.onicecandidate = ({ candidate }) => {
      if (!candidate) return;
      if (this.held !== undefined) this.held.push(candidate);
      else this.#candidate(candidate);
    };
    pc.ontrack = ({ streams }) => {
      this.stream = streams[0];
      this.#tell();
    };
    pc.onconnectionstatechange = () => this.#tell();
  }

  #candidate(candidate) {
    this.#emit("ice:candidate", { candidate, from: this.userId, to: this.remote });
  }

  #described() {
    const held = this.held ?? [];
    this.held = undefined;
    held.forEach((candidate) => this.#candidate(candidate));
  }

  async #offer() {
    const offer = await this.pc.createOffer();
    await this.pc.setLocalDescription(offer);
    this.#emit("call:offer", { offer, from: this.userId, to: this.remote, callType: this.callType });
    this.#described();
  }

  async #answer(offer) {
    const { pc } = this;
    await pc.setRemoteDescription(this.media.description(offer));
    const answer = await pc.createAnswer();
    await pc.setLocalDescription(answer);
    if (this.habits.candidates === "before the answer") await this.media.gathered(pc);
    this.#emit("call:answer", { answer, from: this.userId, to: this.remote });
    this.#described();
  }

  #emit(event, payload) {
    this.socket.emit(event, { ...payload, ...this.habits.extra });
  }

  // --- waiting ---

  #either(event) {
    return new Promise((resolve, reject) => {
      this.socket.once(event, resolve);
      this.socket.once("error", ({ message }) => reject(new Error(message)));
    });
  }

  #next(event) {
    return new Promise((resolve) => this.socket.once(event, resolve));
  }

  #tell() {
    this.changed.forEach((look) => look());
  }

  #until(found, what, ms = 15_000) {
    return new Promise((resolve, reject) => {
      const look = () => {
        const value = found();
        if (!value) return;
        stop();
        resolve(value);
      };
      const given = () => {
        stop();
        const state = JSON.stringify({ ...this.snapshot(), last: this.received.slice(-12).map(([event]) => event) });
        reject(new Error(`${this.userId} waited ${ms} ms for ${what}: ${state}`));
      };
      const timer = setTimeout(given, ms);
      const again = setInterval(look, 100);
      const stop = () => {
        clearTimeout(timer);
        clearInterval(again);
        this.changed.delete(look);
      };
      this.changed.add(look);
      look();
    });
  }
}
