"use strict";
// What both servers have in common: Socket.IO on a port, and the checks of what clients send.

const http = require("node:http");
const { Server } = require("socket.io");

/** Listens on PORT; `/readyz` answers 200 once `ready()` is true. Compression stays off, as it is by default. */
function serve(ready) {
  const server = http.createServer((request, response) => {
    response.statusCode = request.url === "/readyz" && ready() ? 200 : 503;
    response.end();
  });
  const io = new Server(server, { transports: ["websocket"], serveClient: false, maxHttpBufferSize: 128 * 1024 });
  server.listen(Number(process.env.PORT), "127.0.0.1", 4096);
  return io;
}

/** Return true if a value can be a user id or a call id. */
const isId = (value) => typeof value === "string" && value.length > 0 && value.length <= 128;

/** Tells a client that its event was refused, in the acknowledgement too if it wants one. */
function refuse(socket, event, code, message, ack) {
  const retryable = code === "unavailable";
  socket.emit("error", { message, code, event, retryable });
  if (typeof ack === "function") ack({ ok: false, error: { code, message, retryable } });
}

/** Answers an acknowledgement, if one is wanted. */
function accept(ack, fields) {
  if (typeof ack === "function") ack({ ok: true, ...fields });
}

const room = (user) => `user:${user}`;

/** What the peer is sent of a relay: what came, with `from` and `callId` as the server knows them. */
function relayed(event, data, from, callId) {
  if (event === "call:offer") return { offer: data.offer, callType: data.callType, from, callId };
  if (event === "call:answer") return { answer: data.answer, from, callId };
  return { candidate: data.candidate, from, callId };
}

/** Hands an event to `handle` if it comes from a user who has joined and says so; `handle` may be asynchronous. */
function onJoined(socket, event, handle) {
  socket.on(event, (data, ack) => {
    if (socket.data.user === undefined) {
      return refuse(socket, event, "not_authenticated", "User not authenticated", ack);
    }
    if (typeof data !== "object" || data === null) {
      return refuse(socket, event, "bad_request", "payload: must be an object", ack);
    }
    if (data.from !== undefined && data.from !== socket.data.user) {
      return refuse(socket, event, "unauthorized", "Unauthorized", ack);
    }
    return handle(data, ack)?.catch?.(() => {
      refuse(socket, event, "unavailable", "Temporarily unavailable", ack);
    });
  });
}

const RELAYS = { "call:offer": "offer", "call:answer": "answer", "ice:candidate": "candidate" };
const RING_MS = 45_000;

module.exports = { serve, isId, refuse, accept, onJoined, room, relayed, RELAYS, RING_MS };
