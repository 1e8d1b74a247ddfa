import type { Call } from "../../client/src/index.js";
import { byId, face, notify } from "./dom.js";
import type { Tones } from "./tones.js";
import { ended } from "./words.js";

export interface Answers {
  accept(call: Call, video: boolean): void;
  /** Go on with a call that a page before was in. */
  rejoin(call: Call): void;
  /** It rang and was not accepted here. */
  passed(call: Call, missed: boolean): void;
}

/** The dialog of a call that comes in, or that goes on from a page before. It is there until that is answered. */
export class Ringing {
  readonly #dialog = byId<HTMLDialogElement>("incoming");
  #open = false;

  constructor(
    private readonly tones: Tones,
    private readonly answers: Answers,
  ) {
    // Not by mistake. A browser may let the first of these pass, and close it at the next.
    this.#dialog.oncancel = (event) => event.preventDefault();
    this.#dialog.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.preventDefault();
      }
    });
    this.#dialog.addEventListener("close", () => {
      if (this.#open) {
        this.#show();
      }
    });
  }

  /** Somebody calls. */
  show(call: Call): void {
    const video = call.type === "video";
    this.#say(call, video ? "Incoming video call" : "Incoming call", ["Decline", "Accept"]);
    byId("accept-audio").hidden = !video;
    document.title = `${call.user} is calling`;
    this.#show();
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
      call.reject().catch(() => notify("Declining could not be told; it may go on ringing"));
    };
  }

  /** This user is still in a call, of a page that is gone. */
  ongoing(call: Call): void {
    this.#say(call, "You are still in this call. Go on with it?", ["End it", "Rejoin"]);
    byId("accept-audio").hidden = true;
    this.#show();
    const off = call.on("ended", ({ reason, by }) => {
      this.#hide();
      notify(ended(reason, call.user, { incoming: false, rang: false, mine: by !== call.user }));
    });
    byId("accept").onclick = () => {
      off();
      this.#hide();
      this.answers.rejoin(call);
    };
    byId("decline").onclick = () => {
      call.hangup().catch(() => notify("That it is over could not be told"));
    };
  }

  #say(call: Call, kind: string, [no, yes]: [string, string]): void {
    face(byId("incoming-face"), call.user);
    byId("incoming-name").textContent = call.user;
    byId("incoming-kind").textContent = kind;
    byId("decline-text").textContent = no;
    byId("accept-text").textContent = yes;
  }

  #show(): void {
    this.#open = true;
    if (!this.#dialog.open) {
      this.#dialog.showModal();
    }
    byId("accept").focus();
  }

  #hide(): void {
    this.#open = false;
    this.#dialog.close();
    this.tones.stop();
    document.title = "HelloTalk";
  }
}
