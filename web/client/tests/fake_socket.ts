type Ack = (failed: Error | null, answer?: object) => void;

/** A socket whose server is the test. */
export class FakeSocket {
  id: string | undefined;
  connected = false;
  /** How often a connection was asked for, and whether there is one to be had. */
  asked = 0;
  reachable = true;
  /** Whether the library connects again by itself. */
  active = true;
  io: { engine: { close: () => void } } | undefined;
  sent: { event: string; payload: Record<string, unknown>; ack: Ack }[] = [];
  #handlers = new Map<string, (payload: unknown) => void>();
  #connections = 0;

  on(event: string, handler: (payload: unknown) => void) {
    this.#handlers.set(event, handler);
  }
  timeout() {
    return { emit: (event: string, payload: Record<string, unknown>, ack: Ack) => this.sent.push({ event, payload, ack }) };
  }
  connect() {
    this.asked += 1;
    if (!this.reachable) {
      return this;
    }
    this.connected = true;
    this.#connections += 1;
    this.id = `socket ${this.#connections}`;
    this.say("connect");
    return this;
  }
  disconnect() {
    this.lose("io client disconnect");
    return this;
  }
  lose(reason = "transport close") {
    if (!this.connected) {
      return;
    }
    this.connected = false;
    this.say("disconnect", reason);
    this.sent.splice(0).forEach(({ ack }) => ack(new Error("disconnected")));
  }
  say(event: string, payload: unknown = {}) {
    this.#handlers.get(event)?.(payload);
  }
  /** Names of what was sent and not answered. */
  get events() {
    return this.sent.map(({ event }) => event);
  }
  take(event: string) {
    const found = this.sent.find((one) => one.event === event);
    if (found === undefined) {
      throw new Error(`${event} was not sent, but ${this.sent.map((one) => one.event).join()}`);
    }
    this.sent.splice(this.sent.indexOf(found), 1);
    return found;
  }
}

export const joined = (values: object = {}) => ({
  ok: true, userId: "alice", sessionId: "s", resume: { token: "t1", windowSeconds: 30 }, iceServers: [],
  resumed: false, seq: 5, ...values,
});

export const refused = (code: string, values: object = {}) => ({ ok: false, error: { code, message: code, retryable: false, ...values } });
