import type { Call, Kind, SignallingClient, StatsSummary } from "../../client/src/index.js";
import { Devices } from "./devices.js";
import { byId, face, notify } from "./dom.js";
import type { Log } from "./log.js";
import { quality } from "./quality.js";
import type { Tones } from "./tones.js";
import { duration, ended, outOfReach, progress, refused } from "./words.js";

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
  #figures: StatsSummary | undefined;
  #ticker: ReturnType<typeof setInterval> | undefined;
  #closer: ReturnType<typeof setTimeout> | undefined;
  #media = "";
  #mirrored: MediaStreamTrack | undefined;
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
    byId("hangup").onclick = () => this.#hangup();
    byId("mute").onclick = () => void this.#toggle("audio");
    byId("camera").onclick = () => void this.#toggle("video");
    byId("done").onclick = () => this.#close();
    byId("again").onclick = () => this.dial(this.#user, this.#type);
    this.#remote.onresize = () => this.#draw();
  }

  /** Whether a call is on, or being made. */
  get busy(): boolean {
    return this.#call !== undefined && this.#call.state !== "ended";
  }

  shows(call: Call): boolean {
    return call === this.#call;
  }

  /** Who is being called and has not been reached yet. */
  get calling(): string | undefined {
    return this.#call?.state === "dialling" ? this.#user : undefined;
  }

  dial(user: string, type: Type): void {
    if (!this.busy) {
      this.#open(user, type);
      this.#take(this.client.call(user, { audio: true, video: type === "video" }));
    }
  }

  async accept(call: Call, video: boolean): Promise<void> {
    this.#instead(call);
    this.#wanted = video;
    this.#take(call);
    const accepted = call.accept({ audio: true, video });
    this.#draw();
    try {
      await accepted;
      this.#tellMedia(call, video);
    } catch (error) {
      if (call.state !== "ended") {
        this.log.note("not accepted", { message: String(error) });
        call.hangup().catch(() => undefined);
      }
    }
  }

  /** Go on with a call that a page before was in, and that asks for its media anew. */
  rejoin(call: Call): void {
    this.#instead(call);
    this.#take(call);
    void call.rejoin().then(() => this.#tellMedia(call, call.type === "video"));
  }

  /** Go on with a call of before the page was reloaded. */
  restore(call: Call, since: number | undefined): void {
    this.#open(call.user, call.type);
    this.since = since;
    this.#take(call);
  }

  /** The connection with the server broke, or is back. */
  online(): void {
    this.#draw();
  }

  /** Show this call; one that is being dialled makes room. */
  #instead(call: Call): void {
    const before = this.#call;
    this.#open(call.user, call.type);
    this.#call = call;
    before?.hangup().catch(() => undefined);
  }

  #hangup(): void {
    this.#call?.hangup().catch((error: unknown) => this.log.note("hang-up not told", { message: String(error) }));
  }

  #open(user: string, type: Type): void {
    clearTimeout(this.#closer);
    this.#user = user;
    this.#type = type;
    this.#wanted = type === "video";
    this.#moves = false;
    this.#call = undefined;
    this.#say("");
    this.since = undefined;
    this.#figures = undefined;
    this.#media = "";
    this.#remote.srcObject = null;
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
    let rang = call.state === "ringing" || call.state === "dialling";
    this.#show(call.remote);
    call.on("remote", (remote) => call === this.#call && this.#show(remote));
    call.on("state", (state) => {
      rang = rang && (state === "ringing" || state === "ended");
      this.log.note("call", { state });
      if (call !== this.#call) {
        return;
      }
      if (state === "connected") {
        this.since ??= Date.now();
      }
      if (state === "connected" || state === "ringing") {
        this.#tellMedia(call, this.#wanted);
      }
      this.#draw();
    });
    call.on("error", (error) => this.log.note("error", { message: String(error) }));
    call.on("ended", ({ reason, by, error }) => {
      const mine = by !== call.user;
      const missed = call.incoming && rang;
      this.over({ user: call.user, type: call.type, incoming: call.incoming, missed });
      if (error !== undefined) {
        this.log.note("refused", { message: String(error) });
      }
      if (call === this.#call) {
        const words = error === undefined ? ended(reason, call.user, { incoming: call.incoming, rang, mine }) : refused(error, call.user);
        const lasted = this.since === undefined ? "" : ` · ${duration(Date.now() - this.since)}`;
        this.#finish(words + lasted);
      }
    });
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
    this.#remote.srcObject = null;
    this.log.figures(undefined);
    this.#draw();
    this.#say(words);
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

  async #toggle(kind: Kind): Promise<void> {
    const call = this.#call;
    if (call === undefined || call.state === "ended") {
      return;
    }
    try {
      const done = call.sends(kind)
        ? call.mute(kind)
        : call.muted(kind)
          ? call.mute(kind, false)
          : call.switchDevice(kind).then(() => void (this.#media = ""));
      this.#draw();
      await done;
    } catch (error) {
      notify(await whyNot(kind, error));
    }
    this.#draw();
  }

  /** Say what is missing of the media that was wanted. */
  #tellMedia(call: Call, video: boolean): void {
    if (call !== this.#call || call.state === "ended") {
      return;
    }
    const missing = (["audio", "video"] as const).filter(
      (kind) => (kind === "audio" || video) && !call.sends(kind) && !call.muted(kind),
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
    const state = byId("call-state");
    if (state.textContent !== words) {
      state.textContent = words;
    }
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
    const on = (kind: Kind) => live && call.sends(kind);
    const up = live && (call.state === "connected" || call.state === "reconnecting");
    const seen = up && call.remote.getVideoTracks().some((track) => track.readyState === "live" && (!track.muted || this.#moves));
    this.#screen.classList.toggle("seen", seen && this.#remote.videoWidth > 0);
    this.#mirror(live ? call.local : undefined);
    this.#self.hidden = !on("video");
    byId("top").hidden = !up;
    button("mute", on("audio"), "mic", ["Mute microphone", "Unmute microphone"]);
    button("camera", on("video"), "video", ["Turn camera off", "Turn camera on"]);
    (["mute", "camera", "devices-open"] as const).forEach((id) => (byId<HTMLButtonElement>(id).disabled = !live));
    byId("call-face").classList.toggle("pulse", live && !up);
    if (live) {
      this.#say(progress(call, this.client.joined));
      this.tones.ringingBack(!call.incoming && call.state === "ringing" && this.client.joined);
    }
    const words = !up ? "" : !this.client.joined ? outOfReach(this.client.graceLeftMs) : call.state === "reconnecting" ? "Reconnecting…" : this.#media;
    const banner = byId("call-banner");
    if (banner.textContent !== words) {
      banner.textContent = words;
    }
    banner.hidden = words === "";
  }

  /** Show what one's own camera sees, which is another track each time it was off. */
  #mirror(local: MediaStream | undefined): void {
    const track = local?.getVideoTracks()[0];
    if (track !== this.#mirrored) {
      this.#mirrored = track;
      this.#self.srcObject = track === undefined ? null : new MediaStream([track]);
    }
  }
}

function button(id: string, on: boolean, name: string, [off, turnOn]: [string, string]): void {
  const element = byId(id);
  element.classList.toggle("off", !on);
  element.setAttribute("aria-label", on ? off : turnOn);
  element.title = on ? off : turnOn;
  element.querySelector("use")?.setAttribute("href", `#i-${on ? name : `${name}-off`}`);
}

async function whyNot(kind: Kind, error?: unknown): Promise<string> {
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
