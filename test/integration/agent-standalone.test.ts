import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Finding } from "../../src/agent/doctor/finding.ts";
import { importPublicKey, type PublicJwk } from "../../src/protocol/keys.ts";
import { engineCommand } from "../agent/fixture/process.ts";
import { io as runIo, IoProcess, ioDone } from "../io/fixture/network.ts";
import { freePort } from "../testbed/ports.ts";
import { type Child, supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/**
 * A node without Kubernetes, set up step by step as docs/standalone.md says, on a real IO service: config file, identity, two
 * processes (agent and launcher), the owner's commands.
 */
const agentMain = join(import.meta.dirname, "../../src/cmd/agent.ts");
const processes = supervise();
let io: IoProcess;
let client: OpenAI;
let dir: string;
let config: string;
let port: number;
let agent: Child;
let launcher: Child;

const at = (...names: string[]) => join(dir, ...names);

/** Runs a command of the agent to its end. */
function command(...args: string[]) {
  const run = spawnSync(process.execPath, [agentMain, ...args], { encoding: "utf8", cwd: dir });
  return { code: run.status, out: run.stdout, err: run.stderr };
}

function writeConfig(name: string, more: Readonly<Record<string, unknown>> = {}): string {
  const path = at(name);
  const text = {
    nodeName: "host-1",
    network: io.network,
    endpoints: [io.url],
    listen: `127.0.0.1:${port}`,
    dirs: { identity: at("identity"), state: at("state"), launch: at("launch") },
    runtime: { engine: "test" },
    drain: { timeout: "10s", stopTimeout: "5s" },
    ...more,
  };
  writeFileSync(path, JSON.stringify(text));
  return path;
}

function startAgent(): Child {
  return processes.spawn({
    name: "agent",
    command: process.execPath,
    args: [agentMain, "run", "--config", config],
    logFile: at("agent.log"),
    graceMs: 15_000,
  });
}

/** The launcher as its unit runs it. */
function startLauncher(): Child {
  return processes.spawn({
    name: "launcher",
    command: "/bin/sh",
    args: [
      "-c",
      `until [ -r ${at("launch/launch.sh")} ]; do sleep 0.1; done; exec /bin/sh ${at("launch/launch.sh")}`,
    ],
    logFile: at("launcher.log"),
  });
}

async function complete(model: string): Promise<{ id: string; text: string }> {
  const { data, response } = await client.chat.completions
    .create({ model, messages: [{ role: "user", content: "hello" }], max_tokens: 8 })
    .withResponse();
  const text = data.choices[0]?.message.content ?? "";
  return { id: response.headers.get("x-request-id") ?? "", text };
}

const serves = (model: string) =>
  until(
    `a node that serves ${model}`,
    async () => (await io.nodes()).some((node) => node.connected && node.models.includes(model)),
    { deadlineMs: 60_000, intervalMs: 300, giveUp: () => agent.requireRunning() },
  );

const publish = (model: string) =>
  io.publish([model], {
    engine: "test",
    command: engineCommand({ log: join(io.folder, "engine.log"), tokenDelayMs: 1 }),
  });

function keptLines(): readonly string[] {
  const [file = ""] = readdirSync(at("state/receipts"));
  return readFileSync(at("state/receipts", file), "utf8").trim().split("\n");
}

beforeAll(async () => {
  io = await IoProcess.start(processes, ["--heartbeat", "1s"]);
  await io.account("acme");
  client = new OpenAI({ baseURL: `${io.url}/v1`, apiKey: await io.apiKey("someone"), maxRetries: 0 });
  dir = processes.folder("standalone");
  port = await freePort();
  for (const name of ["state", "launch/run"]) mkdirSync(at(name), { recursive: true });
  config = writeConfig("agent.yaml");
});
afterAll(() => processes.close());

describe("a node without an operator", () => {
  it("gets its identity without the account key, and says so when it begins too early", async () => {
    const made = command("identity", "init", "--config", config);
    expect(made.code).toBe(0);
    const nodeId = made.out.trim();
    const { x } = JSON.parse(readFileSync(at("identity/key.jwk"), "utf8")) as PublicJwk;
    expect(nodeId).toBe(importPublicKey({ kty: "OKP", crv: "Ed25519", x }).kid);
    expect(command("identity", "init", "--config", config).out.trim()).toBe(nodeId);
    const early = command("run", "--config", config);
    expect(early.code).toBe(1);
    expect(early.err).toContain("binding.json does not exist");

    const stranger = await runIo("accounts", "bind", "nobody", nodeId, "--data", io.data);
    expect(stranger).toMatchObject({ code: 1 });
    expect(stranger.stderr).toContain("no account nobody");
    writeFileSync(
      at("identity/binding.json"),
      await ioDone("accounts", "bind", "acme", nodeId, "--data", io.data),
    );
    copyFileSync(join(io.keys, "root.json"), at("identity/root.json"));
  });

  it("runs the network's config from a config file: a completion works end to end", async () => {
    await publish("m1");
    agent = startAgent();
    launcher = startLauncher();
    await serves("m1");
    const { text } = await complete("m1");
    expect(text.length).toBeGreaterThan(0);
  });

  it("moves by itself when the network publishes another config", async () => {
    await publish("m2");
    await serves("m2");
    expect((await complete("m2")).text.length).toBeGreaterThan(0);
    await expect(complete("m1")).rejects.toThrow(/m1/);
    launcher.requireRunning();
  });

  it("keeps its receipts: as many as IO has, listed, verified, exported alike", async () => {
    const { id } = await complete("m2");
    await until("the receipts of three jobs", () => keptLines().length === 4);
    const listed = command("receipts", "list", "--json", "--config", config);
    const { totals } = JSON.parse(listed.out) as { totals: { model: string; jobs: number }[] };
    expect(totals.map(({ model, jobs }) => [model, jobs])).toEqual([
      ["m1", 1],
      ["m2", 2],
    ]);
    const verified = command("receipts", "verify", "--config", config);
    expect(verified.out).toContain("3 receipts");
    expect(verified.out).toContain("2 linked to the one before: every signature stands");
    expect(verified.code).toBe(0);
    const exported = command("receipts", "export", "--config", config).out.trim();
    expect(exported).toBe(await ioDone("receipts", "export", "acme", "--data", io.data));
    expect(command("receipts", "export", "--format", "csv", "--config", config).out).toContain(
      `,${id},1,acme,3,m2,`,
    );
  });

  it("notices a receipt that was altered, and names its line", () => {
    const [delegation = "", first = "", ...rest] = keptLines();
    // Another digit in the middle of the signed text.
    const middle = Math.floor(first.length / 2);
    const digit = first[middle] === "A" ? "B" : "A";
    const altered = at("altered.jsonl");
    writeFileSync(
      altered,
      [delegation, first.slice(0, middle) + digit + first.slice(middle + 1), ...rest].join("\n"),
    );
    const verified = command("receipts", "verify", altered, "--config", config);
    expect(verified.code).toBe(1);
    expect(verified.out).toMatch(/altered\.jsonl:2: /);
    expect(verified.out).toContain("1 lines do not stand");
  });

  it("comes back after a restart without a new engine, and leaves in order at TERM", async () => {
    const engines = () => readFileSync(join(io.folder, "engine.log"), "utf8").split('"event":"start"').length;
    const before = engines();
    expect(await agent.stop()).toEqual({ code: 0, signal: null });
    agent = startAgent();
    await serves("m2");
    await complete("m2");
    expect(engines()).toBe(before);
  });

  it("gets another key at its owner's word; its id stays, and what it earned before still stands", async () => {
    const lines = keptLines().length;
    const [before] = await io.nodes();
    const rotated = command("identity", "rotate", "--config", config);
    expect(rotated).toMatchObject({ code: 0 });
    const after = await until("a session by the new key", async () => {
      const [seen] = await io.nodes();
      return seen?.connected === true && seen.kid === rotated.out.trim() && seen;
    });
    expect(after.id).toBe(before?.id);
    expect(after.kid).not.toBe(before?.kid);
    expect(readdirSync(at("identity")).toSorted()).toEqual([
      "binding.json",
      "former.json",
      "key.jwk",
      "root.json",
    ]);
    await complete("m2");
    await until("the receipt by the new key", () => keptLines().length > lines);
    const verified = command("receipts", "verify", "--config", config);
    expect(verified.out).toContain("every signature stands");
    expect(verified.code).toBe(0);
    // And again, after a restart with what the folder has now.
    expect(await agent.stop()).toEqual({ code: 0, signal: null });
    agent = startAgent();
    await serves("m2");
    const again = command("identity", "rotate", "--config", config);
    expect(again.code).toBe(0);
    expect((await io.nodes())[0]).toMatchObject({ id: before?.id, kid: again.out.trim() });
    expect(command("receipts", "verify", "--config", config).code).toBe(0);
  });
});

describe("what deploy/ has", () => {
  const deploy = join(import.meta.dirname, "../../deploy");

  it("the sample config is one that the agent takes", () => {
    const { code, err } = command(
      "run",
      "--config",
      join(deploy, "agent.yaml"),
      "--identity-dir",
      at("nowhere"),
    );
    expect(err).toContain(`${at("nowhere")}/key.jwk does not exist`);
    expect(code).toBe(1);
  });

  const analyze = spawnSync("systemd-analyze", ["--version"], { encoding: "utf8" });
  it.skipIf(analyze.status !== 0)("units that systemd takes, the agent's hardened", () => {
    const root = at("units");
    for (const folder of ["etc/systemd/system", "usr/local/bin", "bin"])
      mkdirSync(join(root, folder), { recursive: true });
    const targets = ["sysinit", "basic", "shutdown", "network-online", "time-sync", "multi-user"];
    for (const name of targets) writeFileSync(join(root, "etc/systemd/system", `${name}.target`), "[Unit]\n");
    for (const path of ["usr/local/bin/resultity-agent", "bin/sh"])
      writeFileSync(join(root, path), "#!/bin/sh\n", { mode: 0o755 });
    const units = ["resultity-agent.service", "resultity-runtime.service"].map((name) => {
      const path = join(root, "etc/systemd/system", name);
      copyFileSync(join(deploy, "systemd", name), path);
      return path;
    });
    const verified = spawnSync("systemd-analyze", ["verify", "--man=no", `--root=${root}`, ...units], {
      encoding: "utf8",
    });
    expect(verified.stderr.split("\n").filter((line) => line.includes("resultity-"))).toEqual([]);
    const security = spawnSync(
      "systemd-analyze",
      ["security", "--offline=true", "--threshold=25", join(deploy, "systemd/resultity-agent.service")],
      { encoding: "utf8" },
    );
    expect(security.stdout).toContain("Overall exposure level");
    expect(security.status).toBe(0);
  });

  it("a Slurm job that drains at TERM: the running answer ends, then the node leaves", async () => {
    await agent.stop();
    await launcher.stop();
    const base = at("slurm");
    mkdirSync(join(base, "identities/7"), { recursive: true });
    for (const name of readdirSync(at("identity")))
      copyFileSync(at("identity", name), join(base, "identities/7", name));
    const shim = join(base, "resultity-agent");
    writeFileSync(shim, `#!/bin/sh\nexec ${process.execPath} ${agentMain} "$@"\n`, { mode: 0o755 });
    const job = processes.spawn({
      name: "sbatch",
      command: "/bin/sh",
      args: [join(deploy, "slurm/resultity-node.sbatch")],
      env: {
        ...process.env,
        RESULTITY_BASE: base,
        RESULTITY_AGENT: shim,
        RESULTITY_CONFIG: config,
        SLURM_ARRAY_TASK_ID: "7",
        TMPDIR: base,
      },
      logFile: at("sbatch.log"),
      graceMs: 20_000,
    });
    agent = job;
    await serves("m2");
    const messages = [{ role: "user" as const, content: "long" }];
    const stream = await client.chat.completions.create({
      model: "m2",
      messages,
      stream: true,
      max_tokens: 400,
    });
    let pieces = 0;
    let stopped: ReturnType<Child["stop"]> | undefined;
    for await (const piece of stream) {
      pieces += piece.choices.length;
      stopped ??= job.stop();
    }
    expect(pieces).toBeGreaterThan(100);
    expect(await stopped).toEqual({ code: 0, signal: null });
    expect((await io.nodes()).filter(({ connected }) => connected)).toEqual([]);
    expect(readdirSync(base).toSorted()).toEqual(["identities", "resultity-agent", "state"]);
    agent = startAgent();
    launcher = startLauncher();
    await serves("m2");
  });

  it("agent drain waits for what runs, and is undone when the engine begins anew", async () => {
    const drained = command("drain", "--config", config);
    expect(drained).toMatchObject({ code: 0, out: "drained\n" });
    const ready = async () => (await fetch(`http://127.0.0.1:${port}/ready`)).status;
    expect(await ready()).toBe(503);
    await launcher.stop();
    launcher = startLauncher();
    await until("the node to serve again", async () => (await ready()) === 200);
    expect((await complete("m2")).text.length).toBeGreaterThan(0);
  });
});

describe("agent doctor", () => {
  const doctor = (...args: string[]) => {
    const run = command("doctor", "--json", ...args);
    return { code: run.code, findings: JSON.parse(run.out) as Finding[], text: run.out };
  };
  const of = ({ findings }: { findings: readonly Finding[] }, check: string) =>
    findings.filter((finding) => finding.check === check);

  it("finds a node well, and the network too", () => {
    const run = doctor("--config", config);
    expect(run.findings.filter(({ verdict }) => verdict === "fail")).toEqual([]);
    expect(run.code).toBe(0);
    const checks = run.findings.filter(({ verdict }) => verdict === "ok").map(({ check }) => check);
    for (const check of [
      "key",
      "binding",
      "root",
      "dns",
      "tcp",
      "session",
      "clock",
      "release",
      "engine",
      "agent",
    ])
      expect(checks).toContain(check);
  });

  it("prints one line a check, and never the key or the binding's MAC", () => {
    const { out } = command("doctor", "--config", config);
    const { d } = JSON.parse(readFileSync(at("identity/key.jwk"), "utf8")) as { d: string };
    const { mac } = JSON.parse(readFileSync(at("identity/binding.json"), "utf8")) as { mac: string };
    expect(out).not.toContain(d);
    expect(out).not.toContain(mac);
    for (const line of out.trim().split("\n")) expect(line).toMatch(/^(ok|warn|fail) +[a-z]+ +\S/);
  });

  it("a key that others can read", () => {
    chmodSync(at("identity/key.jwk"), 0o644);
    const run = doctor("--config", config);
    chmodSync(at("identity/key.jwk"), 0o600);
    expect(run.code).toBe(1);
    expect(of(run, "key")).toMatchObject([{ verdict: "fail", fix: `chmod 600 ${at("identity/key.jwk")}` }]);
  });

  it("a wrong config file", () => {
    const run = doctor("--config", writeConfig("wrong.yaml", { drian: {} }));
    expect(run.code).toBe(1);
    expect(run.findings).toMatchObject([{ check: "config", verdict: "fail" }]);
    expect(run.findings[0]?.text).toContain("there is no field drian");
  });

  it("the root of another network", async () => {
    const other = at("other");
    await ioDone("keys", "init", "--network", io.network, "--out", join(other, "keys"));
    mkdirSync(join(other, "identity"));
    for (const name of ["key.jwk", "binding.json"])
      copyFileSync(at("identity", name), join(other, "identity", name));
    copyFileSync(join(other, "keys/root.json"), join(other, "identity/root.json"));
    const run = doctor("--config", config, "--identity-dir", join(other, "identity"));
    expect(of(run, "session")).toMatchObject([{ verdict: "fail" }]);
    expect(of(run, "session")[0]?.text).toContain("is not believed");
    expect(of(run, "release")).toMatchObject([{ verdict: "fail" }]);
  });

  it("no service, no agent, no engine", async () => {
    await agent.stop();
    await launcher.stop();
    await io.child?.stop();
    const run = doctor("--config", config);
    expect(run.code).toBe(1);
    expect(of(run, "tcp")).toMatchObject([{ verdict: "fail" }]);
    expect(of(run, "session")).toEqual([]);
    expect(of(run, "engine")).toMatchObject([{ verdict: "fail" }]);
    expect(of(run, "engine")[0]?.fix).toContain("resultity-runtime");
    expect(of(run, "agent")).toMatchObject([{ verdict: "warn" }]);
  });
});
