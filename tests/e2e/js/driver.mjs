// Drives any number of Socket.IO clients: commands come in on stdin, answers and events go out on stdout, a JSON
// object a line. Ends when stdin does.

import { createInterface } from "node:readline";
import { io } from "socket.io-client";
import { media } from "./fake_media.mjs";
import { OldApp } from "./old_app.mjs";

const sockets = new Map();

const tell = (message) => process.stdout.write(JSON.stringify(message) + "\n");

const commands = {
  connect({ client, url, transport, auth }) {
    return new Promise((resolve, reject) => {
      const socket = io(url, { auth, transports: transport.split("+"), reconnection: false, forceNew: true, timeout: 15000 });
      sockets.set(client, socket);
      socket.onAny((event, ...args) => tell({ client, event, args }));
      socket.on("connect", () => resolve(socket.id));
      socket.on("connect_error", (error) => reject(error));
      socket.on("disconnect", (reason) => tell({ client, closed: reason }));
    });
  },

  emit({ client, event, args }) {
    sockets.get(client).emit(event, ...args);
  },

  async ask({ client, event, args, timeoutMs }) {
    return sockets.get(client).timeout(timeoutMs).emitWithAck(event, ...args);
  },

  burst({ client, event, template, field, count }) {
    const socket = sockets.get(client);
    for (let n = 0; n < count; n += 1) {
      socket.emit(event, { ...template, [field]: { ...template[field], n } });
    }
  },

  old({ client, url, options, userId, habits }) {
    sockets.set(client, new OldApp({ io, url, options: { forceNew: true, ...options }, userId, media, habits }));
  },

  oldDo({ client, method, args }) {
    return sockets.get(client)[method](...args);
  },

  disconnect({ client }) {
    sockets.get(client)?.disconnect();
    sockets.delete(client);
  },

  transport({ client }) {
    return sockets.get(client).io.engine?.transport.name;
  },

  tear({ client }) {
    // The ws package's own: no close frame, no Engine.IO or Socket.IO packet.
    sockets.get(client).io.engine.transport.ws.terminate();
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  Promise.resolve()
    .then(() => commands[command.op](command))
    .then((result) => tell({ re: command.id, result }))
    .catch((error) => tell({ re: command.id, failed: `${command.op} ${command.event ?? command.method ?? ""}: ${error.message}` }));
}

for (const socket of sockets.values()) {
  socket.disconnect();
}
