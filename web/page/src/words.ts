import { SignallingError, type Call } from "../../client/src/index.js";

/** Why a call of one's own could not be made, for people. */
export function refused(error: unknown, user: string): string {
  switch (error instanceof SignallingError ? error.code : "") {
    case "user_not_found":
      return `${user} can’t be reached right now`;
    case "user_unavailable":
      return `${user} is busy in another call`;
    case "already_in_call":
      return "You are in a call already, perhaps in another tab";
    case "rate_limited":
      return "Too many calls at once. Wait a moment";
    case "bad_request":
      return `“${user}” is not a name that can be called`;
    case "unavailable":
    case "timeout":
    case "disconnected":
    case "closed":
      return "The service can’t be reached. Try again";
    default:
      return "The call could not be made";
  }
}

/** How far a call is that is on, for people. `joined`: the server is in reach. */
export function progress({ incoming, state }: Call, joined: boolean): string {
  switch (state) {
    case "dialling":
      return joined ? "Calling…" : "No connection to the server. Waiting to call…";
    case "ringing":
      return incoming ? "Connecting…" : joined ? "Ringing…" : "No connection to the server. It may still be ringing…";
    case "connecting":
      return "Connecting…";
    case "reconnecting":
      return "Reconnecting…";
    default:
      return "";
  }
}

const STEP_S = 5;

/** How long a call can wait for the server; not said anew each second, as it is read out. */
export function outOfReach(leftMs: number | undefined): string {
  if (leftMs === undefined) {
    return "The server is out of reach.";
  }
  const seconds = Math.ceil(leftMs / 1000 / STEP_S) * STEP_S;
  return seconds > 0
    ? `The server is out of reach. The call can wait ${seconds} s for it.`
    : "The server has been out of reach for too long. The call may be over.";
}

/** How a call ended. `rang`: it had not been accepted. */
export function ended(reason: string, user: string, { incoming, rang, mine }: { incoming: boolean; rang: boolean; mine: boolean }): string {
  switch (reason) {
    case "rejected":
      return incoming ? "Declined" : `${user} declined`;
    case "busy":
      return `${user} is busy in another call`;
    case "timeout":
      return incoming ? `Missed call from ${user}` : `${user} didn’t answer`;
    case "answered_elsewhere":
      return "Answered on another device";
    case "rejected_elsewhere":
      return "Declined on another device";
    case "connection_lost":
    case "ice_failed":
      return "The connection was lost";
    case "ice_timeout":
    case "media_failed":
      return "No connection could be made";
    case "server_shutdown":
      return "The service was stopped";
  }
  if (rang) {
    return incoming ? `Missed call from ${user}` : "Call cancelled";
  }
  return mine ? "Call ended" : `${user} hung up`;
}

export function duration(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const parts = [Math.floor(seconds / 60) % 60, seconds % 60].map((part) => String(part).padStart(2, "0"));
  return (seconds >= 3600 ? `${Math.floor(seconds / 3600)}:` : "") + parts.join(":");
}
