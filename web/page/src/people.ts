import { SignallingError, type SignallingClient, type Status } from "../../client/src/index.js";
import { byId, face, icon, make } from "./dom.js";
import { contacts, keepContacts, recents, type Recent } from "./kept.js";

const ASK_MS = 4_000;
/** Few are asked for one after the other; many with pauses, to stay within what the server allows. */
const FEW = 20;
const PAUSE_MS = 200;

export type Dial = (user: string, type: "audio" | "video") => void;

/** The lists of contacts, with who is online, and of recent calls. */
export class People {
  #users: string[];
  #statuses = new Map<string, Status>();
  #timer: ReturnType<typeof setInterval>;
  #asking = false;
  #again = false;
  #stopped = false;

  constructor(
    private readonly client: SignallingClient,
    private readonly name: string,
    private readonly dial: Dial,
  ) {
    this.#users = contacts(name);
    const form = byId<HTMLFormElement>("add");
    form.onsubmit = (event) => {
      event.preventDefault();
      this.add(byId<HTMLInputElement>("contact").value);
      form.reset();
    };
    this.#timer = setInterval(() => this.refresh(), ASK_MS);
    document.addEventListener("visibilitychange", this.refresh);
    this.draw();
    this.refresh();
  }

  stop(): void {
    this.#stopped = true;
    clearInterval(this.#timer);
    document.removeEventListener("visibilitychange", this.refresh);
  }

  add(text: string): void {
    const user = text.trim();
    if (user !== "" && user !== this.name && !this.#users.includes(user)) {
      this.#users.push(user);
      keepContacts(this.name, this.#users);
      this.draw();
      this.refresh();
    }
  }

  /** Ask who is there, one after the other, as long as somebody looks and the server is in reach. */
  refresh = (): void => {
    this.#again = true;
    if (!this.#asking) {
      void this.#round();
    }
  };

  /** What was known is no longer so. */
  forget(): void {
    this.#statuses.clear();
    this.draw();
  }

  get #looks(): boolean {
    return !this.#stopped && document.visibilityState === "visible" && this.client.joined;
  }

  async #round(): Promise<void> {
    this.#asking = true;
    while (this.#again && this.#looks) {
      this.#again = false;
      for (const user of [...this.#users]) {
        if (this.#looks) {
          await this.#ask(user);
        }
        if (this.#users.length > FEW) {
          await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
        }
      }
    }
    this.#asking = false;
  }

  async #ask(user: string): Promise<void> {
    const before = JSON.stringify(this.#statuses.get(user));
    try {
      this.#statuses.set(user, await this.client.status(user));
    } catch (error) {
      if (!(error instanceof SignallingError && error.code === "rate_limited")) {
        this.#statuses.delete(user);
      }
    }
    if (JSON.stringify(this.#statuses.get(user)) !== before) {
      this.draw();
    }
  }

  draw(): void {
    const focused = document.activeElement?.getAttribute("aria-label");
    const list = byId("contacts");
    list.replaceChildren(...this.#users.map((user) => this.#contact(user)));
    byId("contacts-empty").hidden = this.#users.length > 0;
    const calls = recents(this.name);
    byId("recents").replaceChildren(...calls.map((recent) => this.#recent(recent)));
    byId("recents-empty").hidden = calls.length > 0;
    if (focused) {
      [...document.querySelectorAll<HTMLElement>("#home button")]
        .find((button) => button.getAttribute("aria-label") === focused)?.focus();
    }
  }

  #contact(user: string): HTMLElement {
    const status = this.#statuses.get(user);
    const [text, dot] = status === undefined ? ["…", ""] : status.isInCall ? ["In a call", "busy"] : status.isOnline ? ["Online", "online"] : ["Offline", ""];
    const forget = this.#button("forget", `Remove ${user}`, "close", () => {
      this.#users = this.#users.filter((other) => other !== user);
      keepContacts(this.name, this.#users);
      this.draw();
    });
    return this.#row(user, dot, make("span", {}, text), [
      this.#button("act", `Call ${user} by audio`, "phone", () => this.dial(user, "audio")),
      this.#button("act", `Call ${user} by video`, "video", () => this.dial(user, "video")),
      forget,
    ]);
  }

  #recent({ user, type, incoming, missed, at }: Recent): HTMLElement {
    const today = new Date(at).toDateString() === new Date().toDateString();
    const when = new Date(at).toLocaleString([], { ...(!today && { weekday: "short" }), hour: "2-digit", minute: "2-digit" });
    const what = missed ? "Missed" : incoming ? "Incoming" : "Outgoing";
    const text = make("span", missed ? { class: "missed" } : {}, `${what} ${type}, ${when}`);
    const back = this.#button("act", `Call ${user} back by ${type}`, type === "video" ? "video" : "phone", () => this.dial(user, type));
    return this.#row(user, undefined, text, [icon(incoming ? "in" : "out", "mark"), back]);
  }

  #row(user: string, dot: string | undefined, text: HTMLElement, rest: (HTMLElement | SVGElement)[]): HTMLElement {
    const picture = face(make("span", { class: "face", "aria-hidden": "true" }), user);
    if (dot !== undefined) {
      picture.append(make("i", { class: `dot ${dot}` }));
    }
    return make("li", { class: "row" }, picture, make("div", { class: "who" }, make("b", {}, user), text), ...rest);
  }

  #button(css: string, label: string, name: string, act: () => void): HTMLButtonElement {
    const button = make("button", { class: css, type: "button", "aria-label": label, title: label }, icon(name));
    button.onclick = act;
    return button;
  }
}
