import { connect as tcp } from "node:net";
import { WebSocket } from "ws";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { sealFrame } from "../../src/protocol/frame.ts";
import { signJws } from "../../src/protocol/jws.ts";
import { generateKey, importPrivateKey, type NodeId, type SigningKey } from "../../src/protocol/keys.ts";
import { maxFrameBytes, subprotocol } from "../../src/protocol/messages.ts";
import { type BelievedChallenge, verifyChallenge } from "../../src/protocol/session/handshake.ts";
import { type AgentSession, type AgentSocket, ScriptedAgent } from "../io/fixture/agent.ts";
import { IoProcess, ioDone, random16, random32 } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const processes = supervise();
let io: IoProcess;
let config: ConfigDigest;
let newAgent: () => ScriptedAgent;
/** Connections that were opened at the start and never finish a request. */
let silent: Promise<number>[];

/** Opens a TCP connection, says `text`, and resolves with the seconds until it is cut. */
function cutAfter(text: string): Promise<number> {
  const started = performance.now();
  return new Promise((resolve) => {
    const socket = tcp(Number(new URL(io.url).port), "127.0.0.1");
    socket.on("error", () => {});
    socket.on("close", () => resolve((performance.now() - started) / 1000));
    socket.resume();
    socket.write(text);
  });
}

beforeAll(async () => {
  io = await IoProcess.start(processes, ["--heartbeat", "500ms"]);
  silent = [cutAfter(""), cutAfter("GET /he")];
  config = await io.publish(["m"]);
  const accountKey = await io.account("acme");
  newAgent = () =>
    new ScriptedAgent({ url: io.url, root: io.root, account: "acme", accountKey, models: ["m"], config });
});
afterAll(() => processes.close());

async function registered(): Promise<ScriptedAgent> {
  const agent = newAgent();
  expect((await agent.register()).status).toBe(200);
  return agent;
}

/** A dialled socket and its challenge. */
async function challenged(
  agent: ScriptedAgent,
): Promise<{ socket: AgentSocket; challenge: BelievedChallenge }> {
  const socket = await agent.dial();
  return { socket, challenge: verifyChallenge(socket.take(), io.root, io.network, Date.now()) };
}

const newKey = (): SigningKey => importPrivateKey(generateKey());

describe("hello is refused", () => {
  const cases: readonly [
    string,
    number,
    string,
    (agent: ScriptedAgent, socket: AgentSocket, challenge: BelievedChallenge) => string | Promise<string>,
  ][] = [
    [
      "B05 of a key that nobody registered",
      4401,
      "unknown_key",
      (agent, socket, challenge) => agent.hello(challenge, socket.url, random32(), { key: newKey() }),
    ],
    [
      "B05 with a wrong signature",
      4401,
      "bad_signature",
      (agent, socket, challenge) => {
        const [header, , signature] = agent.hello(challenge, socket.url).split(".");
        const [, payload] = agent.hello(challenge, socket.url).split(".");
        return [header, payload, signature].join(".");
      },
    ],
    [
      "B04 with an all-zero signature",
      4401,
      "bad_signature",
      (agent, socket, challenge) => agent.hello(challenge, socket.url).replace(/[^.]*$/, "A".repeat(86)),
    ],
    [
      "B04 with a short signature",
      4401,
      "bad_signature",
      (agent, socket, challenge) => agent.hello(challenge, socket.url).slice(0, -4),
    ],
    [
      "B06 with alg none",
      4401,
      "wrong_alg",
      (agent, socket, challenge) => {
        const [, payload, signature] = agent.hello(challenge, socket.url).split(".");
        const header = Buffer.from(
          JSON.stringify({ alg: "none", kid: agent.key.kid, typ: "rn1.hello" }),
        ).toString("base64url");
        return [header, payload, signature].join(".");
      },
    ],
    [
      "B07 for another node",
      4401,
      "wrong_node",
      async (agent, socket, challenge) => {
        const other = await registered();
        return agent.hello(challenge, socket.url, random32(), { nodeId: other.nodeId });
      },
    ],
    [
      "B08 with the node id in another spelling",
      4400,
      "schema",
      (agent, socket, challenge) =>
        agent.hello(challenge, socket.url, random32(), { nodeId: `${agent.nodeId}=` as NodeId }),
    ],
    [
      "B32 for another audience",
      4401,
      "wrong_audience",
      (agent, _socket, challenge) => agent.hello(challenge, "wss://io.elsewhere.example/v1/session"),
    ],
    [
      "B03 for another network",
      4413,
      "wrong_network",
      (agent, socket, challenge) => agent.hello(challenge, socket.url, random32(), { network: "mainnet" }),
    ],
    [
      "F23 of a clock that is an hour off",
      4401,
      "clock_skew",
      (agent, socket, challenge) =>
        agent.hello(challenge, socket.url, random32(), { now: Date.now() - 3_600_000 }),
    ],
    [
      "B01 to another challenge",
      4401,
      "wrong_challenge",
      (agent, socket, challenge) =>
        agent.hello({ ...challenge, payload: { ...challenge.payload, challenge: random32() } }, socket.url),
    ],
    ["B31 that is a status", 4401, "wrong_typ", (agent) => signJws("rn1.status", "{}", agent.key)],
    [
      "B22 of another protocol version",
      4426,
      "version",
      (agent, socket, challenge) =>
        sealFrame(
          "hello",
          {
            version: 2,
            challenge: challenge.payload.challenge,
            audience: socket.url,
            network: io.network,
            node_id: agent.nodeId,
            nonce: random32(),
            time: Date.now(),
            instance: random16(),
            agent_version: "1",
            release_sequence: 0,
          },
          agent.key,
        ),
    ],
    [
      "B09 with a duplicate key",
      4400,
      "malformed",
      (agent) => signJws("rn1.hello", '{"version":1,"version":1}', agent.key),
    ],
    ["B04 that is no JWS", 4400, "malformed", () => "hello"],
    [
      "B19 over 4 KiB",
      1009,
      "too_large",
      (agent) => signJws("rn1.hello", JSON.stringify("x".repeat(4000)), agent.key),
    ],
  ];
  it.each(cases)("%s", async (_what, code, reason, make) => {
    const agent = await registered();
    const { socket, challenge } = await challenged(agent);
    socket.ws.send(await make(agent, socket, challenge));
    const closed = await socket.close();
    expect(closed.code).toBe(code);
    expect(closed.reason.split(":")[0]).toBe(reason);
  });

  it("B21 that never comes: 4408 after 5 s", async () => {
    const started = performance.now();
    const socket = await newAgent().dial();
    expect((await socket.close()).code).toBe(4408);
    expect(performance.now() - started).toBeGreaterThan(4_500);
  });

  it("F23 and tells by how much the clock is wrong", async () => {
    const agent = await registered();
    const { socket, challenge } = await challenged(agent);
    socket.ws.send(agent.hello(challenge, socket.url, random32(), { now: Date.now() + 3_600_000 }));
    expect((await socket.close()).reason).toMatch(/clock_skew: clocks differ by 3(59\d|600) s \(peer ahead/);
  });
});

describe("a session ends", () => {
  async function session(): Promise<AgentSession> {
    return (await registered()).connect();
  }

  it("B02 4412 at a gap", async () => {
    const open = await session();
    open.channel.seal("goodbye", { reason: "shutdown" });
    open.socket.ws.send(open.channel.seal("goodbye", { reason: "shutdown" }));
    expect((await open.socket.close()).code).toBe(4412);
  });

  it("B01 4412 at a replayed frame", async () => {
    const open = await session();
    const frame = open.channel.seal("accept", {
      job: "job-00000000" as never,
      attempt: 1,
      token: random16(),
    });
    open.socket.ws.send(frame);
    open.socket.ws.send(frame);
    const closed = await open.socket.close();
    expect(closed).toMatchObject({ code: 4412, reason: expect.stringContaining("sequence") });
  });

  it("B03 4412 at a frame of another session", async () => {
    const [one, two] = [await session(), await session()];
    const sid = two.ready.sid;
    const seq = one.channel.sent + 1;
    one.socket.ws.send(sealFrame("goodbye", { sid, seq, reason: "shutdown" }, one.agent.key));
    expect((await one.socket.close()).code).toBe(4412);
    two.drop();
  });

  it("4401 at a frame of another typ", async () => {
    const open = await session();
    open.socket.ws.send(signJws("rn1.hello", "{}", open.agent.key));
    expect((await open.socket.close()).code).toBe(4401);
  });

  it("B05 4401 at a frame with another key", async () => {
    const open = await session();
    const body = { sid: open.ready.sid, seq: open.channel.sent + 1, reason: "shutdown" } as const;
    open.socket.ws.send(sealFrame("goodbye", body, newKey()));
    expect((await open.socket.close()).code).toBe(4401);
  });

  it("B17 4400 at a binary message", async () => {
    const open = await session();
    open.socket.ws.send(Buffer.from("x"), { binary: true });
    expect((await open.socket.close()).code).toBe(4400);
  });

  it("4400 at a frame that is not its schema", async () => {
    const open = await session();
    const payload = JSON.stringify({ sid: open.ready.sid, seq: open.channel.sent + 1, reason: "because" });
    open.socket.ws.send(signJws("rn1.goodbye", payload, open.agent.key));
    expect((await open.socket.close()).code).toBe(4400);
  });

  it("B18 B19 1009 at a frame over 256 KiB, also in fragments without end", async () => {
    const open = await session();
    open.socket.ws.send("x".repeat(maxFrameBytes + 1));
    expect((await open.socket.close()).code).toBe(1009);
    const other = await session();
    for (let at = 0; at < 40; at++) other.socket.ws.send("x".repeat(10_000), { fin: false });
    expect((await other.socket.close()).code).toBe(1009);
  });

  it("B16 1007 at invalid UTF-8", async () => {
    const open = await session();
    open.socket.ws.send(Buffer.from([0xff, 0xff]), { binary: false });
    expect((await open.socket.close()).code).toBe(1007);
  });

  it("F31 4409 when a newer session of the node begins, whose epoch is greater", async () => {
    const open = await session();
    const newer = await open.agent.connect();
    expect((await open.socket.close()).code).toBe(4409);
    expect(newer.ready.epoch).toBeGreaterThan(open.ready.epoch);
    newer.drop();
  });

  it("4408 when nothing is heard for three heartbeats", async () => {
    const started = performance.now();
    const open = await session();
    expect((await open.socket.close()).code).toBe(4408);
    expect(performance.now() - started).toBeGreaterThan(1_000);
    // 5 s for a machine that is busy.
    expect(performance.now() - started).toBeLessThan(6_500);
  });

  it("4403 when the node is banned, which then cannot come back until it is let in again", async () => {
    const open = await session();
    const { nodeId } = open.agent;
    await open.beating(ioDone("nodes", "ban", nodeId, "--reason", "misbehaved", "--data", io.data));
    expect(await open.socket.close()).toMatchObject({
      code: 4403,
      reason: expect.stringContaining("misbehaved"),
    });
    const { socket, challenge } = await challenged(open.agent);
    socket.ws.send(open.agent.hello(challenge, socket.url));
    expect((await socket.close()).code).toBe(4403);
    await ioDone("nodes", "unban", nodeId, "--data", io.data);
    (await open.agent.connect()).drop();
  });

  it("4429 when one node dials too often, before any signature is checked", async () => {
    const agent = await registered();
    let code = 0;
    for (let at = 0; at < 40 && code !== 4429; at++) {
      const { socket, challenge } = await challenged(agent);
      socket.ws.send(agent.hello(challenge, socket.url).replace(/[^.]*$/, "A".repeat(86)));
      code = (await socket.close()).code;
    }
    expect(code).toBe(4429);
  });

  it("F36 a peer that does not read is terminated, and the others feel nothing", async () => {
    const [stalled, other] = [await session(), await session()];
    // Not reading: heartbeats still go out, their answers pile up.
    stalled.socket.ws.pause();
    const terminated = () => io.log.includes("peer does not read");
    const nonce = "A".repeat(43);
    const report = stalled.agent.report();
    const leases = Array.from({ length: 900 }, (_, at) => ({
      job: `job-${"0".repeat(50)}${String(at).padStart(8, "0")}` as never,
      attempt: 1,
      token: random16(),
    }));
    await until(
      "the end of the stalled session",
      () => {
        for (let at = 0; at < 10; at++)
          stalled.send("heartbeat", { time: Date.now(), nonce, report, leases });
        other.heartbeat();
        return terminated();
      },
      { intervalMs: 20 },
    );
    other.heartbeat();
    await other.next("heartbeat-ack");
    expect(other.socket.closed).toBeUndefined();
    stalled.drop();
    other.drop();
  });
});

describe("connections", () => {
  it("other paths and other methods are no session", async () => {
    const socket = new WebSocket(`${io.url.replace("http", "ws")}/v1/other`, subprotocol);
    const status = await new Promise((resolve) => {
      socket.on("error", () => {});
      socket.on("unexpected-response", (_request, response) => resolve(response.statusCode));
    });
    expect(status).toBe(404);
    expect((await fetch(`${io.url}/v1/session`)).status).toBe(404);
  });

  it.each([undefined, "chat", "resultity.v2"])(
    "that offer the subprotocol %s are refused",
    async (offered) => {
      const url = `${io.url.replace("http", "ws")}/v1/session`;
      const socket = offered === undefined ? new WebSocket(url) : new WebSocket(url, offered);
      const status = await new Promise((resolve) => {
        socket.on("error", () => {});
        socket.on("unexpected-response", (_request, response) => resolve(response.statusCode));
      });
      expect(status).toBe(400);
    },
  );

  it("B21 those that never speak, or never end their headers, are cut", async () => {
    for (const seconds of await Promise.all(silent)) expect(seconds).toBeLessThan(20);
  });

  it("B20 headers of 64 KiB are refused", async () => {
    const port = Number(new URL(io.url).port);
    const answer = await new Promise<string>((resolve) => {
      const socket = tcp(port, "127.0.0.1");
      let text = "";
      socket.on("data", (data) => (text += data.toString()));
      socket.on("error", () => resolve(text));
      socket.on("close", () => resolve(text));
      socket.write(`GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: ${"y".repeat(64 * 1024)}\r\n\r\n`);
    });
    expect(answer).toContain("431");
  });

  it("no secret is in the log", async () => {
    expect(/"d":|rk-[A-Za-z0-9_-]{43}/.test(io.log)).toBe(false);
  });
});
