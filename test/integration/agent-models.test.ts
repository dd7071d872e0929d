import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import type { Snapshot } from "../../src/protocol/config/snapshot.ts";
import { weightsDigest } from "../../src/protocol/config/weights.ts";
import type { Desired } from "../../src/protocol/desired.ts";
import { type Config, TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { ScriptedService } from "../agent/fixture/service.ts";
import { type MadeFile, makeFile, named, WeightsServer } from "../agent/fixture/weights.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const processes = supervise();
afterAll(() => processes.close());

const mib = 1024 * 1024;
const network = new TestNetwork();
let service: ScriptedService;
let server: WeightsServer;
let node: NodeProcesses;
let models: string;
/** A second node, with a service of its own. */
let other: NodeProcesses;
let otherService: ScriptedService;

beforeEach(async () => {
  service = await ScriptedService.start(network);
  server = await WeightsServer.start();
  node = await NodeProcesses.make(processes, network);
  models = join(processes.folder("models"), "cache");
  other = await NodeProcesses.make(processes, network);
  otherService = await ScriptedService.start(network);
});

afterEach(async () => {
  for (const each of [node, other]) {
    await each.agent?.stop();
    await each.launcher?.stop();
  }
  await server.stop();
  await service.stop();
  await otherService.stop();
});

type Model = Snapshot["models"][number];

const model = (files: readonly MadeFile[], over: Partial<Model> = {}): Model => ({
  name: "m1",
  engines: [],
  files: named(...files),
  sources: [`${server.url}/m1`],
  ...over,
});

/** A config whose engine reads the first file of its model when it starts. */
function configOf(version: string, files: readonly MadeFile[], over: Partial<Model> = {}, on = node): Config {
  const path = files[0]?.path ?? "";
  const command = engineCommand({ log: on.engineLog, more: ["--weights", `{model_path}/${path}`] });
  return network.config({ version, command, models: [model(files, over)] });
}

/** Publishes configs, the first of which is current. */
function publish(sequence: number, ...configs: readonly [Config, ...Config[]]): void {
  const expires = Date.now() + 86_400_000;
  const allowed = configs.map(({ digest }) => ({ digest, expires }));
  const release = network.release(sequence, configs[0], Date.now(), { allowed });
  for (const each of [node, other]) each.mount(release, ...configs);
  for (const each of [service, otherService]) each.publish(sequence, release, ...configs);
}

async function start(
  target: ConfigDigest,
  more: readonly string[] = [],
  over: Partial<Desired> = {},
): Promise<void> {
  node.desire({ target, ...over });
  node.startAgent(service.url, ["--models-dir", models, ...more]);
  await node.startLauncher();
}

const folderOf = (files: readonly MadeFile[]) => join(models, "sha256", weightsDigest(named(...files)));
const bytesIn = (dir: string): number =>
  existsSync(dir) ? readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0) : 0;

/** How a model is, in the signed status. */
const stateOf = async (name = "m1") =>
  (await node.status()).report.models.states?.find(({ model: each }) => each === name);

const active = () => until("an active model", async () => (await stateOf())?.state === "active");

const startsOf = (of = node) =>
  existsSync(of.engineLog) ? of.engineEvents().filter(({ event }) => event === "start") : [];

describe("weights of a first config", () => {
  it("are fetched and verified before any engine is started, and tried before the model counts as active", async () => {
    const files = [
      makeFile("weights/model.bin", 3 * mib),
      makeFile("config.json", 100),
      makeFile("empty", 0),
    ];
    server.put("m1", ...files);
    server.bends.holdAfter = mib;
    const config = configOf("1", files);
    publish(1, config);
    await start(config.digest);
    const downloading = await until("a download", async () => {
      const state = await stateOf();
      return state?.state === "downloading" && state;
    });
    expect(downloading.total).toBe(3 * mib + 100);
    expect((await node.ask("/startup")).status).toBe(503);
    expect(existsSync(join(node.dir, "launch/generation"))).toBe(false);
    // What the network hears of it.
    await until(
      "the state in a heartbeat",
      () => service.report?.models.states?.[0]?.state === "downloading",
    );

    server.flow();
    await active();
    expect(await stateOf()).toEqual({
      model: "m1",
      state: "active",
      bytes: 3 * mib + 100,
      total: 3 * mib + 100,
    });
    expect(startsOf().map(({ weights }) => weights)).toEqual([files[0]?.sha256]);
    expect(node.engineEvents().map(({ event }) => event)).toEqual(["start", "test"]);
    for (const { path, bytes } of files) expect(readFileSync(join(folderOf(files), path))).toEqual(bytes);
    expect(readdirSync(join(models, "sha256")).sort()).toEqual(
      ["", ".json", ".lock"].map((end) => `${weightsDigest(named(...files))}${end}`),
    );
    await service.ready();
  });

  it("are not fetched again by the next process, nor hashed", async () => {
    const files = [makeFile("w.bin", mib)];
    server.put("m1", ...files);
    const config = configOf("1", files);
    publish(1, config);
    await start(config.digest);
    await active();
    const requests = server.served.length;
    node.agent?.signal("SIGKILL");
    await node.agent?.exited;
    server.bends.status = 500;
    node.startAgent(service.url, ["--models-dir", models]);
    await active();
    expect(server.served).toHaveLength(requests);
    expect(startsOf()).toHaveLength(1);
    expect(readFileSync(node.agentLog, "utf8").match(/"state":"verifying"/g)).toBeNull();
  });

  it("go on where a cut connection ended", async () => {
    const files = [makeFile("w.bin", 3 * mib)];
    server.put("m1", ...files);
    Object.assign(server.bends, { cutAfter: mib, cuts: 2 });
    const config = configOf("1", files);
    publish(1, config);
    await start(config.digest);
    await active();
    expect(server.served).toHaveLength(3);
    expect(server.served[1]?.from).toBeGreaterThan(0);
    expect(server.served[2]?.from).toBeGreaterThan(server.served[1]?.from ?? 0);
    expect(server.sent).toBeLessThan(3 * mib + 64 * 1024 * 6);
  });

  it("go on where an agent was killed with SIGKILL", async () => {
    const files = [makeFile("w.bin", 4 * mib)];
    server.put("m1", ...files);
    server.bends.holdAfter = 2 * mib;
    const config = configOf("1", files);
    publish(1, config);
    await start(config.digest);
    await until("half of it", () => bytesIn(`${folderOf(files)}.parts`) >= 2 * mib);
    node.agent?.signal("SIGKILL");
    await node.agent?.exited;
    expect(existsSync(folderOf(files))).toBe(false);
    server.flow();
    node.startAgent(service.url, ["--models-dir", models]);
    await active();
    expect(server.served.at(-1)?.from).toBe(2 * mib);
    expect(startsOf().map(({ weights }) => weights)).toEqual([files[0]?.sha256]);
  });

  it("begin anew where a place gives no ranges", async () => {
    const files = [makeFile("w.bin", 3 * mib)];
    server.put("m1", ...files);
    Object.assign(server.bends, { cutAfter: mib, cuts: 1, ignoreRange: true });
    const config = configOf("1", files);
    publish(1, config);
    await start(config.digest);
    await active();
    expect(server.served.map(({ from }) => from > 0)).toEqual([false, true]);
    expect(startsOf()).toHaveLength(1);
  });

  it("that are not what the network signed fail by name, and no engine is started with them", async () => {
    const files = [makeFile("config.json", 10), makeFile("w.bin", mib)];
    server.put("m1", ...files);
    server.bends.forge = (path, bytes) =>
      path.endsWith("w.bin") ? Buffer.concat([bytes.subarray(1), Buffer.from("x")]) : bytes;
    const config = configOf("1", files);
    publish(1, config);
    await start(config.digest);
    const failed = await until("the failure", async () => {
      const state = await stateOf();
      return state?.state === "failed" && state;
    });
    expect(failed.reason).toMatch(/model m1: file w\.bin is not what the network signed/);
    const status = await node.status();
    expect(status.config_error).toMatchObject({ digest: config.digest });
    expect(status.config_error?.message).toContain("w.bin");
    expect(status.report.config.applied).toBeNull();
    expect((await node.ask("/startup")).status).toBe(503);
    expect(existsSync(join(node.dir, "launch/generation"))).toBe(false);
    expect(existsSync(join(folderOf(files), "w.bin"))).toBe(false);
    expect(startsOf()).toEqual([]);
  });

  it("come from the mirror first, and from the source when the mirror has others", async () => {
    const files = [makeFile("w.bin", mib)];
    const mirror = await WeightsServer.start();
    try {
      server.put("m1", ...files);
      mirror.put("copy/m1", ...files);
      const config = configOf("1", files);
      publish(1, config);
      const mirrors = [{ source: server.url, mirrors: [`${mirror.url}/copy`] }];
      await start(config.digest, [], { mirrors });
      await active();
      expect(server.served).toEqual([]);
      expect(mirror.served.map(({ path }) => path)).toEqual(["/copy/m1/w.bin"]);

      const next = [makeFile("w.bin", mib)];
      server.put("m1", ...next);
      const second = configOf("2", next);
      publish(2, second);
      node.desire({ revision: 2, target: second.digest, mirrors });
      await until("the new weights", () => startsOf().length === 2);
      expect(startsOf()[1]?.weights).toBe(next[0]?.sha256);
      expect(mirror.served).toHaveLength(2);
    } finally {
      await mirror.stop();
    }
  });

  it("come by a redirect, and from a folder of the host only where its owner allows it", async () => {
    const files = [makeFile("a.bin", mib)];
    const elsewhere = processes.folder("weights");
    for (const { path, bytes } of files) writeFileSync(join(elsewhere, path), bytes);
    const config = configOf("1", files, { sources: [`file://${elsewhere}`] });
    publish(1, config);
    await start(config.digest);
    const failed = await until("the refusal", async () => {
      const state = await stateOf();
      return state?.state === "failed" && state;
    });
    expect(failed.reason).toMatch(/--models-source-dir/);
    await node.agent?.stop();
    node.startAgent(service.url, ["--models-dir", models, "--models-source-dir", dirname(elsewhere)]);
    await active();
    await node.agent?.stop();

    const next = [makeFile("b.bin", mib)];
    const behind = await WeightsServer.start();
    try {
      behind.put("m1", ...next);
      server.bends.redirect = behind.url;
      const second = configOf("2", next);
      publish(2, second);
      node.desire({ revision: 2, target: second.digest });
      node.startAgent(service.url, ["--models-dir", models]);
      await until("the redirected weights", () => startsOf().at(-1)?.weights === next[0]?.sha256);
    } finally {
      await behind.stop();
    }
  });
});

describe("a folder of models that several agents share", () => {
  it("is filled once, and goes on when the one that filled it is killed", async () => {
    const files = [makeFile("w.bin", 4 * mib)];
    server.put("m1", ...files);
    server.bends.holdAfter = 2 * mib;
    const config = configOf("1", files);
    publish(1, config);
    await start(config.digest);
    await until("half of it", () => bytesIn(`${folderOf(files)}.parts`) >= 2 * mib);
    other.desire({ target: config.digest });
    other.startAgent(otherService.url, ["--models-dir", models]);
    await other.sees("that it waits", ({ report }) =>
      report.models.states?.[0]?.reason?.includes("another agent"),
    );
    expect(server.served).toHaveLength(1);

    node.agent?.signal("SIGKILL");
    await node.agent?.exited;
    server.flow();
    await other.sees("its config", ({ report }) => report.config.applied === config.digest);
    expect(server.served).toHaveLength(2);
    expect(server.served[1]?.from).toBe(2 * mib);

    // The first one, back, has nothing left to do.
    node.startAgent(service.url, ["--models-dir", models]);
    await active();
    expect(server.served).toHaveLength(2);
  });

  it("keeps what another agent uses when room is needed, and says what is missing", async () => {
    const files = [makeFile("w.bin", 3 * mib)];
    const next = [makeFile("w.bin", 3 * mib)];
    server.put("m1", ...files);
    const config = configOf("1", files);
    const second = configOf("2", next);
    publish(1, config, second);
    await start(config.digest);
    await active();
    other.desire({ target: config.digest });
    other.startAgent(otherService.url, ["--models-dir", models]);
    await other.sees("its config", ({ report }) => report.config.applied === config.digest);
    // Nobody but the other one uses the first weights from now on.
    await node.agent?.stop();
    server.put("m1", ...next);
    node.desire({ revision: 2, target: second.digest });
    node.write("state/applied.json", "{}");
    node.startAgent(service.url, ["--models-dir", models, "--models-max-bytes", String(5 * mib)]);
    const failed = await until("the failure", async () => {
      const state = (await node.status()).report.models.states?.find((each) => each.state === "failed");
      return state;
    });
    expect(failed.reason).toMatch(/needs 3145728 more bytes/);
    expect(existsSync(join(folderOf(files), "w.bin"))).toBe(true);
  });
});

describe("a bounded folder of models", () => {
  it("makes room by what nobody uses, the longest unused first", async () => {
    const generations = [0, 1, 2].map(() => [makeFile("w.bin", 2 * mib)]);
    const [first = [], second = [], third = []] = generations;
    const configs = generations.map((files, at) => configOf(String(at), files));
    const [one, two, three] = configs;
    if (!one || !two || !three) throw new Error("three configs");
    publish(1, one, two, three);
    server.put("m1", ...first);
    await start(one.digest, ["--models-max-bytes", String(5 * mib)]);
    await active();
    server.put("m1", ...second);
    node.desire({ revision: 2, target: two.digest });
    await until("the second", () => startsOf().length === 2);
    await active();
    expect([first, second].map((files) => bytesIn(folderOf(files)))).toEqual([2 * mib, 2 * mib]);
    server.put("m1", ...third);
    node.desire({ revision: 3, target: three.digest });
    await until("the third", () => startsOf().length === 3);
    expect([first, second, third].map((files) => bytesIn(folderOf(files)))).toEqual([0, 2 * mib, 2 * mib]);
  });
});

describe("weights of a config that is staged", () => {
  it("are fetched while the old engine serves, `staged` only when all are verified, then it switches", async () => {
    const files = [makeFile("w.bin", mib)];
    const next = [makeFile("w.bin", 3 * mib)];
    server.put("m1", ...files);
    const config = configOf("1", files);
    const second = configOf("2", next);
    publish(1, config, second);
    await start(config.digest);
    await active();
    await service.ready();
    server.put("m1", ...next);
    server.bends.holdAfter = mib;
    node.desire({ revision: 2, target: config.digest, stage: second.digest });
    await until("the download", () => server.served.length === 2);
    await node.sees("both", ({ report }) => report.models.states?.length === 2);
    const states = (await node.status()).report.models.states ?? [];
    expect(states.map(({ state }) => state)).toEqual(["active", "downloading"]);
    expect((await node.status()).report.config.staged).toBeNull();
    // Told to move too early, it stays where it is.
    node.desire({ revision: 3, target: second.digest });
    await node.sees("the order", ({ desired_revision: revision }) => revision === 3);
    expect((await node.status()).report.config.applied).toBe(config.digest);
    const id = service.offer();
    await until("a result of the old engine", () => service.seen(id).results[0]);
    expect(startsOf()).toHaveLength(1);

    node.desire({ revision: 4, target: config.digest, stage: second.digest });
    server.flow();
    await node.sees("the staging", ({ report }) => report.config.staged === second.digest);
    expect(startsOf()).toHaveLength(1);
    node.desire({ revision: 5, target: second.digest });
    await until("the new engine", () => startsOf().length === 2);
    expect(startsOf().map(({ weights }) => weights)).toEqual([files[0]?.sha256, next[0]?.sha256]);
    await service.ready();
  });

  it("F20 killed at any moment of a move between weights it has the old config or the new one, whole", async () => {
    const sets = [0, 1].map((at) => [makeFile("w.bin", mib + at)]);
    const configs = sets.map((files, at) =>
      configOf(String(at), files, { sources: [`${server.url}/${at}`] }),
    );
    const [one, two] = configs;
    if (!one || !two) throw new Error("two configs");
    sets.forEach((files, at) => server.put(String(at), ...files));
    publish(1, one, two);
    await start(one.digest);
    await active();
    await node.launcher?.stop();
    for (const [index, delay] of [0, 8, 16, 32, 64, 128, 256].entries()) {
      const target = (index % 2 === 0 ? two : one).digest;
      node.desire({ revision: 10 + index, target });
      await new Promise((resolve) => setTimeout(resolve, delay));
      node.agent?.signal("SIGKILL");
      await node.agent?.exited;
      const { start: text, number } = node.generation();
      const folder = sets.map(folderOf).find((each) => text.includes(`${each}/w.bin`));
      expect(folder, `generation ${number} after a kill at ${delay} ms: ${text}`).toBeDefined();
      expect(existsSync(join(folder ?? "", "w.bin"))).toBe(true);
      node.startAgent(service.url, ["--models-dir", models]);
      await node.sees("the new config", ({ report }) => report.config.applied === target);
      expect((await node.status()).config_error).toBeNull();
    }
  });
});

describe("what a config may not name", () => {
  it("B25 files outside their folder are refused with the config, and nothing is written there", async () => {
    const file = makeFile("w.bin", 10);
    const paths = ["../../escape", "/tmp/escape", "a\u0000b", "x".repeat(65_536)];
    const good = configOf("0", [file]);
    for (const [at, path] of paths.entries()) {
      const bad = configOf(String(at + 1), [{ ...file, path }]);
      publish(at + 1, bad, good);
      if (at === 0) await start(bad.digest);
      else node.desire({ revision: at + 1, target: bad.digest });
      const status = await node.sees("the refusal", (seen) =>
        seen.config_error?.digest === bad.digest ? seen : undefined,
      );
      expect(status.config_error?.code).toBe("schema");
      expect(status.config_error?.message.length).toBeLessThan(300);
    }
    expect(server.served).toEqual([]);
    expect(existsSync(models)).toBe(false);
    expect(existsSync(join(node.dir, "launch/generation"))).toBe(false);
  });
});

describe("test inference", () => {
  it("a model that does not answer takes no jobs, and says why", async () => {
    const command = engineCommand({ log: node.engineLog, more: ["--refuse-tests"] });
    const config = network.config({ command });
    publish(1, config);
    await start(config.digest);
    const failed = await until("the failure", async () => {
      const state = await stateOf();
      return state?.state === "failed" && state;
    });
    expect(failed.reason).toMatch(/HTTP 500.*out of memory/);
    const { report } = await node.status();
    expect(report.models).toMatchObject({ installed: ["m1"], active: [] });
    expect(report.load.accepting).toBe(false);
    expect((await node.ask("/ready")).status).toBe(503);
  });
});
