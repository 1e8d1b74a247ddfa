import type { Call } from "../../client/src/index.js";
import { byId, face, notify } from "./dom.js";
import type { Tones } from "./tones.js";
import { ended } from "./words.js";

export interface Answers {
  accept(call: Call, video: boolean): void;
  /** It rang and was not accepted here. */
  passed(call: Call, missed: boolean): void;
}

/** The dialog of a call that comes in. */
export class Ringing {
  readonly #dialog = byId<HTMLDialogElement>("incoming");

  constructor(
    private readonly tones: Tones,
    private readonly answers: Answers,
  ) {
    this.#dialog.oncancel = (event) => event.preventDefault(); // not by mistake
  }

  show(call: Call): void {
    const video = call.type === "video";
    face(byId("incoming-face"), call.user);
    byId("incoming-name").textContent = call.user;
    byId("incoming-kind").textContent = video ? "Incoming video call" : "Incoming call";
    byId("accept-audio").hidden = !video;
    document.title = `${call.user} is calling`;
    this.#dialog.showModal();
    byId("accept").focus();
    this.tones.ring();

    const off = call.on("ended", ({ reason, by }) => {
      this.#hide();
      const mine = by !== call.user;
      const missed = ["timeout", "cancelled", "hangup", "connection_lost"].includes(reason) && !mine || reason === "timeout";
      this.answers.passed(call, missed);
      if (reason !== "rejected") {
        notify(ended(reason, call.user, { incoming: true, rang: true, mine }));
      }
    });
    const accept = (withVideo: boolean) => {
      off();
      this.#hide();
      this.answers.accept(call, withVideo);
    };
    byId("accept").onclick = () => accept(video);
    byId("accept-audio").onclick = () => accept(false);
    byId("decline").onclick = () => {
      this.#hide();
      call.reject().catch(() => notify("Declining could not be told; it may go on ringing"));
    };
  }

  #hide(): void {
    this.#dialog.close();
    this.tones.stop();
    document.title = "HelloTalk";
  }
}
