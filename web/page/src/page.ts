import { io } from "socket.io-client";
import { SignallingClient, SignallingError, type Call } from "../../client/src/index.js";
import { byId, notify } from "./dom.js";
import { keepRecent, keepTab, takeTab, type Tab } from "./kept.js";
import { Log } from "./log.js";
import { People } from "./people.js";
import { Ringing } from "./ringing.js";
import { Screen, type Outcome } from "./screen.js";
import { Tones } from "./tones.js";

/** `/?relay`: media through TURN or not at all, to see whether that works. */
const RELAY = new URLSearchParams(location.search).has("relay");

const log = new Log();
const tones = new Tones();

/** Join as `tab.name`, and show everything of that user until they leave. */
async function start(tab: Tab): Promise<void> {
  const { name, token, memory, since } = tab;
  const before = new Set(memory?.calls.map(({ id }) => id));
  byId<HTMLInputElement>("name").value = name;
  const client = new SignallingClient({
    url: location.origin,
    userId: name,
    early: true, // on this page everybody is asked first
    ...(token !== undefined && { token: () => token }),
    ...(memory && { memory }),
    ...(RELAY && { rtc: { iceTransportPolicy: "relay" } }),
    connect: (url) => {
      const socket = io(url, { autoConnect: false, forceNew: true, transports: ["websocket", "polling"] });
      log.watch(socket);
      return socket;
    },
  });

  const over = (outcome: Outcome) => {
    keepRecent(name, { ...outcome, at: Date.now() });
    people?.draw();
    people?.refresh();
    // Both called at once, and the other's call is what is left.
    const waiting = client.calls.find((call) => call.incoming && call.state === "ringing");
    if (waiting !== undefined && !screen.shows(waiting)) {
      ringing.show(waiting);
    }
  };
  const screen = new Screen(client, tones, log, over);
  const ringing = new Ringing(tones, {
    accept: (call, video) => void screen.accept(call, video),
    rejoin: (call) => screen.rejoin(call),
    passed: ({ user, type }, missed) => over({ user, type, incoming: true, missed }),
  });
  let people: People | undefined;
  let gone = false;

  const ring = (call: Call) => {
    if (screen.calling !== call.user) {
      ringing.show(call);
    }
  };
  client.on("incoming", ring);
  client.on("ongoing", (call) => ringing.ongoing(call));
  client.on("joined", ({ kept }) => {
    link("Connected", false);
    screen.online();
    people?.refresh();
    if (!kept) {
      log.note("another session", {});
    }
  });
  client.on("disconnected", () => {
    link(people === undefined ? "Connecting…" : "Reconnecting…", true);
    screen.online();
    people?.forget();
    if (people === undefined) {
      byId("name-error").textContent = "The server is out of reach. Trying again…";
    }
  });
  client.on("closed", (error) => {
    gone = true;
    people?.stop();
    tones.stop();
    if (wantsToken(error)) {
      refused(error);
    } else {
      signIn(error.code === "closed" && error.message.includes("taken over") ? "This session goes on in another tab" : "");
    }
  });

  const keep = () => !gone && keepTab({ name, token, memory: client.memory(), since: screen.since });
  window.addEventListener("pagehide", keep);
  byId("leave").onclick = () => {
    window.removeEventListener("pagehide", keep);
    client.leave();
  };

  await client.join();
  byId("welcome").hidden = true;
  byId("home").hidden = byId("leave").hidden = byId("me").hidden = false;
  byId("me").textContent = name;
  people = new People(client, name, (user, type) => screen.dial(user, type));
  const call = client.calls.find(({ id }) => id !== undefined && before.has(id));
  if (call !== undefined) {
    screen.restore(call, since);
  } else if (before.size > 0) {
    notify("The call ended while this page was loading");
  } else {
    byId("contact").focus();
  }
  warn();
}

function link(words: string, away: boolean): void {
  const pill = byId("link");
  pill.hidden = false;
  pill.textContent = words;
  pill.classList.toggle("away", away);
}

function warn(): void {
  const warning = byId("warning");
  warning.textContent = navigator.mediaDevices === undefined
    ? "The browser gives no camera or microphone to a page without HTTPS. Others can’t hear or see you."
    : RELAY ? "Calls on this page go through a TURN server only." : "";
  warning.hidden = warning.textContent === "";
}

function wantsToken(error: Error): boolean {
  return error instanceof SignallingError && ["unauthorized", "token_expired"].includes(error.code);
}

/** Joining did not work; where the server wants a token, ask for one. */
function refused(error: Error): void {
  const field = byId<HTMLInputElement>("token");
  const unauthorized = wantsToken(error);
  const tried = field.value !== "";
  signIn(!unauthorized ? `That did not work: ${error.message}` : tried ? "This token is not good, not for that name, or has run out" : "");
  if (unauthorized) {
    byId("token-part").hidden = false;
    field.focus();
  }
}

function signIn(wrong = ""): void {
  byId("home").hidden = byId("call").hidden = byId("leave").hidden = byId("me").hidden = byId("link").hidden = true;
  byId("bar").inert = byId("home").inert = false;
  byId("welcome").hidden = false;
  byId("name-error").textContent = wrong;
  const form = byId<HTMLFormElement>("sign-in");
  const field = byId<HTMLInputElement>("name");
  const submit = form.querySelector("button")!;
  form.onsubmit = (event) => {
    event.preventDefault();
    const name = field.value.trim();
    if (name !== "") {
      submit.disabled = true;
      const token = byId<HTMLInputElement>("token").value.trim();
      start({ name, ...(token !== "" && { token }) })
        .catch(refused)
        .finally(() => (submit.disabled = false));
    }
  };
  field.focus();
}

const tab = takeTab();
if (tab === undefined) {
  signIn();
} else {
  start(tab).catch(refused);
}
