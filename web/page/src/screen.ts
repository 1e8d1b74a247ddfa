import type { Call, SignallingClient, StatsSummary } from "../../client/src/index.js";
import { Devices } from "./devices.js";
import { byId, face, notify } from "./dom.js";
import type { Log } from "./log.js";
import { quality } from "./quality.js";
import type { Tones } from "./tones.js";
import { duration, ended, refused } from "./words.js";

type Type = "audio" | "video";

/** How a call went, for the list of recent ones. */
export interface Outcome {
  user: string;
  type: Type;
  incoming: boolean;
  missed: boolean;
}

const FIGURES_MS = 700;
const AFTER_MS = 6_000;

/** The screen of a call, from dialling to how it ended. One call at a time. */
export class Screen {
  since: number | undefined;
  #call: Call | undefined;
  #user = "";
  #type: Type = "audio";
  /** Whether one's own camera is wanted. */
  #wanted = false;
  #dialling = 0;
  #figures: StatsSummary | undefined;
  #ticker: ReturnType<typeof setInterval> | undefined;
  #closer: ReturnType<typeof setTimeout> | undefined;
  #offline = false;
  #media = "";
  /** Whether pictures came between the last two looks at the figures. */
  #moves = false;
  readonly #screen = byId("call");
  readonly #remote = byId<HTMLVideoElement>("remote");
  readonly #self = byId<HTMLVideoElement>("self");
  readonly #devices = new Devices(() => this.#call, this.#remote, () => this.#draw());

  constructor(
    private readonly client: SignallingClient,
    private readonly tones: Tones,
    private readonly log: Log,
    private readonly over: (outcome: Outcome) => void,
  ) {
    byId("hangup").onclick = () => this.hangup();
    byId("mute").onclick = () => this.#toggle("audio");
    byId("camera").onclick = () => void this.#toggle("video");
    byId("done").onclick = () => this.#close();
    byId("again").onclick = () => void this.dial(this.#user, this.#type);
    this.#remote.onresize = () => this.#draw();
  }

  /** Whether a call is on, or being made. */
  get busy(): boolean {
    return this.#dialling > 0 || (this.#call !== undefined && this.#call.state !== "ended");
  }

  /** Who is being called and has not been reached yet. */
  get calling(): string | undefined {
    return this.#dialling > 0 ? this.#user : undefined;
  }

  async dial(user: string, type: Type): Promise<void> {
    if (this.busy) {
      return;
    }
    this.#open(user, type);
    this.#say(`Calling ${type === "video" ? "by video" : ""}…`.replace(" …", "…"));
    this.tones.ringBack();
    const attempt = (this.#dialling = Date.now());
    try {
      const call = await this.client.call(user, { audio: true, video: type === "video" });
      if (this.#dialling !== attempt) {
        return void call.hangup().catch(() => undefined);
      }
      this.#dialling = 0;
      this.#take(call);
      this.#tellMedia(type === "video");
    } catch (error) {
      if (this.#dialling === attempt) {
        this.#dialling = 0;
        this.log.note("refused", { message: String(error) });
        this.over({ user, type, incoming: false, missed: false });
        this.#finish(refused(error, user));
      }
    }
  }

  async accept(call: Call, video: boolean): Promise<void> {
    this.#open(call.user, call.type);
    this.#say("Connecting…");
    this.#take(call);
    this.#wanted = video;
    try {
      await call.accept({ audio: true, video });
      this.#tellMedia(video);
    } catch (error) {
      if (call.state !== "ended") {
        this.log.note("not accepted", { message: String(error) });
        call.hangup().catch(() => undefined);
      }
    }
  }

  /** Go on with a call of before the page was reloaded. */
  restore(call: Call, since: number | undefined): void {
    this.#open(call.user, call.type);
    this.since = since;
    this.#take(call);
    this.#say("Reconnecting…");
  }

  hangup(): void {
    if (this.#dialling > 0) {
      this.#dialling = 0;
      this.over({ user: this.#user, type: this.#type, incoming: false, missed: false });
      this.#finish("Call cancelled");
    } else {
      this.#call?.hangup().catch((error: unknown) => this.log.note("hang-up not told", { message: String(error) }));
    }
  }

  /** The connection with the server broke, or is back. */
  offline(away: boolean): void {
    this.#offline = away;
    this.#draw();
  }

  #open(user: string, type: Type): void {
    clearTimeout(this.#closer);
    this.#user = user;
    this.#type = type;
    this.#wanted = type === "video";
    this.#moves = false;
    this.#call = undefined;
    this.since = undefined;
    this.#figures = undefined;
    this.#media = "";
    this.#remote.srcObject = this.#self.srcObject = null;
    face(byId("call-face"), user).classList.add("pulse");
    byId("call-name").textContent = byId("call-peer").textContent = user;
    byId("after").hidden = true;
    byId("controls").hidden = false;
    this.#screen.hidden = false;
    byId("bar").inert = byId("home").inert = true;
    byId("hangup").focus();
    this.#draw();
  }

  #take(call: Call): void {
    this.#call = call;
    let rang = call.state === "ringing";
    this.#self.srcObject = call.local;
    this.#show(call.remote);
    call.on("remote", (remote) => this.#show(remote));
    call.on("state", (state) => {
      rang = rang && state === "ended";
      this.log.note("call", { state });
      if (state !== "ringing") {
        this.tones.stop();
      }
      if (state === "connecting" || state === "reconnecting") {
        this.#say(state === "connecting" ? "Connecting…" : "Reconnecting…");
      } else if (state === "connected") {
        this.since ??= Date.now();
        this.#say("");
        this.#tellMedia(this.#wanted);
      }
      this.#draw();
    });
    call.on("error", (error) => this.log.note("error", { message: String(error) }));
    call.on("ended", ({ reason, by }) => {
      const mine = by !== call.user;
      const missed = call.incoming && rang;
      this.over({ user: call.user, type: call.type, incoming: call.incoming, missed });
      const words = ended(reason, call.user, { incoming: call.incoming, rang, mine });
      const lasted = this.since === undefined ? "" : ` · ${duration(Date.now() - this.since)}`;
      this.#finish(words + lasted);
    });
    if (!call.incoming && call.state === "ringing") {
      this.#say("Ringing…");
    } else if (call.state !== "ringing") {
      this.tones.stop();
      this.#say(call.state === "connecting" ? "Connecting…" : "");
    }
    if (call.state === "connected") {
      this.since ??= Date.now();
    }
    clearInterval(this.#ticker);
    this.#ticker = setInterval(() => void this.#tick(call), FIGURES_MS);
    this.#draw();
  }

  #finish(words: string): void {
    clearInterval(this.#ticker);
    void this.#devices.show(false);
    this.tones.over();
    this.#remote.srcObject = this.#self.srcObject = null;
    this.log.figures(undefined);
    this.#say(words);
    this.#draw();
    byId("call-face").classList.remove("pulse");
    byId("after").hidden = false;
    byId("controls").hidden = true;
    byId("again").focus();
    this.#closer = setTimeout(() => this.#close(), AFTER_MS);
  }

  #close(): void {
    clearTimeout(this.#closer);
    this.tones.stop();
    this.#screen.hidden = true;
    byId("bar").inert = byId("home").inert = false;
    byId("contact").focus();
  }

  async #tick(call: Call): Promise<void> {
    if (this.since !== undefined) {
      byId("time").textContent = duration(Date.now() - this.since);
    }
    const stats = await call.stats();
    if (call !== this.#call || call.state === "ended") {
      return;
    }
    const { level, text } = quality(stats, this.#figures);
    this.#moves = stats.framesDecoded > (this.#figures?.framesDecoded ?? 0);
    this.#figures = stats;
    this.#draw();
    const bars = byId("quality");
    bars.className = `quality ${level}`;
    bars.setAttribute("aria-label", text);
    bars.title = text;
    this.log.figures(stats);
  }

  async #toggle(kind: "audio" | "video"): Promise<void> {
    const call = this.#call;
    if (call === undefined || call.state === "ended") {
      return;
    }
    const tracks = call.local.getTracks().filter((track) => track.kind === kind);
    if (tracks.length > 0) {
      call.mute(kind, tracks.some((track) => track.enabled));
    } else {
      try {
        await call.switchDevice(kind);
        this.#media = "";
      } catch (error) {
        notify(await whyNot(kind, error));
      }
    }
    this.#draw();
  }

  /** Say what is missing of the media that was wanted. */
  #tellMedia(video: boolean): void {
    const call = this.#call;
    if (call === undefined || call.state === "ended") {
      return;
    }
    const missing = (["audio", "video"] as const).filter(
      (kind) => (kind === "audio" || video) && !call.local.getTracks().some((track) => track.kind === kind),
    );
    const first = missing.at(-1);
    if (first === undefined) {
      this.#media = "";
      return this.#draw();
    }
    void whyNot(first).then((words) => {
      this.#media = missing.length === 2 ? `${words} The other side can’t hear or see you.` : words;
      this.#draw();
    });
  }

  #say(words: string): void {
    byId("call-state").textContent = words;
  }

  /** Show what there is of the other side's stream, which gets its tracks one by one. */
  #show(remote: MediaStream): void {
    // Chromium goes on with tracks that a stream got later only if it is told.
    this.#remote.srcObject = remote;
    remote.getTracks().forEach((track) => (track.onunmute = track.onmute = track.onended = () => this.#draw()));
    this.#draw();
    this.#remote.play().catch(() => {
      // Without a click on this page it may not sound; the next click will do.
      document.addEventListener("click", () => void this.#remote.play().catch(() => undefined), { once: true });
    });
  }

  #draw(): void {
    const call = this.#call;
    const live = call !== undefined && call.state !== "ended";
    const on = (kind: string) => live && call.local.getTracks().some((track) => track.kind === kind && track.enabled);
    const up = live && (call.state === "connected" || call.state === "reconnecting");
    const seen = up && call.remote.getVideoTracks().some((track) => track.readyState === "live" && (!track.muted || this.#moves));
    this.#screen.classList.toggle("seen", seen && this.#remote.videoWidth > 0);
    this.#self.hidden = !on("video");
    byId("top").hidden = !up;
    button("mute", on("audio"), "mic", ["Mute microphone", "Unmute microphone"]);
    button("camera", on("video"), "video", ["Turn camera off", "Turn camera on"]);
    (["mute", "camera", "devices-open"] as const).forEach((id) => (byId<HTMLButtonElement>(id).disabled = !live));
    byId("call-face").classList.toggle("pulse", !up && (live || this.#dialling > 0));
    const words = !live ? "" : call.state === "reconnecting" ? "Reconnecting…" : this.#offline ? "The server is out of reach. The call goes on." : this.#media;
    byId("call-banner").textContent = words;
    byId("call-banner").hidden = words === "";
  }
}

function button(id: string, on: boolean, name: string, [off, turnOn]: [string, string]): void {
  const element = byId(id);
  element.classList.toggle("off", !on);
  element.setAttribute("aria-label", on ? off : turnOn);
  element.title = on ? off : turnOn;
  element.querySelector("use")?.setAttribute("href", `#i-${on ? name : `${name}-off`}`);
}

async function whyNot(kind: "audio" | "video", error?: unknown): Promise<string> {
  const what = kind === "audio" ? "microphone" : "camera";
  if (navigator.mediaDevices === undefined) {
    return `The browser gives no ${what} to a page without HTTPS.`;
  }
  const refusal = (error as { name?: string } | undefined)?.name === "NotAllowedError";
  const name = (kind === "audio" ? "microphone" : "camera") as PermissionName;
  const state = await navigator.permissions?.query({ name }).then((status) => status.state, () => "");
  return refusal || state === "denied"
    ? `No access to your ${what}. Allow it beside the address of this page.`
    : `No ${what} was found, or something else uses it.`;
}
