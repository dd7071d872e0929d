import { randomBytes } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { WebSocket, WebSocketServer } from "ws";
import { NetworkConfig } from "../../../src/io/config/network-config.ts";
import { type KnownNode, Nodes } from "../../../src/io/nodes.ts";
import { RateLimit } from "../../../src/io/rate.ts";
import { ServiceKey } from "../../../src/io/service-key.ts";
import type { SessionHost } from "../../../src/io/sessions/host.ts";
import { Session } from "../../../src/io/sessions/session.ts";
import { wsWire } from "../../../src/io/sessions/upgrade.ts";
import { MemoryStore } from "../../../src/io/store/memory.ts";
import { systemClock } from "../../../src/lib/clock.ts";
import { silentLogger } from "../../../src/lib/logger.ts";
import { agentChannel } from "../../../src/protocol/session/channel.ts";
import {
  type BelievedChallenge,
  sealHello,
  verifyChallenge,
  verifyReady,
} from "../../../src/protocol/session/handshake.ts";
import { makeNetwork, random16, random32 } from "../../protocol/network.ts";
import { until } from "../../testbed/until.ts";
import { AgentSocket } from "../fixture/agent.ts";

/** A session on a real socket whose disk the test holds back: what may happen between hello and ready. */
const net = makeNetwork("testnet", Date.now());
let server: WebSocketServer;
let node: KnownNode;
/** Lets the epoch be on the disk. */
let written: () => void;
let opened: number;
let client: AgentSocket;
let challenge: BelievedChallenge;
let hello: string;
const nonce = random32();

beforeEach(async () => {
  const store = new MemoryStore();
  const nodes = new Nodes();
  const row = { nodeId: net.node.id, kid: net.node.key.kid, jwk: net.node.key.jwk, account: "acme" };
  const counts = {
    registeredAt: 0,
    httpSeq: 0,
    epoch: 0,
    releaseSequence: 0,
    generation: 0,
    revoked: false,
    former: [],
    banned: null,
    jobsCommitted: 0,
  };
  node = nodes.add({ ...row, ...counts }, Date.now());
  const serviceKey = new ServiceKey(net.service);
  serviceKey.delegate(net.delegation, net.root, Date.now());
  opened = 0;
  server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await once(server, "listening");
  const url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const host: SessionHost = {
    clock: systemClock,
    log: silentLogger,
    random: { bytes: (count) => randomBytes(count).toString("base64url") },
    config: new NetworkConfig(net.network, store, await store.load()),
    nodes,
    serviceKey,
    audiences: [url],
    rates: { node: new RateLimit({ burst: 100, perSecond: 100 }, systemClock) },
    frameRate: { frames: { burst: 3, perSecond: 0 }, bytes: { burst: 20_000, perSecond: 0 } },
    heartbeatMs: 1_000,
    leaseMs: 1_000,
    conflicts: () => false,
    keepEpoch: () => new Promise((resolve) => (written = resolve)),
    opened: () => opened++,
    ended: () => {},
    resume: () => Promise.resolve(),
    heartbeat: () => [],
    jobFrame: () => {},
  };
  server.on("connection", (socket) => new Session(wsWire(socket), "127.0.0.1", host, net.delegation));
  client = new AgentSocket(new WebSocket(url), url);
  await until("the challenge", () => client.frames.length > 0);
  challenge = verifyChallenge(client.take(), net.root, net.network, Date.now());
  const identity = { nodeId: net.node.id, key: net.node.key, network: net.network };
  hello = sealHello(
    challenge,
    { ...identity, instance: random16(), agentVersion: "0.1.0" },
    { audience: url, nonce, now: Date.now(), releaseSequence: 0 },
  );
  client.ws.send(hello);
  await until("a new epoch", () => node.epoch === 1);
});
afterEach(() => {
  client.ws.terminate();
  server.close();
});

describe("while a hello waits for the disk", () => {
  it("nothing goes wrong: ready, and not before", async () => {
    expect([client.frames.length, opened]).toEqual([0, 0]);
    written();
    await until("ready", () => client.frames.length === 1);
    expect(opened).toBe(1);
  });

  it("the node is banned: 4403, and no session", async () => {
    node.banned = "misbehaved";
    written();
    expect(await client.close()).toEqual({ code: 4403, reason: "banned: misbehaved" });
    expect(opened).toBe(0);
  });

  it("a newer session of the node begins: 4409, and no session", async () => {
    node.epoch++;
    written();
    expect((await client.close()).code).toBe(4409);
    expect(opened).toBe(0);
  });

  it("the agent speaks on: 4412, and no session", async () => {
    client.ws.send("x");
    expect((await client.close()).code).toBe(4412);
    written();
    expect(opened).toBe(0);
  });
});

describe("an open session that says too much is closed with 4429", () => {
  beforeEach(async () => {
    written();
    await until("ready", () => client.frames.length === 1);
  });

  it("by the number of its frames", async () => {
    const { sid } = verifyReady(client.take(), { challenge, hello, nonce }).payload;
    const channel = agentChannel(sid, net.node.key, challenge.serviceKey);
    for (let frame = 0; frame < 4; frame++) client.ws.send(channel.seal("resume", { jobs: [], last: false }));
    expect(await client.close()).toEqual({ code: 4429, reason: "too many frames a second" });
  });

  it("by their size, before a signature is looked at", async () => {
    client.ws.send("x".repeat(20_001));
    expect(await client.close()).toEqual({ code: 4429, reason: "too many bytes a second" });
  });
});
