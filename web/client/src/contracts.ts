// Generated from shared/contracts/client.py by `python -m signalling.docgen`; do not edit.

export const CANDIDATES_MAX = 64;

export type ErrorCode = "bad_request" | "user_id_required" | "not_authenticated" | "unauthorized" | "token_expired" | "already_in_call" | "user_not_found" | "user_unavailable" | "call_not_found" | "invalid_state" | "receiver_not_found" | "rate_limited" | "unavailable";

export interface Resume {
  sessionId: string;
  token: string;
  lastSeq: number;
}

export interface Join {
  userId: string;
  token?: string | null;
  deviceId?: string | null;
  resume?: Resume | null;
}

export interface Initiate {
  to: string;
  callType: "audio" | "video";
  metadata?: unknown;
}

export interface Accept {
  callId: string;
  from?: string | null;
}

export interface Reject {
  callId: string;
  from?: string | null;
  reason?: string | null;
}

export interface Offer {
  from: string;
  to: string;
  callId?: string | null;
  offer: object;
  callType?: "audio" | "video" | null;
}

export interface Answer {
  from: string;
  to: string;
  callId?: string | null;
  answer: object;
}

export interface Candidate {
  from: string;
  to: string;
  callId?: string | null;
  candidate?: object | null;
  candidates?: (object | null)[] | null;
}

export interface End {
  callId: string;
  reason?: string | null;
}

export interface StatusQuery {
  userId: string;
}

export interface IceQuery {
}

export interface Refresh {
  token: string;
}

export interface CurrentCall {
  callId: string;
  peer: string;
  callType: "audio" | "video";
  state: "ringing" | "accepted";
}

export interface ResumeOffer {
  token: string;
  windowSeconds: number;
}

export interface Joined {
  userId: string;
  socketId: string;
  sessionId: string;
  resume: ResumeOffer;
  iceServers: object[];
  iceExpiresAt?: number | null;
  tokenSeconds?: number | null;
  resumed: boolean;
  call?: CurrentCall | null;
}

export interface Incoming {
  from: string;
  callType: "audio" | "video";
  callId: string;
  metadata?: unknown;
  expiresAt: number;
  expiresInMs: number;
}

export interface Initiated {
  callId: string;
  to: string;
  expiresAt: number;
  expiresInMs: number;
}

export interface Accepted {
  callId: string;
  by: string;
}

export interface Rejected {
  callId: string;
  by: string;
  reason?: string | null;
}

export interface Ended {
  callId: string;
  by: string;
  reason: string;
}

export interface Status {
  userId: string;
  isOnline: boolean;
  isInCall: boolean;
}

export interface IceServers {
  iceServers: object[];
  expiresAt?: number | null;
}

export interface Refreshed {
  tokenSeconds?: number | null;
}

export interface SessionOver {
  sessionId: string;
}

export interface Draining {
  deadlineSeconds: number;
  reconnectAfterMs: number;
}

export interface ErrorEvent {
  message: string;
  code: string;
  event: string;
  callId?: string | null;
  retryable: boolean;
  retryAfterMs?: number | null;
}

/** What a relay is when it reaches the peer. */
export type FromPeer<T> = Omit<T, "to" | "callId"> & { callId: string };

export interface ClientToServer {
  "user:join": Join;
  "call:initiate": Initiate;
  "call:accept": Accept;
  "call:reject": Reject;
  "call:offer": Offer;
  "call:answer": Answer;
  "ice:candidate": Candidate;
  "call:end": End;
  "user:status": StatusQuery;
  "ice:servers": IceQuery;
  "user:refresh": Refresh;
}

export interface ServerToClient {
  "user:joined": Joined;
  "call:incoming": Incoming;
  "call:initiated": Initiated;
  "call:accepted": Accepted;
  "call:rejected": Rejected;
  "call:ended": Ended;
  "user:status": Status;
  "ice:servers": IceServers;
  "user:refresh": Refreshed;
  "session:replaced": SessionOver;
  "session:expired": SessionOver;
  "server:draining": Draining;
  "error": ErrorEvent;
  "call:offer": FromPeer<Offer>;
  "call:answer": FromPeer<Answer>;
  "ice:candidate": FromPeer<Candidate>;
}
