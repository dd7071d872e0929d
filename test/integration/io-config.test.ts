import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { accountAuthorization, type AccountKey, mintBinding } from "../../src/protocol/binding.ts";
import { openLatest } from "../../src/protocol/config/latest.ts";
import { verifyRelease } from "../../src/protocol/config/release.ts";
import { parseStatement, trustRoot } from "../../src/protocol/config/root.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { openSnapshot } from "../../src/protocol/config/snapshot.ts";
import { cosignStatement } from "../../src/protocol/config/statement.ts";
import { type FeedLine, type FeedNode, parseFeedLine } from "../../src/protocol/feed.ts";
import { httpHeartbeatTyp, paths, pingTyp, sealRegistration, sealRequest } from "../../src/protocol/http.ts";
import { importPrivateKey, type PrivateJwk } from "../../src/protocol/keys.ts";
import { type AgentSession, answerOf, plainOf, ScriptedAgent } from "../io/fixture/agent.ts";
import { io as runIo, ioDone, IoProcess, ioProcess, random32 } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const processes = supervise();
let io: IoProcess;
let accountKey: AccountKey;
const model = "m";

beforeAll(async () => {
  io = await IoProcess.start(processes);
  accountKey = await io.account("acme");
});
afterAll(() => processes.close());

const publish = async (release: string, ...snapshots: string[]) =>
  await runIo(
    "config",
    "publish",
    "--data",
    io.data,
    "--release",
    release,
    ...snapshots.flatMap((path) => ["--snapshot", path]),
  );

/** The digest that agents report; which one matters only where they get jobs. */
const anyDigest = `sha256:${"0".repeat(64)}` as ConfigDigest;

function newAgent(config: ConfigDigest = anyDigest) {
  return new ScriptedAgent({
    url: io.url,
    root: io.root,
    account: "acme",
    accountKey,
    models: [model],
    config,
  });
}

describe("publishing", () => {
  let digest: ConfigDigest;
  beforeAll(async () => {
    digest = await io.publish([model]);
  });

  it("serves root, release and snapshot so that an agent can verify them, and what is latest, signed", async () => {
    const get = async (path: string) => (await fetch(`${io.url}${path}`)).text();
    const root = trustRoot(parseStatement(await get(paths.root), "root"), io.network);
    const release = verifyRelease(parseStatement(await get(paths.release), "release"), root, 0);
    expect(release).toMatchObject({ sequence: 1, current: digest });
    const text = await get(paths.snapshot(digest));
    expect(openSnapshot(Buffer.from(text), digest, io.network).models).toEqual([
      { name: model, engines: [] },
    ]);
    const nonce = random32();
    const latest = openLatest(await get(`${paths.latest}?nonce=${nonce}`), root, { nonce, now: Date.now() });
    expect(latest).toMatchObject({ release_sequence: 1, digest });
  });

  it("answers 304 to the entity tag of the release, and snapshots are immutable", async () => {
    const release = await fetch(`${io.url}${paths.release}`);
    const etag = release.headers.get("etag") ?? "";
    await release.text();
    const again = await fetch(`${io.url}${paths.release}`, { headers: { "if-none-match": etag } });
    expect(again.status).toBe(304);
    const { current } = verifyRelease(
      parseStatement(await (await fetch(`${io.url}${paths.release}`)).text(), "release"),
      io.root,
      0,
    );
    const snapshot = await fetch(`${io.url}${paths.snapshot(current)}`);
    expect(snapshot.headers.get("cache-control")).toContain("immutable");
    expect((await fetch(`${io.url}${paths.snapshot(`sha256:${"0".repeat(64)}`)}`)).status).toBe(404);
    expect((await fetch(`${io.url}${paths.latest}`)).status).toBe(400);
  });

  it("B24 refuses one signature where two are needed", async () => {
    const { path } = await io.snapshot([model], "one");
    expect(await publish(await io.sign([path], 50, [1]), path)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("signed by 1 trusted keys, 2 distinct ones are needed"),
    });
  });

  it("B24 refuses two signatures by one key", async () => {
    const { path } = await io.snapshot([model], "twice");
    const release = await io.sign([path], 50, [1]);
    const statement = parseStatement(readFileSync(release, "utf8"), "release");
    const [signature] = statement.signatures;
    if (!signature) throw new Error("no signature");
    writeFileSync(release, JSON.stringify({ ...statement, signatures: [signature, signature] }));
    expect((await publish(release, path)).stderr).toContain("signed by 1 trusted keys");
  });

  it("B24 refuses signatures of keys of another role", async () => {
    const { path } = await io.snapshot([model], "role");
    const release = await io.sign([path], 50, [1]);
    const rootKey = importPrivateKey(
      JSON.parse(readFileSync(join(io.keys, "root-1.jwk"), "utf8")) as PrivateJwk,
    );
    const statement = parseStatement(readFileSync(release, "utf8"), "release");
    writeFileSync(release, JSON.stringify(cosignStatement("rn1.release", statement, rootKey)));
    expect((await publish(release, path)).stderr).toContain("signed by 1 trusted keys");
  });

  it("B24 refuses a sequence that is not greater, and a snapshot that nobody has shown", async () => {
    const { path } = await io.snapshot([model], "seq");
    expect((await publish(await io.sign([path], 1, [1, 2]), path)).stderr).toContain(
      "must be greater than 1",
    );
    expect((await publish(await io.sign([path], 50, [1, 2]))).stderr).toContain(
      "is not at hand: pass its file with --snapshot",
    );
  });

  it("adds signatures one holder at a time, and keeps older configs allowed", async () => {
    const [old, next] = [await io.snapshot([model], "old"), await io.snapshot([model, "m2"], "next")];
    const release = await io.sign([next.path, old.path], 60, [1]);
    await ioDone("config", "sign", "--key", join(io.keys, "config-3.jwk"), "--out", release);
    expect((await publish(release, next.path, old.path)).code).toBe(0);
    const signed = verifyRelease(parseStatement(readFileSync(release, "utf8"), "release"), io.root, 0);
    expect(signed.allowed.map(({ digest }) => digest)).toEqual([next.digest, old.digest]);
    expect(
      await runIo(
        "config",
        "sign",
        "--key",
        join(io.keys, "config-3.jwk"),
        "--sequence",
        "61",
        "--out",
        release,
      ),
    ).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("name a new --out"),
    });
  });
});

describe("keys and the command line", () => {
  it("writes key files for the owner alone and never overwrites them", async () => {
    for (const name of ["root-1", "root-3", "config-2", "delegation"])
      expect(statSync(join(io.keys, `${name}.jwk`)).mode & 0o777).toBe(0o600);
    expect(statSync(join(io.data, "service.jwk")).mode & 0o777).toBe(0o600);
    expect(statSync(join(io.data, "admin.sock")).mode & 0o777).toBe(0o600);
    expect(statSync(join(io.data, "io.db")).mode & 0o777).toBe(0o600);
    const again = ioProcess("keys", "init", "--network", "x", "--out", io.keys);
    expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining("exists") });
    const draft = join(io.folder, "draft-1.yaml");
    expect(await runIo("config", "draft", draft, "--out", join(io.folder, "snapshot-1.json"))).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("not overwritten"),
    });
  });

  it.each([
    [["nonsense"], 2, "there is no command"],
    [["keys", "init", "--out", "/tmp/x"], 2, "--network NAME is missing"],
    [["nodes", "list", "--data", "/nonexistent"], 1, "no service answers on /nonexistent/admin.sock"],
    [
      ["serve", "--data", "/tmp/x", "--network", "n", "--listen", "nowhere"],
      2,
      "--listen: nowhere is no HOST:PORT",
    ],
    [["keys", "delegate", "--keys", "/nonexistent", "--data", "/tmp/x"], 1, "/nonexistent/root.json"],
  ])("io %j says what is wrong", (argv, code, words) => {
    expect(ioProcess(...argv)).toMatchObject({ code, stderr: expect.stringContaining(words) });
  });

  it("a wrong draft names its fields", async () => {
    const draft = join(io.folder, "wrong.yaml");
    writeFileSync(draft, "network: x\nversion: '1'\nruntimes: [{engine: vllm, image: latest}]\n");
    const { code, stderr } = await runIo("config", "draft", draft, "--out", join(io.folder, "wrong.json"));
    expect(code).toBe(1);
    expect(stderr).toContain("runtimes.0.image");
    expect(existsSync(join(io.folder, "wrong.json"))).toBe(false);
  });

  it("refuses a second service on one folder", async () => {
    const second = ioProcess("serve", "--data", io.data, "--network", io.network, "--listen", "127.0.0.1:0");
    expect(second).toMatchObject({ code: 1, stderr: expect.stringContaining("another service runs") });
  });

  it("renews the delegation of a running service", async () => {
    const said = await ioDone("keys", "delegate", "--keys", io.keys, "--data", io.data, "--ttl", "48h");
    expect(said).toContain("running service");
  });

  it("refuses an account twice", async () => {
    expect((await runIo("accounts", "add", "acme", "--data", io.data)).code).toBe(1);
  });
});

/** Payload of a signed answer, unverified. */
const saidIn = (jws: string): string => Buffer.from(jws.split(".")[1] ?? "", "base64url").toString();

describe("what nodes say by HTTP", () => {
  it("B33 registers a node again with the same answer, and refuses its binding for another key", async () => {
    const agent = newAgent();
    expect((await agent.register()).status).toBe(200);
    expect((await agent.register()).status).toBe(200);
    const thief = newAgent();
    const { nonce } = (await (await fetch(`${io.url}${paths.nonce}`)).json()) as { nonce: string };
    const binding = mintBinding(accountKey, io.network, "acme", agent.nodeId);
    const url = `${io.url}${paths.register}`;
    const stolen = sealRegistration({ binding, agent_version: "1", time: Date.now() }, thief.key, url, nonce);
    const answer = await thief.post(paths.register, stolen);
    expect(answer.status).toBe(409);
    expect(saidIn(answer.text)).toContain('"code":"wrong_node"');
    expect(await ioDone("nodes", "list", "--data", io.data)).not.toContain(thief.nodeId);
  });

  it.each([
    ["a forged binding", { account: "acme", key: Buffer.alloc(32, 1) as AccountKey }, "binding"],
    [
      "an account that nobody knows",
      { account: "nobody", key: Buffer.alloc(32, 1) as AccountKey },
      "binding",
    ],
  ])("refuses %s before any signature is checked", async (_what, { account, key }, code) => {
    const agent = newAgent();
    const { nonce } = (await (await fetch(`${io.url}${paths.nonce}`)).json()) as { nonce: string };
    const binding = mintBinding(key, io.network, account, agent.nodeId);
    const url = `${io.url}${paths.register}`;
    const body = sealRegistration({ binding, agent_version: "1", time: Date.now() }, agent.key, url, nonce);
    const answer = await agent.post(paths.register, body.replace(/[^.]*$/, "A".repeat(86)));
    expect(answer.status).toBe(403);
    expect(Buffer.from(answer.text.split(".")[1] ?? "", "base64url").toString()).toContain(
      `"code":"${code}"`,
    );
  });

  it("refuses a nonce that it did not make, and another URL", async () => {
    const agent = newAgent();
    const binding = mintBinding(accountKey, io.network, "acme", agent.nodeId);
    const registration = { binding, agent_version: "1", time: Date.now() };
    const url = `${io.url}${paths.register}`;
    const madeUp = await agent.post(
      paths.register,
      sealRegistration(registration, agent.key, url, "x.y.z".repeat(8)),
    );
    expect(madeUp.text).toContain("wrong_challenge");
    const { nonce } = (await (await fetch(`${io.url}${paths.nonce}`)).json()) as { nonce: string };
    const elsewhere = sealRegistration(
      registration,
      agent.key,
      "https://other.example/v1/nodes/register",
      nonce,
    );
    expect(saidIn((await agent.post(paths.register, elsewhere)).text)).toContain('"code":"wrong_audience"');
  });

  it("hears pings and heartbeats in the order of their seq; a refusal names the last one, signed", async () => {
    const agent = newAgent();
    await agent.register();
    const session = await agent.connect();
    const ping = (seq: number) => {
      const url = `${io.url}${paths.ping}`;
      return agent.post(
        paths.ping,
        sealRequest(pingTyp, { node_id: agent.nodeId, time: Date.now() }, agent.key, url, seq),
      );
    };
    expect(answerOf((await ping(5)).text, session).http_seq).toBe(5);
    const refused = answerOf((await ping(5)).text, session);
    expect(refused).toMatchObject({ http_seq: 5, error: { code: "sequence" } });
    const nonce = random32();
    const url = `${io.url}${paths.heartbeat}`;
    const heartbeat = { node_id: agent.nodeId, time: Date.now(), nonce, report: agent.report() };
    const heard = answerOf(
      (await agent.post(paths.heartbeat, sealRequest(httpHeartbeatTyp, heartbeat, agent.key, url, 6))).text,
      session,
    );
    expect(heard).toMatchObject({ http_seq: 6, latest: { nonce } });
    session.drop();
  });
});

describe("the fleet feed", () => {
  const authorization = (path: string, nonce = random32(), key = accountKey) =>
    accountAuthorization(key, { account: "acme", method: "GET", path, time: Date.now(), nonce });

  async function openFeed(): Promise<{ lines: FeedLine[]; close: () => void }> {
    const abort = new AbortController();
    const response = await fetch(`${io.url}${paths.feed}`, {
      headers: { authorization: authorization(paths.feed) },
      signal: abort.signal,
    });
    expect(response.status).toBe(200);
    const lines: FeedLine[] = [];
    void (async () => {
      let text = "";
      for await (const part of response.body ?? []) {
        text += Buffer.from(part as Uint8Array).toString();
        for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n")) {
          lines.push(parseFeedLine(text.slice(0, end)));
          text = text.slice(end + 1);
        }
      }
    })().catch(() => undefined);
    return { lines, close: () => abort.abort() };
  }

  it("tells of every node, then synced, then changes: sessions, config, commits", async () => {
    const agent = newAgent();
    await agent.register();
    const feed = await openFeed();
    await until("synced", () => feed.lines.some(({ type }) => type === "synced"));
    const of = (): FeedNode | undefined =>
      feed.lines.findLast((line): line is FeedNode => line.type === "node" && line.node_id === agent.nodeId);
    expect(of()).toMatchObject({ connected: false, epoch: 0, kid: agent.key.kid });
    const session: AgentSession = await agent.connect();
    await until("connected", () => of()?.connected === true && of()?.models_active[0] === model);
    expect(of()).toMatchObject({ epoch: 1, config_applied: agent.setting.config });
    const gpu = { product: null, memory_mib: null };
    const old = { ...gpu, xid: { code: 31, since: null } };
    session.heartbeat([], {}, [old, { ...gpu, xid: { code: 79, since: 1_767_225_600_000 } }]);
    await until("what the driver said", () => of()?.xids !== undefined);
    expect(of()?.xids).toEqual([{ code: 79, since: 1_767_225_600_000 }]);
    session.heartbeat();
    await until("that it is over", () => of() !== undefined && of()?.xids === undefined);
    session.drop();
    await until("disconnected", () => of()?.connected === false);
    feed.close();
  });

  it("counts commits", async () => {
    const published = await (await fetch(`${io.url}${paths.release}`)).text();
    const agent = newAgent(verifyRelease(parseStatement(published, "release"), io.root, 0).current);
    await agent.register();
    const feed = await openFeed();
    const session = await agent.connect();
    const apiKey = await io.apiKey("counting");
    const asked = fetch(`${io.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
      body: JSON.stringify({ model, messages: [] }),
    });
    const broken = await session.offer();
    const { job, attempt, token } = broken;
    session.send("nack", { job, attempt, token, code: "E_ENGINE", reason: "the engine ended" });
    const offer = await session.offer();
    session.answer(offer, plainOf(offer, "x"));
    expect((await asked).status).toBe(200);
    const line = await until("the count", () =>
      feed.lines.find(
        (each) => each.type === "node" && each.node_id === agent.nodeId && each.jobs_committed === 1,
      ),
    );
    expect(line).toMatchObject({
      work: { config: agent.setting.config, completed: 1, failed: 1 },
    });
    const exported = await ioDone("receipts", "export", "acme", "--data", io.data);
    const file = join(io.folder, "receipts.jws");
    writeFileSync(file, `${exported}\n`);
    expect(await ioDone("receipts", "verify", file, "--data", io.data)).toMatch(
      /^1 receipts, 2 completion tokens/,
    );
    feed.close();
    session.drop();
  });

  it("refuses strangers, other paths, and the same request twice", async () => {
    const ask = async (header: string) =>
      (await fetch(`${io.url}${paths.feed}`, { headers: { authorization: header } })).status;
    expect(await ask("Bearer x")).toBe(401);
    expect(await ask(authorization(paths.feed, random32(), Buffer.alloc(32) as AccountKey))).toBe(401);
    expect(await ask(authorization("/v1/other"))).toBe(401);
    const once = authorization(paths.feed);
    const abort = new AbortController();
    const first = await fetch(`${io.url}${paths.feed}`, {
      headers: { authorization: once },
      signal: abort.signal,
    });
    expect(first.status).toBe(200);
    abort.abort();
    expect(await ask(once)).toBe(401);
  });
});
