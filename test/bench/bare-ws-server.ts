/** A WebSocket server with nothing behind it: says what it hears. Prints its port. */
import { once } from "node:events";
import { WebSocketServer } from "ws";
import { maxFrameBytes } from "../../src/protocol/messages.ts";

const server = new WebSocketServer({
  port: 0,
  host: "127.0.0.1",
  perMessageDeflate: false,
  maxPayload: maxFrameBytes,
  clientTracking: false,
});
server.on("connection", (socket) => {
  socket.on("error", () => {});
  socket.on("message", (data) => socket.send(data));
});
await once(server, "listening");
const address = server.address();
console.log(typeof address === "object" ? address?.port : address);
