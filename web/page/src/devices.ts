import type { Call, Kind } from "../../client/src/index.js";
import { byId, make, notify } from "./dom.js";

type Output = HTMLVideoElement & { setSinkId?: (id: string) => Promise<void> };

/** The menu of microphones, cameras and speakers of a call. */
export class Devices {
  readonly #menu = byId("devices");
  readonly #opener = byId<HTMLButtonElement>("devices-open");

  /** `changed`: another device is in use. */
  constructor(
    private readonly call: () => Call | undefined,
    private readonly remote: Output,
    changed: () => void,
  ) {
    this.#opener.onclick = () => void this.show(this.#menu.hidden === true);
    this.#menu.onkeydown = ({ key }) => {
      if (key === "Escape") {
        void this.show(false);
        this.#opener.focus();
      }
    };
    const use = (id: string, to: (deviceId: string) => Promise<unknown> | undefined) => {
      const select = byId<HTMLSelectElement>(id);
      select.onchange = () => {
        Promise.resolve(to(select.value)).then(changed, () => {
          notify("That device cannot be used");
          void this.#fill();
        });
      };
    };
    use("mic-select", (id) => this.call()?.switchDevice("audio", id));
    use("camera-select", (id) => this.call()?.switchDevice("video", id));
    use("speaker-select", (id) => this.remote.setSinkId?.(id));
    navigator.mediaDevices?.addEventListener("devicechange", () => !this.#menu.hidden && void this.#fill());
  }

  async show(open: boolean): Promise<void> {
    this.#menu.hidden = !open;
    this.#opener.setAttribute("aria-expanded", String(open));
    if (open) {
      await this.#fill();
      byId("mic-select").focus();
    }
  }

  async #fill(): Promise<void> {
    const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    this.#options("mic-select", all.filter(({ kind }) => kind === "audioinput"), this.#current("audio"));
    this.#options("camera-select", all.filter(({ kind }) => kind === "videoinput"), this.#current("video"));
    const speakers = this.remote.setSinkId === undefined ? [] : all.filter(({ kind }) => kind === "audiooutput");
    this.#options("speaker-select", speakers, this.remote.sinkId);
    byId("speaker-label").hidden = byId("speaker-select").hidden = speakers.length === 0;
  }

  #options(id: string, devices: MediaDeviceInfo[], current: string | undefined): void {
    const select = byId<HTMLSelectElement>(id);
    const options = devices.map(({ deviceId, label }, n) => make("option", { value: deviceId }, label || `Device ${n + 1}`));
    select.replaceChildren(...(options.length > 0 ? options : [make("option", {}, "None found")]));
    select.disabled = options.length === 0;
    if (options.some(({ value }) => value === current)) {
      select.value = current!;
    }
  }

  #current(kind: Kind): string | undefined {
    return this.call()?.local.getTracks().find((track) => track.kind === kind)?.getSettings().deviceId;
  }
}
