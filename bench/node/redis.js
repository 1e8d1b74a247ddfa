"use strict";
// Any number of processes behind @socket.io/redis-adapter; presence, busy locks and calls in Redis.
//
// Who is in a call never changes while it lives, so each process keeps that of the calls it has to do with, and a
// relay is checked without asking Redis; the end of a call is sent to all processes.

const { randomUUID } = require("node:crypto");
const { createAdapter } = require("@socket.io/redis-adapter");
const Redis = require("ioredis");
const { serve, isId, refuse, accept, onJoined, room, relayed, RELAYS, RING_MS } = require("./common");

const PRESENCE_SECONDS = 90; // refreshed every third of it
const CALL_SECONDS = 4 * 3600;
const KNOWN_MS = 60_000; // how long a process believes what it knows of a call

const redis = new Redis(Number(process.env.REDIS_PORT), "127.0.0.1", { enableAutoPipelining: true });
const subscriber = redis.duplicate();

redis.defineCommand("startCall", {
  // presence of the callee, locks of both, the call; id, caller, callee, TTL
  numberOfKeys: 4,
  lua: `
    if redis.call('EXISTS', KEYS[1]) == 0 then return 'user_not_found' end
    if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'EX', ARGV[4]) then return 'already_in_call' end
    if not redis.call('SET', KEYS[3], ARGV[1], 'NX', 'EX', ARGV[4]) then
      redis.call('DEL', KEYS[2])
      return 'user_unavailable'
    end
    redis.call('HSET', KEYS[4], 'caller', ARGV[2], 'callee', ARGV[3], 'state', 'ringing')
    redis.call('EXPIRE', KEYS[4], ARGV[4])
    return 'ok'`,
});
redis.defineCommand("acceptCall", {
  // the call; who accepts → caller, or nothing
  numberOfKeys: 1,
  lua: `
    local call = redis.call('HMGET', KEYS[1], 'caller', 'callee', 'state')
    if call[2] ~= ARGV[1] or call[3] ~= 'ringing' then return false end
    redis.call('HSET', KEYS[1], 'state', 'accepted')
    return call[1]`,
});
redis.defineCommand("endCall", {
  // the call; id, who ends it, '1' to end it only while it rings → caller and callee, or nothing
  numberOfKeys: 1,
  lua: `
    local call = redis.call('HMGET', KEYS[1], 'caller', 'callee', 'state')
    if not call[1] then return false end
    if ARGV[3] == '1' then
      if call[3] ~= 'ringing' then return false end
    elseif call[1] ~= ARGV[2] and call[2] ~= ARGV[2] then
      return false
    end
    redis.call('DEL', KEYS[1])
    for i = 1, 2 do
      local lock = 'busy:' .. call[i]
      if redis.call('GET', lock) == ARGV[1] then redis.call('DEL', lock) end
    end
    return {call[1], call[2]}`,
});

const local = new Map(); // user → number of sockets of this process
const known = new Map(); // call id → { caller, callee, until } or a promise of it

const io = serve(() => redis.status === "ready" && subscriber.status === "ready");
io.adapter(createAdapter(redis, subscriber));
io.on("forget", (id) => known.delete(id));

setInterval(() => {
  for (const user of local.keys()) redis.expire(`presence:${user}`, PRESENCE_SECONDS);
  const now = Date.now();
  for (const [id, call] of known) if (call.until < now) known.delete(id);
}, (PRESENCE_SECONDS * 1000) / 3).unref();

function remember(id, caller, callee) {
  known.set(id, { caller, callee, until: Date.now() + KNOWN_MS });
}

/** Who is in a call, from Redis; relays that come meanwhile wait for the same answer, so their order stays. */
function find(id) {
  const found = redis.hmget(`call:${id}`, "caller", "callee").then(([caller, callee]) => {
    if (caller === null) {
      known.delete(id);
      return undefined;
    }
    remember(id, caller, callee);
    return known.get(id);
  });
  known.set(id, found);
  found.catch(() => known.delete(id));
  return found;
}

async function end(id, by, reason, onlyRinging) {
  const parties = await redis.endCall(`call:${id}`, id, by, onlyRinging ? "1" : "0");
  if (parties === null) return false;
  known.delete(id);
  io.serverSideEmit("forget", id);
  io.to(parties.map(room)).emit("call:ended", { callId: id, by, reason });
  return true;
}

const REFUSALS = {
  already_in_call: "Already in a call",
  user_not_found: "User not found",
  user_unavailable: "User is not available",
};

io.on("connection", (socket) => {
  const on = (event, handle) => onJoined(socket, event, handle);

  socket.on("user:join", async (data, ack) => {
    const user = data?.userId;
    if (!isId(user)) return refuse(socket, "user:join", "user_id_required", "userId is required", ack);
    if (socket.data.user === undefined) {
      socket.data.user = user;
      local.set(user, (local.get(user) ?? 0) + 1);
      try {
        await Promise.all([
          socket.join(room(user)),
          redis.hset(`presence:${user}`, socket.id, process.pid),
          redis.expire(`presence:${user}`, PRESENCE_SECONDS),
        ]);
      } catch {
        return refuse(socket, "user:join", "unavailable", "Temporarily unavailable", ack);
      }
    } else if (socket.data.user !== user) {
      return refuse(socket, "user:join", "unauthorized", "Unauthorized", ack);
    }
    const joined = { userId: user, socketId: socket.id };
    socket.emit("user:joined", joined);
    accept(ack, joined);
  });

  on("call:initiate", async (data, ack) => {
    const caller = socket.data.user;
    const callee = data.to;
    if (!isId(callee) || callee === caller || !["audio", "video"].includes(data.callType)) {
      return refuse(socket, "call:initiate", "bad_request", "to, callType: must be a user and audio or video", ack);
    }
    const id = randomUUID();
    const keys = [`presence:${callee}`, `busy:${caller}`, `busy:${callee}`, `call:${id}`];
    const outcome = await redis.startCall(...keys, id, caller, callee, CALL_SECONDS);
    if (outcome !== "ok") return refuse(socket, "call:initiate", outcome, REFUSALS[outcome], ack);
    remember(id, caller, callee);
    socket.data.ring = setTimeout(() => end(id, "server", "timeout", true).catch(() => {}), RING_MS);
    const initiated = { callId: id, to: callee };
    io.to(room(callee)).emit("call:incoming", { from: caller, callType: data.callType, callId: id });
    socket.emit("call:initiated", initiated);
    accept(ack, initiated);
  });

  on("call:accept", async (data, ack) => {
    const user = socket.data.user;
    const caller = isId(data.callId) ? await redis.acceptCall(`call:${data.callId}`, user) : null;
    if (caller === null) {
      return refuse(socket, "call:accept", "call_not_found", "Call not found or expired", ack);
    }
    remember(data.callId, caller, user);
    io.to([room(caller), room(user)]).emit("call:accepted", { callId: data.callId, by: user });
    accept(ack, { callId: data.callId });
  });

  for (const [event, field] of Object.entries(RELAYS)) {
    const pass = (call, data, ack) => {
      const user = socket.data.user;
      const peer = call === undefined ? undefined : call.caller === user ? call.callee : call.caller;
      if (call === undefined || (call.callee !== user && call.caller !== user) || data.to !== peer) {
        return refuse(socket, event, "receiver_not_found", "Receiver not found", ack);
      }
      io.to(room(peer)).emit(event, relayed(event, data, user, data.callId));
      accept(ack);
    };
    on(event, (data, ack) => {
      if (typeof data[field] !== "object" || !isId(data.callId)) {
        return refuse(socket, event, "bad_request", `${field}, callId: must be an object and a call`, ack);
      }
      const call = known.get(data.callId) ?? find(data.callId);
      if (call instanceof Promise) return call.then((found) => pass(found, data, ack));
      return pass(call, data, ack);
    });
  }

  on("call:end", async (data, ack) => {
    if (!isId(data.callId) || !(await end(data.callId, socket.data.user, "hangup", false))) {
      return refuse(socket, "call:end", "call_not_found", "Call not found or expired", ack);
    }
    clearTimeout(socket.data.ring);
    accept(ack, { callId: data.callId });
  });

  on("user:status", async (data, ack) => {
    const [isOnline, isInCall] = await Promise.all([
      redis.exists(`presence:${data.userId}`),
      redis.exists(`busy:${data.userId}`),
    ]);
    const status = { userId: data.userId, isOnline: isOnline === 1, isInCall: isInCall === 1 };
    socket.emit("user:status", status);
    accept(ack, status);
  });

  socket.on("disconnect", async () => {
    const user = socket.data.user;
    if (user === undefined) return;
    const left = local.get(user) - 1;
    if (left > 0) local.set(user, left);
    else local.delete(user);
    try {
      await redis.hdel(`presence:${user}`, socket.id);
      if ((await redis.exists(`presence:${user}`)) === 1) return;
      const id = await redis.get(`busy:${user}`);
      if (id !== null) await end(id, user, "hangup", false);
    } catch (error) {
      console.error("leave", user, error.message); // its presence runs out by itself
    }
  });
});
