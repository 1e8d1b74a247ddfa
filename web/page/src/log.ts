import type { Socket } from "socket.io-client";
import type { StatsSummary } from "../../client/src/index.js";
import { byId, make } from "./dom.js";

const LINES_MAX = 300;
const BRIEF_MAX = 120;

/** The developer drawer: every event of this session as it passes, and the figures of the call. */
export class Log {
  readonly #lines = byId<HTMLOListElement>("log");

  constructor() {
    const drawer = byId("drawer");
    const opener = byId("drawer-open");
    const show = (open: boolean) => {
      drawer.hidden = !open;
      opener.setAttribute("aria-expanded", String(open));
      (open ? byId("drawer-close") : opener).focus();
    };
    opener.onclick = () => show(drawer.hidden);
    byId("drawer-close").onclick = () => show(false);
    byId("drawer-clear").onclick = () => this.#lines.replaceChildren();
    drawer.onkeydown = ({ key }) => {
      if (key === "Escape") {
        show(false); // and no `false` for other keys, which would keep them from what they do
      }
    };
  }

  /** Write down what passes through a socket. */
  watch(socket: Socket): void {
    socket.on("connect", () => this.note("connected", { id: socket.id, transport: socket.io.engine.transport.name }));
    socket.on("disconnect", (reason) => this.note("disconnected", { reason }));
    socket.on("connect_error", (error) => this.note("no connection", { message: error.message }));
    socket.onAny((event: string, payload: unknown) => this.#line("in", "←", event, payload));
    socket.onAnyOutgoing((event: string, payload: unknown) => this.#line("out", "→", event, payload));
  }

  /** Something that is no message. */
  note(event: string, payload: unknown): void {
    this.#line("note", "·", event, payload);
  }

  figures(stats: StatsSummary | undefined): void {
    const { roundTripMs, jitterMs, packetsLost, framesDecoded, bytesReceived, audioLevel, relayed } = stats ?? {};
    const round = (value: number | undefined, unit: string) => (value === undefined ? "–" : `${Math.round(value)}${unit}`);
    const figures: Record<string, string> = stats === undefined ? {} : {
      "Round trip": round(roundTripMs, " ms"), Jitter: round(jitterMs, " ms"), Lost: round(packetsLost, ""),
      Frames: round(framesDecoded, ""), Received: round((bytesReceived ?? 0) / 1024, " KiB"),
      Level: audioLevel === undefined ? "–" : audioLevel.toFixed(3), Path: relayed ? "relayed" : "direct",
    };
    byId("figures").replaceChildren(
      ...Object.entries(figures).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    );
  }

  #line(css: string, way: string, event: string, payload: unknown): void {
    const now = new Date();
    const time = `${now.toLocaleTimeString("en-GB")}.${String(now.getMilliseconds()).padStart(3, "0")}`;
    const text = JSON.stringify(payload ?? {}, withoutSecrets, 2);
    const brief = JSON.stringify(payload ?? {}, shorter).slice(0, BRIEF_MAX);
    this.#lines.prepend(
      make("li", {}, make("details", {},
        make("summary", {}, make("time", {}, time), make("span", { class: `way ${css}` }, way), make("b", {}, event),
          make("span", { class: "brief" }, brief)),
        make("pre", {}, text))),
    );
    while (this.#lines.childElementCount > LINES_MAX) {
      this.#lines.lastElementChild?.remove();
    }
  }
}

const withoutSecrets = (key: string, value: unknown) =>
  (key === "token" || key === "credential") && typeof value === "string" ? "…" : value;

const shorter = (key: string, value: unknown) =>
  key === "sdp" && typeof value === "string" ? `${value.length} characters` : withoutSecrets(key, value);
