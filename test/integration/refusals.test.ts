import { readFileSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type AccountKey, mintBinding } from "../../src/protocol/binding.ts";
import { type ConfigDigest, jobIdField } from "../../src/protocol/fields.ts";
import { sealFrame } from "../../src/protocol/frame.ts";
import { nonceSchema, paths, pingTyp, sealRegistration, sealRequest } from "../../src/protocol/http.ts";
import { signJws } from "../../src/protocol/jws.ts";
import { generateKey, importPrivateKey, type SigningKey } from "../../src/protocol/keys.ts";
import { maxFrameBytes } from "../../src/protocol/messages.ts";
import { sealDrainToken } from "../../src/protocol/status.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { ScriptedService } from "../agent/fixture/service.ts";
import { type AgentSession, leaseOf, plainOf, ScriptedAgent } from "../io/fixture/agent.ts";
import { IoProcess, ioDone, random16, random32 } from "../io/fixture/network.ts";
import { freePort } from "../testbed/ports.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/**
 * What a real service and a real agent refuse over real sockets, and what it costs them. Refusals of hello and of frames
 * of a session: io-sessions.test.ts; of releases and digests: agent-config, io-config and operator-network.test.ts; of
 * requests of clients: io-completions.test.ts.
 */
const processes = supervise();
afterAll(() => processes.close());

const newKey = (): SigningKey => importPrivateKey(generateKey());
/** The frame with the signature of another message: of the right form and the right key, and wrong. */
const withSignatureOf = (frame: string, other: string): string =>
  `${frame.slice(0, frame.lastIndexOf("."))}${other.slice(other.lastIndexOf("."))}`;

/** What a TCP connection gives back until the other side ends it, and whether it then takes more. */
async function exchange(port: number, text: string, deadlineMs = 30_000) {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  const seen = { text: "", ended: false, gone: false };
  socket.on("data", (data) => (seen.text += data.toString("latin1")));
  socket.on("end", () => (seen.ended = true));
  socket.on("error", () => (seen.gone = true));
  socket.on("close", () => (seen.gone = true));
  socket.write(text);
  const started = performance.now();
  await until("the end of the connection", () => seen.ended || seen.gone, { deadlineMs, intervalMs: 20 });
  const ms = performance.now() - started;
  // Written to a half that is still open it would be taken; a connection that is gone answers with a reset.
  await until(
    "a connection that is gone in both directions",
    () => {
      if (!seen.gone) socket.write("x");
      return seen.gone;
    },
    { intervalMs: 50 },
  );
  socket.destroy();
  return { text: seen.text, ms };
}

const thousandHeaders = Array.from({ length: 1_000 }, (_, at) => `x-header-${at}: 0123456789\r\n`).join("");
const longHeader = `x-long: ${"y".repeat(64 * 1024)}\r\n`;
const upgrade =
  "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
/** How a TLS client begins (RFC 8446 §4.1.2): record, handshake, version; the rest never comes. */
const clientHello = "\x16\x03\x01\x00\x70\x01\x00\x00\x6c\x03\x03";
const requestOf = (path: string, headers: string) => `GET ${path} HTTP/1.1\r\nhost: x\r\n${headers}\r\n`;

describe("the IO service", () => {
  const model = "m";
  let io: IoProcess;
  let port: number;
  let config: ConfigDigest;
  let accountKey: AccountKey;
  let apiKey: string;

  beforeAll(async () => {
    io = await IoProcess.start(processes, ["--retry", "50ms,50ms,50ms"]);
    port = Number(new URL(io.url).port);
    config = await io.publish([model]);
    accountKey = await io.account("acme");
    apiKey = await io.apiKey("someone");
  });

  async function registered(slots?: number): Promise<ScriptedAgent> {
    const agent = new ScriptedAgent({
      url: io.url,
      root: io.root,
      account: "acme",
      accountKey,
      models: [model],
      config,
      ...(slots !== undefined && { slots }),
    });
    expect((await agent.register()).status).toBe(200);
    return agent;
  }

  const session = async (slots?: number): Promise<AgentSession> => (await registered(slots)).connect();

  const ask = (signal?: AbortSignal) =>
    fetch(`${io.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
      body: JSON.stringify({ model, messages: [] }),
      ...(signal && { signal }),
    });

  it("B04 a frame with the signature of another: 4401", async () => {
    const open = await session();
    const inSession = { sid: open.ready.sid, seq: open.channel.sent + 1 };
    const [one, other] = (["shutdown", "drained"] as const).map((reason) =>
      sealFrame("goodbye", { ...inSession, reason }, open.agent.key),
    );
    open.socket.ws.send(withSignatureOf(one ?? "", other ?? ""));
    expect(await open.socket.close()).toMatchObject({
      code: 4401,
      reason: expect.stringMatching(/^bad_signature:/),
    });
  });

  it("B17 a binary message, whatever is in it: 4400", async () => {
    const open = await session();
    open.socket.ws.send(Buffer.from(open.channel.seal("goodbye", { reason: "shutdown" })));
    expect((await open.socket.close()).code).toBe(4400);
  });

  it("a resume after the last one: 4400", async () => {
    const open = await session();
    open.send("resume", { jobs: [], last: true });
    expect(await open.socket.close()).toMatchObject({ code: 4400 });
  });

  it("B18 fragments without end: 1009 by their size, 1008 by their number, also of a stranger", async () => {
    const large = await session();
    for (let at = 0; at < 40; at++) large.socket.ws.send("x".repeat(10_000), { fin: false });
    expect((await large.socket.close()).code).toBe(1009);
    const stranger = await (await registered()).dial();
    for (let at = 0; at < 2_000; at++) stranger.ws.send("x", { fin: false });
    expect((await stranger.close()).code).toBe(1008);
  });

  it.each([
    ["1,000 headers", thousandHeaders],
    ["a header of 64 KiB", longHeader],
  ])("B20 %s: 431, for a request and for a session", async (_what, headers) => {
    for (const text of [requestOf("/healthz", headers), requestOf(paths.session, upgrade + headers)])
      expect((await exchange(port, text)).text).toMatch(/^HTTP\/1\.1 431 /);
  });

  it("B21 a connection that never speaks, and one that never ends its headers: cut", async () => {
    const cut = await Promise.all([
      exchange(port, ""),
      exchange(port, "GET /healthz HTTP/1.1\r\nhost: x\r\n"),
    ]);
    for (const { ms } of cut) expect(ms).toBeLessThan(20_000);
  });

  it("B21 TLS that never ends its handshake, where there is no TLS: refused at once", async () => {
    expect((await exchange(port, clientHello)).text).toMatch(/^HTTP\/1\.1 400 /);
  });

  it("an upgrade that it refuses, whose peer keeps its half open: gone in both directions", async () => {
    expect((await exchange(port, requestOf("/v1/other", upgrade))).text).toMatch(/^HTTP\/1\.1 404 /);
  });

  it.each(["/v1/chat/completions", "/v1/models"])("%s without a key: 401 before the body", async (path) => {
    const socket = connect(port, "127.0.0.1");
    let text = "";
    socket.on("data", (data) => (text += data.toString()));
    socket.on("error", () => {});
    const method = path === "/v1/models" ? "GET" : "POST";
    const length = method === "POST" ? "content-type: application/json\r\ncontent-length: 100000\r\n" : "";
    socket.write(`${method} ${path} HTTP/1.1\r\nhost: x\r\n${length}\r\n`);
    await until("the answer", () => text.includes("invalid_api_key"));
    expect(text).toMatch(/^HTTP\/1\.1 401 /);
    socket.destroy();
  });

  it.each(["/v1/secret-guess", "/%zz-secret-guess", `/v1/config/snapshots/${"secret-guess".repeat(20)}`])(
    "%s: refused without repeating it",
    async (path) => {
      const { text } = await exchange(port, requestOf(path, "connection: close\r\n"));
      expect(text).toMatch(/^HTTP\/1\.1 4\d\d /);
      expect(text).not.toContain("guess");
    },
  );

  it("a binding that nobody has minted: told nothing of the node that it names", async () => {
    const agent = await registered();
    const { key } = agent;
    const ping = { node_id: agent.nodeId, time: Date.now() };
    const pinged = sealRequest(pingTyp, ping, key, `${io.url}${paths.ping}`, 7);
    expect((await agent.post(paths.ping, pinged)).status).toBe(200);
    const { nonce } = nonceSchema.parse(await (await fetch(`${io.url}${paths.nonce}`)).json());
    const { nodeId } = agent;
    const binding = { network: io.network, account: "acme", node_id: nodeId, mac: random32() };
    const url = `${io.url}${paths.register}`;
    const body = sealRegistration({ binding, agent_version: "1", time: Date.now() }, key, url, nonce);
    const answer = await agent.post(paths.register, body);
    expect(answer.status).toBe(403);
    const said = Buffer.from(answer.text.split(".")[1] ?? "", "base64url").toString();
    expect(JSON.parse(said)).toMatchObject({ http_seq: 0, error: { code: "binding" } });
    expect(said).not.toContain("acme");
  });

  it("a banned node, however long and in whatever script the reason is: 4403, and others still get in", async () => {
    const open = await session();
    const { nodeId } = open.agent;
    await ioDone("nodes", "ban", nodeId, "--reason", "不正な結果を返した".repeat(12), "--data", io.data);
    expect(await open.socket.close()).toMatchObject({
      code: 4403,
      reason: expect.stringMatching(/^banned: 不正な/),
    });
    await expect(open.agent.connect()).rejects.toThrow("4403");
    (await session()).drop();
    expect(io.log).not.toContain("session failed");
  });

  it.each([101, 304])("a result with status %s: not relayed, another node answers", async (status) => {
    const liar = await session();
    const asked = ask(AbortSignal.timeout(20_000));
    const offer = await liar.offer();
    const honest = await session();
    honest.serve();
    liar.answer(offer, plainOf(offer, "lie"), { status });
    const answer = await asked;
    expect(answer.status).toBe(200);
    expect(await answer.text()).not.toContain("lie");
    liar.drop();
    honest.drop();
  });

  it("a result with a success that has no body: relayed as 200, with its body", async () => {
    const node = await session();
    node.serve((offer) => node.answer(offer, plainOf(offer, "whole"), { status: 204 }));
    const answer = await ask(AbortSignal.timeout(20_000));
    expect(answer.status).toBe(200);
    expect(await answer.text()).toContain("whole");
    node.drop();
  });

  it("a chunk of an attempt that is over: it changes nothing of the answer", async () => {
    const stale = await session();
    const asked = fetch(`${io.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
      body: JSON.stringify({ model, messages: [], stream: true }),
      signal: AbortSignal.timeout(20_000),
    });
    const first = await stale.offer();
    const current = await session();
    stale.send("nack", { ...leaseOf(first), code: "E_BUSY", reason: "full" });
    const second = await current.offer();
    stale.chunk(first, 0, "data: {}\n\n");
    stale.heartbeat([], { accepting: false });
    await stale.next("heartbeat-ack");
    // The engine's error has no body: what tells it from a stream is that no event came.
    current.send("result", current.agent.result(second, "", { status: 400 }));
    expect((await asked).status).toBe(400);
    stale.drop();
    current.drop();
  });

  it("a claim of a million slots: it gets as many jobs as the config gives", async () => {
    const greedy = await session(1_000_000);
    const abort = new AbortController();
    const asked = Array.from({ length: 12 }, () => ask(abort.signal).catch(() => undefined));
    const offers = () => greedy.waiting.filter(({ kind }) => kind === "offer").length;
    await until("offers", () => offers() >= 8);
    const queued = async () => (await io.metric("resultity_io_jobs_queued")) === 4;
    await until("the rest to wait", queued);
    expect(offers()).toBe(8);
    abort.abort();
    await Promise.all(asked);
    greedy.drop();
  });

  it("control characters of a node's words do not reach the terminal of an administrator", async () => {
    const nodes = [await session(), await session(), await session()];
    for (const node of nodes)
      node.serve(({ job, attempt, token }) =>
        node.send("nack", { job, attempt, token, code: "E_ENGINE", reason: "\u001b[2J\u009bmgone" }),
      );
    const answer = await ask();
    expect(answer.status).toBe(502);
    // Of a synchronous job the client hears before the disk does.
    const listed = await until("the job in the list", async () => {
      const rows = await ioDone("jobs", "list", "--state", "DEAD", "--data", io.data);
      return rows.includes("E_ENGINE") && rows;
    });
    expect(listed).toContain("E_ENGINE: ?[2J?mgone");
    for (const node of nodes) node.drop();
  });
});

describe("an agent", () => {
  const network = new TestNetwork();
  let service: ScriptedService;
  let node: NodeProcesses;

  beforeAll(async () => {
    service = await ScriptedService.start(network);
    service.bends.heartbeatMs = 200;
    node = await NodeProcesses.make(processes, network);
    const config = network.config({ command: engineCommand({ log: node.engineLog }) });
    node.mount(network.release(1, config, Date.now()), config);
    node.desire({ target: config.digest });
    node.startAgent(service.url);
    await until("its endpoints", async () => (await node.ask("/startup")).status > 0);
  });
  afterAll(() => service.stop());

  const goodAck = { upto: 0, results: [] };
  const job = jobIdField.parse("job-0123456789");
  const cases: readonly [string, number, string, () => string | Buffer][] = [
    [
      "B04 refuses the signature of another frame",
      4401,
      "bad_signature",
      () => {
        const frame = sealFrame("ack", { ...service.next, ...goodAck }, network.service);
        return withSignatureOf(
          frame,
          sealFrame("ack", { ...service.next, upto: 1, results: [] }, network.service),
        );
      },
    ],
    [
      "refuses another typ",
      4401,
      "wrong_typ",
      () => signJws("rn1.goodbye", JSON.stringify({ ...service.next, reason: "shutdown" }), network.service),
    ],
    [
      "B05 refuses the right form by an unknown key",
      4401,
      "unknown_key",
      () => sealFrame("ack", { ...service.next, ...goodAck }, newKey()),
    ],
    [
      "B03 refuses a frame of another session",
      4412,
      "wrong_session",
      () => sealFrame("ack", { ...service.next, sid: random16(), ...goodAck }, network.service),
    ],
    [
      "B02 refuses a gap",
      4412,
      "sequence",
      () => {
        const { sid, seq } = service.next;
        return sealFrame("ack", { sid, seq: seq + 1, ...goodAck }, network.service);
      },
    ],
    [
      "B17 refuses a binary message, whatever is in it",
      4400,
      "malformed",
      () => Buffer.from(sealFrame("ack", { ...service.next, ...goodAck }, network.service)),
    ],
    [
      "refuses a path that is not the engine's API",
      4400,
      "schema",
      () => {
        const offer = {
          ...service.next,
          job,
          attempt: 1,
          token: random16(),
          model: "m1",
          endpoint: "/../admin",
          stream: false,
          body: "{}",
          consumer: "someone",
          deadline_ms: 1_000,
        };
        return signJws("rn1.offer", JSON.stringify(offer), network.service);
      },
    ],
  ];

  /** In a session that has proved itself, so that the back-off begins anew. */
  async function inSession(): Promise<number> {
    const { length } = service.frames;
    await until("a heartbeat", () => service.connected && service.frames.length > length + 2, {
      deadlineMs: 60_000,
    });
    return service.closes.length;
  }

  it.each(cases)("%s", async (_what, code, reason, make) => {
    const closes = await inSession();
    service.raw(make());
    await until("the close", () => service.closes.length > closes);
    expect(service.closes[closes]).toMatchObject({ code, reason: expect.stringMatching(`^${reason}:`) });
  });

  it("B19 refuses a frame over 256 KiB: 1009", async () => {
    const closes = await inSession();
    service.raw("x".repeat(maxFrameBytes + 1));
    await until("the close", () => service.closes.length > closes);
    expect(service.closes[closes]).toMatchObject({ code: 1009 });
  });

  it.each([
    ["1,000 headers", thousandHeaders],
    ["a header of 64 KiB", longHeader],
  ])("B20 refuses %s at its own endpoints: 431", async (_what, headers) => {
    expect((await exchange(node.port, requestOf("/startup", headers))).text).toMatch(/^HTTP\/1\.1 431 /);
  });

  it("B21 cuts a connection that never speaks, before it can stand in the way of probes", async () => {
    const [{ ms }] = await Promise.all([exchange(node.port, ""), exchange(node.port, "GET /")]);
    expect(ms).toBeLessThan(10_000);
  });

  it("B21 refuses TLS that never ends its handshake at its own endpoints", async () => {
    expect((await exchange(node.port, clientHello)).text).toMatch(/^HTTP\/1\.1 400 /);
  });

  it("drains for nobody but who has the token of its pod's hook", async () => {
    const { nodeId, key } = node.identity;
    const { body: status } = await node.ask(`/status?nonce=${random32()}`);
    const refused = [
      undefined,
      "Bearer ",
      "Bearer token",
      `Basic ${sealDrainToken(nodeId, key)}`,
      `Bearer ${sealDrainToken(nodeId, newKey())}`,
      // Signed by the node, and handed out to whoever asks.
      `Bearer ${status}`,
      `Bearer ${withSignatureOf(sealDrainToken(nodeId, key), status)}`,
    ];
    for (const authorization of refused)
      expect(
        (await node.ask("/drain", "POST", authorization === undefined ? {} : { authorization })).status,
      ).toBe(401);
    expect((await node.status()).drain.state).toBe("serving");
    expect((await node.drain()).status).toBe(200);
    expect((await node.status()).drain.state).toBe("drained");
  });
});

describe("B32 an agent that dials somebody who passes its words on", () => {
  let io: IoProcess;
  let relay: Server;
  let node: NodeProcesses;
  const sockets = new Set<Socket>();

  beforeAll(async () => {
    io = await IoProcess.start(processes, ["--heartbeat", "1s"]);
    const accountKey = await io.account("acme");
    const port = Number(new URL(io.url).port);
    relay = createServer((from) => {
      const onward = connect(port, "127.0.0.1");
      for (const socket of [from, onward]) {
        sockets.add(socket);
        socket.on("error", () => {});
        socket.on("close", () => (from.destroy(), onward.destroy()));
      }
      from.pipe(onward).pipe(from);
    });
    node = await NodeProcesses.make(processes, new TestNetwork());
    const { nodeId } = node.identity;
    node.write("identity/binding.json", JSON.stringify(mintBinding(accountKey, io.network, "acme", nodeId)));
    node.write("identity/root.json", readFileSync(join(io.keys, "root.json"), "utf8"));
    node.desire();
  });
  afterAll(() => {
    for (const socket of sockets) socket.destroy();
    relay.close();
  });

  it("gets no session there: neither its registration nor its hello is for that address", async () => {
    const port = await freePort();
    await new Promise<void>((resolve) => relay.listen(port, "127.0.0.1", resolve));
    const elsewhere = `http://127.0.0.1:${port}`;
    const agent = node.startAgent(elsewhere);
    await node.sees(
      "the refused registration",
      ({ session }) =>
        session.last_error?.includes("registration failed") && session.last_error.includes("wrong_audience"),
    );
    expect(await io.nodes()).toEqual([]);
    await agent.stop();

    const honest = node.startAgent(io.url);
    await node.sees("a session", ({ session }) => session.connected);
    await honest.stop();

    node.startAgent(elsewhere);
    await node.sees("the refused hello", ({ session }) =>
      session.last_error?.includes("4401 (wrong_audience: meant for another service)"),
    );
    expect((await node.status()).session.epoch).toBe(0);
    expect((await io.nodes())[0]).toMatchObject({ connected: false, epoch: 1 });
  });
});
