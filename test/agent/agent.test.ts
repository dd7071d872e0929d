import { beforeEach, describe, expect, it } from "vitest";
import { NodeKeys } from "../../src/agent/node-keys.ts";
import { Agent } from "../../src/agent/agent.ts";
import { maxBufferedBytes } from "../../src/agent/session/session.ts";
import { jobIdField } from "../../src/protocol/fields.ts";
import { sealFrame } from "../../src/protocol/frame.ts";
import { type ServiceChannel, serviceChannel } from "../../src/protocol/session/channel.ts";
import { sealReady, verifyHello } from "../../src/protocol/session/handshake.ts";
import { openStatus } from "../../src/protocol/status.ts";
import { type FakePorts, fakePorts } from "./fixture/fakes.ts";
import { type Config, desiredOf, testIdentity, TestNetwork } from "./fixture/network.ts";
import type { AgentFrame } from "./fixture/service.ts";

const network = new TestNetwork();
const identity = testIdentity(network);
const nonce = Buffer.alloc(32, 5).toString("base64url");
const token = Buffer.alloc(16, 1).toString("base64url");
const sid = Buffer.alloc(16, 7).toString("base64url");
const events = { "content-type": "text/event-stream" };

let ports: FakePorts;
let agent: Agent;
let config: Config;
let service: ServiceChannel | undefined;
let read: number;

/** The engine of the fake world: lists its models while it is up, leaves completions to the test. */
let engineUp: boolean;

beforeEach(async () => {
  ports = fakePorts();
  engineUp = false;
  service = undefined;
  read = 0;
  ports.http.auto = ({ url }) => {
    if (!engineUp) return { status: 503, body: "" };
    if (url.endsWith("/v1/models")) return { status: 200, body: '{"data":[{"id":"m1"}]}' };
    return url.endsWith("/version") ? { status: 200, body: '{"version":"9"}' } : undefined;
  };
  config = network.config();
  await ports.files.write(
    "/network/release.json",
    JSON.stringify(network.release(1, config, ports.clock.now())),
  );
  await ports.files.write(`/network/snapshot-${config.digest.slice(7)}`, config.bytes);
  await desire({ target: config.digest });
  agent = makeAgent();
  await agent.start();
});

function makeAgent(): Agent {
  return new Agent(ports, {
    identity: {
      network: network.name,
      nodeId: identity.nodeId,
      key: identity.key,
      keys: NodeKeys.of(identity.nodeId, identity.key),
      binding: identity.binding,
      root: network.root,
    },
    agentVersion: "1.0.0",
    endpoints: ["http://io.example"],
    stateDir: "/state",
    launchDir: "/launch",
    networkDir: "/network",
    podDir: "/pod",
    drainTimeoutMs: 1_000,
  });
}

const desire = (over: Parameters<typeof desiredOf>[0]) =>
  ports.files.write("/pod/desired", JSON.stringify(desiredOf(over)));
const status = () => openStatus(agent.status(nonce), identity.key, nonce);
const settle = (ms = 1_500) => ports.clock.advanceAsync(ms, 50);

/** Starts the engine and waits until the agent has seen it. */
async function up(): Promise<void> {
  engineUp = true;
  await settle();
}

function deliver(text: string): void {
  ports.transport.last.handlers.message(text);
}

/** Opens a session from the service's side. */
function open(): void {
  const socket = ports.transport.last;
  const now = ports.clock.now();
  const challenge = sealFrame(
    "challenge",
    { challenge: nonce, time: now, network: network.name, delegation: network.delegation(now) },
    network.service,
  );
  deliver(challenge);
  const hello = socket.sent[0] ?? "";
  const { payload } = verifyHello(hello, {
    challenge: nonce,
    audiences: ["ws://io.example/v1/session"],
    network: network.name,
    now,
    nodeByKey: () => ({ nodeId: identity.nodeId, key: identity.key }),
  });
  const ready = {
    sid,
    epoch: 1,
    time: now,
    http_seq: 0,
    latest: { release_sequence: 1, digest: config.digest, nonce: payload.nonce },
    heartbeat_ms: 600_000,
    lease_ms: 30_000,
  };
  service = serviceChannel(sid, network.service, identity.key);
  read = 1;
  deliver(sealReady({ challenge, hello }, ready, network.service));
}

/** Frames that the service has not read yet; throws where one is out of order. */
function frames(): AgentFrame[] {
  const { sent } = ports.transport.last;
  const opened = sent.slice(read).map((text) => {
    if (!service) throw new Error("no session");
    return service.open(text);
  });
  read = sent.length;
  return opened;
}

function offer(): string {
  const job = jobIdField.parse("job-00000001");
  const body = {
    job,
    attempt: 1,
    token,
    model: "m1",
    endpoint: "/v1/chat/completions" as const,
    stream: true,
    durable: false,
    body: "{}",
    consumer: "someone",
    deadline_ms: 600_000,
  };
  deliver(service?.seal("offer", body) ?? "");
  return job;
}

const completion = () => {
  const found = ports.http.exchanges.findLast(({ request }) => request.url.endsWith("/completions"));
  if (!found) throw new Error("the engine was not asked");
  return found;
};

describe("an agent on ports of the test", () => {
  it("is started by a verified config and ready by a healthy engine, without a session", async () => {
    expect(agent.started).toBe(true);
    expect(agent.ready).toBe(false);
    await up();
    expect(agent.ready).toBe(true);
    expect(status()).toMatchObject({
      desired_revision: 1,
      report: { engine: { health: "healthy", version: "9" }, config: { applied: config.digest } },
      session: { connected: false },
    });
    expect(ports.files.text("/launch/gen/1/start")).toContain("exec '/engine' '--port' '20000'");
    expect(ports.files.text("/launch/generation")).toBe("1 now\n");
  });

  it("keeps its frames in order when a job sends while the session opens", async () => {
    await up();
    open();
    offer();
    completion().handlers.head({ status: 200, headers: events });
    completion().handlers.data(Buffer.from('data: {"a":1}\n\n'));
    ports.transport.last.handlers.closed(1006, "cut");
    completion().handlers.data(Buffer.from('data: {"b":1}\n\n'));
    await settle(2_000);
    open();
    const kinds = frames().map(({ kind }) => kind);
    expect(kinds.slice(0, 2)).toEqual(["resume", "heartbeat"]);
  });

  it("tells a change of the engine's health at once", async () => {
    await up();
    open();
    frames();
    engineUp = false;
    await settle(10_000);
    const reports = frames().flatMap((frame) => (frame.kind === "heartbeat" ? [frame.payload.report] : []));
    expect(reports.at(-1)).toMatchObject({
      engine: { health: "unhealthy" },
      models: { active: [] },
      load: { accepting: false },
    });
  });

  it("F36 terminates a session whose service does not read", async () => {
    await up();
    open();
    offer();
    const socket = ports.transport.last;
    socket.buffered = maxBufferedBytes + 1;
    ports.clock.advance(500);
    expect(socket.terminated).toBe(true);
    expect(status().session.last_error).toContain("unsent");
    await settle(2_000);
    expect(ports.transport.sockets.length).toBeGreaterThan(1);
  });

  it("makes haste in a drain that has begun, and gives none more time than it has", async () => {
    await up();
    open();
    offer();
    const drained = agent.drain("stop");
    void agent.drain("stop", 1_000);
    void agent.drain("stop", 60_000);
    await settle(900);
    expect(status().drain.state).toBe("draining");
    await settle(200);
    await drained;
    expect(frames().some((frame) => frame.kind === "nack" && frame.payload.code === "E_BUSY")).toBe(true);
  });

  it("drains for a stop, and serves again when none follows", async () => {
    await up();
    open();
    offer();
    const drained = agent.drain("stop");
    expect(agent.ready).toBe(false);
    await settle(6_000);
    await drained;
    expect(frames().some((frame) => frame.kind === "nack" && frame.payload.code === "E_BUSY")).toBe(true);
    expect(status().drain.state).toBe("drained");
    await settle(31_000);
    expect(status().drain.state).toBe("serving");
    expect(agent.ready).toBe(true);
  });

  it("takes no jobs when the spec says so, live", async () => {
    await up();
    open();
    await desire({ revision: 2, target: config.digest, accept: false });
    await settle();
    offer();
    const refused = frames().find((frame) => frame.kind === "nack");
    expect(refused?.payload).toMatchObject({ code: "E_BUSY", reason: expect.stringContaining("spec") });
    expect(status()).toMatchObject({ desired_revision: 2, report: { load: { accepting: false } } });
  });

  it("has a hung engine replaced on another port, an engine that starts slowly not", async () => {
    await settle(120_000);
    expect(ports.files.text("/launch/generation")).toBe("1 now\n");
    await up();
    engineUp = false;
    await settle(70_000);
    expect(ports.files.text("/launch/generation")).toBe("2 now\n");
    expect(ports.files.text("/launch/gen/2/start")).toContain("'20001'");
  });

  it("leaves an engine that crashed and loads again to its launcher", async () => {
    const launcher = (crashes: number) =>
      ports.files.write("/launch/run/state", `1 1 77 ${crashes} 3 running`);
    await launcher(0);
    await up();
    engineUp = false;
    await launcher(1);
    await settle(120_000);
    expect(status().report.engine.health).toBe("starting");
    expect(ports.files.text("/launch/generation")).toBe("1 now\n");
  });

  it("finds the engine of the agent before it, and leaves it alone", async () => {
    await up();
    agent = makeAgent();
    await agent.start();
    await settle();
    expect(agent.ready).toBe(true);
    expect(ports.files.text("/launch/generation")).toBe("1 now\n");
  });

  it("leaves in order: drained, goodbye, and no timer is left", async () => {
    await up();
    open();
    frames();
    const left = agent.leave();
    await settle(100);
    expect(frames().at(-1)).toMatchObject({ kind: "goodbye", payload: { reason: "drained" } });
    ports.transport.last.handlers.closed(1000, "");
    await left;
    await settle(100);
    expect(ports.clock.pending).toBe(0);
  });
});
