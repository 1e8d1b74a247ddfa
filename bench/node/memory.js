"use strict";
// The old server's design: one process, everything in memory.

const { randomUUID } = require("node:crypto");
const { serve, isId, refuse, accept, onJoined, room, relayed, RELAYS, RING_MS } = require("./common");

const online = new Map(); // user → number of sockets
const calls = new Map(); // call id → { id, caller, callee, state, ring }
const busy = new Map(); // user → call

const io = serve(() => true);

function end(call, by, reason) {
  clearTimeout(call.ring);
  calls.delete(call.id);
  busy.delete(call.caller);
  busy.delete(call.callee);
  io.to([room(call.caller), room(call.callee)]).emit("call:ended", { callId: call.id, by, reason });
}

io.on("connection", (socket) => {
  /** Return the call `id` if the sender is in it; otherwise send the client an error. */
  const mine = (event, id, ack) => {
    const call = calls.get(id);
    const user = socket.data.user;
    if (call !== undefined && (call.caller === user || call.callee === user)) return call;
    refuse(socket, event, "call_not_found", "Call not found or expired", ack);
    return undefined;
  };

  const on = (event, handle) => onJoined(socket, event, handle);

  socket.on("user:join", (data, ack) => {
    const user = data?.userId;
    if (!isId(user)) return refuse(socket, "user:join", "user_id_required", "userId is required", ack);
    if (socket.data.user === undefined) {
      online.set(user, (online.get(user) ?? 0) + 1);
      socket.data.user = user;
      socket.join(room(user));
    } else if (socket.data.user !== user) {
      return refuse(socket, "user:join", "unauthorized", "Unauthorized", ack);
    }
    const joined = { userId: user, socketId: socket.id };
    socket.emit("user:joined", joined);
    accept(ack, joined);
  });

  on("call:initiate", (data, ack) => {
    const event = "call:initiate";
    const caller = socket.data.user;
    const callee = data.to;
    if (!isId(callee) || callee === caller || !["audio", "video"].includes(data.callType)) {
      return refuse(socket, event, "bad_request", "to, callType: must be a user and audio or video", ack);
    }
    if (busy.has(caller)) return refuse(socket, event, "already_in_call", "Already in a call", ack);
    if (!online.has(callee)) return refuse(socket, event, "user_not_found", "User not found", ack);
    if (busy.has(callee)) return refuse(socket, event, "user_unavailable", "User is not available", ack);
    const call = { id: randomUUID(), caller, callee, state: "ringing", ring: null };
    call.ring = setTimeout(() => end(call, "server", "timeout"), RING_MS);
    calls.set(call.id, call);
    busy.set(caller, call);
    busy.set(callee, call);
    const initiated = { callId: call.id, to: callee };
    io.to(room(callee)).emit("call:incoming", { from: caller, callType: data.callType, callId: call.id });
    socket.emit("call:initiated", initiated);
    accept(ack, initiated);
  });

  on("call:accept", (data, ack) => {
    const call = mine("call:accept", data.callId, ack);
    if (call === undefined) return;
    if (call.state !== "ringing" || call.callee !== socket.data.user) {
      return refuse(socket, "call:accept", "invalid_state", "The call does not ring", ack);
    }
    clearTimeout(call.ring);
    call.state = "accepted";
    io.to([room(call.caller), room(call.callee)]).emit("call:accepted", { callId: call.id, by: call.callee });
    accept(ack, { callId: call.id });
  });

  for (const [event, field] of Object.entries(RELAYS)) {
    on(event, (data, ack) => {
      if (typeof data[field] !== "object") {
        return refuse(socket, event, "bad_request", `${field}: must be an object`, ack);
      }
      const user = socket.data.user;
      const call = calls.get(data.callId);
      const peer = call === undefined ? undefined : call.caller === user ? call.callee : call.caller;
      if (call === undefined || (call.callee !== user && call.caller !== user) || data.to !== peer) {
        return refuse(socket, event, "receiver_not_found", "Receiver not found", ack);
      }
      io.to(room(peer)).emit(event, relayed(event, data, user, call.id));
      accept(ack);
    });
  }

  on("call:end", (data, ack) => {
    const call = mine("call:end", data.callId, ack);
    if (call === undefined) return;
    end(call, socket.data.user, "hangup");
    accept(ack, { callId: call.id });
  });

  on("user:status", (data, ack) => {
    const status = { userId: data.userId, isOnline: online.has(data.userId), isInCall: busy.has(data.userId) };
    socket.emit("user:status", status);
    accept(ack, status);
  });

  socket.on("disconnect", () => {
    const user = socket.data.user;
    if (user === undefined) return;
    const left = online.get(user) - 1;
    if (left > 0) {
      online.set(user, left);
      return;
    }
    online.delete(user);
    if (busy.has(user)) end(busy.get(user), user, "hangup");
  });
});
