import { setTimeout as wait } from "node:timers/promises";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { generateKey, importPrivateKey } from "../../src/protocol/keys.ts";
import { type Config, TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { ScriptedService, sha256 } from "../agent/fixture/service.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const processes = supervise();
afterAll(() => processes.close());

const network = new TestNetwork();
let service: ScriptedService;
let node: NodeProcesses;

function configOf(over: Parameters<TestNetwork["config"]>[0] = {}): Config {
  return network.config({ command: engineCommand({ log: node.engineLog }), ...over });
}

const image = (digit: string) => `registry.example/engine@sha256:${digit.repeat(64)}`;

function withImage(config: Config, digit: string, version: string): Config {
  const runtimes = config.snapshot.runtimes.map((entry) => ({ ...entry, image: image(digit) }));
  return network.config({ ...config.snapshot, runtimes, version });
}

beforeEach(async () => {
  service = await ScriptedService.start(network);
  node = await NodeProcesses.make(processes, network);
});

afterEach(async () => {
  await node.agent?.stop();
  await node.launcher?.stop();
  await service.stop();
});

describe("what an agent refuses", () => {
  it("B24 a release with one signature where two are needed, also when it is there twice", async () => {
    const config = configOf();
    const [first] = network.configKeys;
    if (!first) throw new Error("no key");
    const release = network.release(1, config, Date.now(), { keys: [first, first] });
    node.mount(release, config);
    service.publish(1, release, config);
    node.desire({ target: config.digest });
    node.startAgent(service.url);
    const status = await node.sees("the refusal", (seen) => seen.config_error && seen);
    expect(status.config_error).toMatchObject({ code: "threshold" });
    expect(status.report.config.applied).toBeNull();
    expect((await node.ask("/startup")).status).toBe(503);
  });

  it("B24 a release that is older than the one that the service names", async () => {
    const config = configOf();
    const old = network.release(3, config, Date.now());
    service.publish(3, old, config);
    service.bends.latest = 5;
    node.desire({ target: config.digest });
    node.startAgent(service.url);
    const status = await node.sees("the refusal", ({ config_error: error }) => error?.code === "rollback");
    expect(status).toBe(true);
    expect((await node.status()).report.config.release_sequence).toBe(5);
  });

  it("B24 a mount that goes back", async () => {
    const config = configOf();
    node.mount(network.release(2, config, Date.now()), config);
    node.desire({ target: config.digest });
    node.startAgent(service.url);
    await node.sees("the config", ({ report }) => report.config.applied === config.digest);
    const other = configOf({ version: "0" });
    node.mount(network.release(1, other, Date.now()), other);
    await node.sees("the refusal", ({ config_error: error }) => error?.code === "rollback");
    expect((await node.status()).report.config).toMatchObject({
      applied: config.digest,
      release_sequence: 2,
    });
  });

  it("B24 a digest whose time is over: no jobs, but the engine stays loaded", async () => {
    const config = configOf();
    const lasting = (ms: number) => ({ allowed: [{ digest: config.digest, expires: Date.now() + ms }] });
    node.mount(network.release(1, config, Date.now(), lasting(600_000)), config);
    node.desire({ target: config.digest });
    node.startAgent(service.url);
    await node.startLauncher();
    await service.ready();
    node.mount(network.release(2, config, Date.now(), lasting(4_000)), config);
    const status = await node.sees("the end of the config", (seen) =>
      seen.config_error?.code === "expired" && !seen.report.load.accepting ? seen : undefined,
    );
    expect(status.report.engine.health).toBe("healthy");
    expect(status.report.load.reason).toContain("expired");
    await until("the service to hear of it", () => service.report?.load.accepting === false);
  });

  it("a snapshot whose bytes are not those of its digest", async () => {
    const config = configOf();
    const release = network.release(1, config, Date.now());
    const forged = { ...config, bytes: Buffer.from(config.bytes.toString("utf8").replace('"1"', '"2"')) };
    node.mount(release, forged);
    service.publish(1, release, forged);
    node.desire({ target: config.digest });
    node.startAgent(service.url);
    await node.sees("the refusal", ({ config_error: error }) => error?.code === "digest_mismatch");
    expect((await node.ask("/startup")).status).toBe(503);
  });

  it("a service whose key the network has not delegated to", async () => {
    const stranger = importPrivateKey(generateKey());
    service.bends.key = stranger;
    service.bends.delegation = network.delegation(Date.now(), stranger);
    // Signed by the stranger instead of the network's delegation key.
    service.bends.delegation = {
      ...service.bends.delegation,
      signatures: service.bends.delegation.signatures.map(({ protected: header }) => ({
        protected: header,
        signature: "A".repeat(86),
      })),
    };
    node.desire();
    node.startAgent(service.url);
    await node.sees("the refusal", ({ session }) => session.last_error?.includes("bad_signature"));
    await until("the close frame", () => service.closes.length > 0);
    expect(service.closes[0]).toMatchObject({ code: 4401 });
    expect(service.connected).toBe(false);
  });

  it("B05 a challenge that another key signed than the delegated one", async () => {
    service.bends.key = importPrivateKey(generateKey());
    node.desire();
    node.startAgent(service.url);
    await node.sees("the refusal", ({ session }) => session.last_error?.includes("unknown_key"));
    await until("the close frame", () => service.closes.length > 0);
    expect(service.closes[0]).toMatchObject({ code: 4401 });
  });

  it("B01 B04 a frame that it has had, and one that is none", async () => {
    const config = configOf();
    node.mount(network.release(1, config, Date.now()), config);
    node.desire({ target: config.digest });
    node.startAgent(service.url);
    await until("a session", () => service.connected);
    service.raw(service.say("ack", { upto: 0, results: [] }));
    await until("the close", () => service.closes.some(({ code }) => code === 4412));
    await until("the next session", () => service.epoch === 2 && service.connected);
    service.raw("not a frame");
    await until("the close", () => service.closes.some(({ code }) => code === 4400));
    await until("the next session", () => service.epoch === 3);
  });
});

describe("how an agent moves", () => {
  /** In session on a first config, with a second one staged. */
  async function moving(second: (first: Config) => Config): Promise<{ first: Config; second: Config }> {
    const first = configOf();
    const next = second(first);
    const expires = Date.now() + 86_400_000;
    const allowed = [first, next].map(({ digest }) => ({ digest, expires }));
    const release = network.release(1, first, Date.now(), { allowed });
    // The second one is not in the mount: it comes from the service.
    node.mount(release, first);
    service.publish(1, release, first, next);
    node.desire({ target: first.digest });
    node.startAgent(service.url);
    await node.startLauncher();
    await service.ready();
    node.desire({ revision: 2, target: first.digest, stage: next.digest });
    await node.sees("the staging", (seen) => seen.report.config.staged === next.digest);
    return { first, second: next };
  }

  it("changes limits without touching the engine", async () => {
    const { second } = await moving((first) =>
      network.config({ ...first.snapshot, version: "2", limits: { max_jobs: 9, max_output_bytes: 1024 } }),
    );
    const starts = node.engineEvents().filter(({ event }) => event === "start").length;
    node.desire({ revision: 3, target: second.digest });
    await until("new limits", () => service.report?.load.slots === 9);
    expect(node.engineEvents().filter(({ event }) => event === "start")).toHaveLength(starts);
    expect(service.epoch).toBe(1);
  });

  it("drains and has the launcher start the engine anew for a new argument", async () => {
    await moving((first) => network.config({ ...first.snapshot, version: "2" }));
    await node.switchEngine({ tokenDelayMs: 40 });
    const id = service.offer();
    await until("output", () => service.seen(id).output !== "");
    const { target } = (await node.status()).report.config;
    node.desire({ revision: 3, target, args: ["--version", "with args"] });
    await until("an engine with the argument", async () => {
      const answer = await fetch(`http://127.0.0.1:${node.enginePort()}/version`);
      return ((await answer.json()) as { version: string }).version === "with args";
    });
    expect(service.seen(id).results[0]).toMatchObject({ outcome: "completed" });
    await service.ready();
    expect(service.epoch).toBe(1);
    const starts = node.engineEvents().filter(({ event }) => event === "start");
    expect(starts).toHaveLength(2);
  });

  it("waits with a new image for the container's stop, and applies it within the drain", async () => {
    const { first, second } = await moving((config) => withImage(config, "2", "2"));
    node.desire({ revision: 3, target: second.digest, plannedStop: "runtime-image" });
    await node.sees("the order", (seen) => seen.desired_revision === 3);
    expect((await node.status()).report.config.applied).toBe(first.digest);

    await node.switchEngine({ tokenDelayMs: 40 });
    const id = service.offer();
    await until("output", () => service.seen(id).output !== "");
    const drained = await node.drain();
    expect(drained.status).toBe(200);
    expect(service.seen(id).results[0]).toMatchObject({ outcome: "completed" });
    const status = await node.status();
    expect(status.drain.state).toBe("drained");
    expect(status.report.config.applied).toBe(second.digest);

    // What the kubelet does next: stop the container, start the new one.
    await node.launcher?.stop();
    await node.startLauncher();
    await service.ready();
    expect((await node.status()).drain.state).toBe("serving");
    // The engine has only just been started.
    await until("readiness", async () => (await node.ask("/ready")).status === 200);
    expect(service.epoch).toBe(1);
  });

  it("hands jobs back within the eviction timeout when nobody planned the stop", async () => {
    const { first } = await moving((config) => network.config({ ...config.snapshot, version: "2" }));
    node.desire({ revision: 3, target: first.digest, evictionTimeoutMs: 300 });
    await node.sees("the order", (seen) => seen.desired_revision === 3);
    await node.switchEngine({ mode: "hang", times: 1 });
    const id = service.offer();
    await until("the accept", () => service.seen(id).accepts === 1);
    const [once, twice] = await Promise.all([node.drain(), node.drain("POST")]);
    expect([once.status, twice.status]).toEqual([200, 200]);
    expect(service.seen(id).nacks[0]).toMatchObject({ code: "E_BUSY" });
    expect((await node.ask("/ready")).status).toBe(503);
  });

  it("F43 starts with the last good config while service and mount are away", async () => {
    await moving((config) => network.config({ ...config.snapshot, version: "2" }));
    node.agent?.signal("SIGKILL");
    await node.agent?.exited;
    await node.launcher?.stop();
    service.down = true;
    node.write("network/release.json", "");
    node.write("pod/desired", "");
    node.startAgent(service.url);
    await node.startLauncher();
    await until("a warm engine", async () => (await node.ask("/ready")).status === 200);
  });

  it("F20 killed at any moment of a move it has the old config or the new one, whole", async () => {
    const { first } = await moving((config) => network.config({ ...config.snapshot, version: "2" }));
    await node.launcher?.stop();
    for (const [index, delay] of [0, 5, 10, 20, 40, 80].entries()) {
      node.desire({ revision: 10 + index, target: first.digest, args: ["--version", `v${index}`] });
      await wait(delay);
      node.agent?.signal("SIGKILL");
      await node.agent?.exited;
      // What a launcher would take now is all there.
      const { number, start } = node.generation();
      expect(start, `generation ${number} after a kill at ${delay} ms`).toMatch(/^exec '.*'\n$/);
      node.startAgent(service.url);
      await node.sees("the new config", ({ desired_revision: revision }) => revision === 10 + index);
      await until("the new arguments", () => node.generation().start.includes(`'v${index}'`));
      expect((await node.status()).config_error).toBeNull();
    }
  });

  it("runs the network's current config when it stands alone", async () => {
    const config = configOf();
    service.publish(1, network.release(1, config, Date.now()), config);
    node.startAgent(service.url, ["--standalone"]);
    await node.startLauncher();
    await service.ready();
    const next = configOf({ version: "2", limits: { max_jobs: 2, max_output_bytes: 4096 } });
    service.publish(2, network.release(2, next, Date.now()), next);
    await until("the new config", () => service.report?.config.applied === next.digest);
    expect(service.report?.load.slots).toBe(2);
  });
});

describe("an agent whose socket is down", () => {
  beforeEach(async () => {
    const config = configOf();
    node.mount(network.release(1, config, Date.now()), config);
    node.desire({ target: config.digest });
    service.bends.heartbeatMs = 200;
    node.startAgent(service.url);
    await node.startLauncher();
    await service.ready();
  });

  it("tells how it is by HTTP, and stays away for a minute after it was superseded", async () => {
    service.close(4409, "superseded");
    await until("heartbeats by HTTP", () => service.httpHeartbeats.length >= 2);
    expect(service.connected).toBe(false);
    expect((await node.status()).session).toMatchObject({ connected: false, epoch: 1 });
    expect((await node.ask("/metrics")).body).toContain("resultity_agent_connected 0");
  });

  it("F25 finishes its job, keeps the result and delivers it when the service is back", async () => {
    await node.switchEngine({ tokenDelayMs: 100 });
    const id = service.offer();
    await until("output", () => service.seen(id).output !== "");
    service.down = true;
    service.cut();
    await until("the end of the job at the engine", () =>
      node.engineEvents().some((entry) => entry.id === id && entry.outcome === "completed"),
    );
    expect(service.seen(id).results).toEqual([]);
    expect((await node.ask("/ready")).status).toBe(200);
    service.down = false;
    await until("the result", () => service.seen(id).results[0]);
    expect(service.seen(id).results[0]).toMatchObject({ output_sha256: sha256(service.seen(id).output) });
  });
});
