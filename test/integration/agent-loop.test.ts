import { readFileSync } from "node:fs";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { openReceipt } from "../../src/protocol/receipt.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { ScriptedService, sha256 } from "../agent/fixture/service.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const processes = supervise();
afterAll(() => processes.close());

const network = new TestNetwork();
let service: ScriptedService;
let node: NodeProcesses;

/** A node with the test engine, in session and taking jobs. */
async function serving(options: { tokenDelayMs?: number; desired?: object } = {}): Promise<void> {
  const config = network.config({ command: engineCommand({ log: node.engineLog, ...options }) });
  const release = network.release(1, config, Date.now());
  node.mount(release, config);
  service.publish(1, release, config);
  node.desire({ target: config.digest, ...options.desired });
  node.startAgent(service.url);
  await node.startLauncher();
  await service.ready();
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

describe("an agent with its engine", () => {
  it("registers, opens a session, runs a streamed and a plain job and signs their results", async () => {
    await serving();
    expect(service.registrations).toEqual([node.identity.nodeId]);
    expect((await node.ask("/startup")).status).toBe(200);
    expect((await node.ask("/ready")).status).toBe(200);

    const streamed = service.offer();
    const plain = service.offer({ stream: false });
    await until("both results", () => [streamed, plain].every((id) => service.seen(id).results.length > 0));

    for (const id of [streamed, plain]) {
      const { output, results } = service.seen(id);
      const result = results[0];
      expect(result).toMatchObject({ outcome: "completed", status: 200, output_sha256: sha256(output) });
      expect(result?.output_bytes).toBe(Buffer.byteLength(output));
      expect(result?.usage.completion_tokens).toBeGreaterThan(0);
      const receipt = openReceipt(result?.receipt ?? "", node.identity.key);
      expect(receipt).toMatchObject({ job: id, outcome: "completed", account: "acme", consumer: "someone" });
    }
    expect(service.seen(streamed).output).toMatch(/data: \[DONE\]\n\n$/);
    expect(node.engineEvents().filter(({ event, id }) => event === "begin" && id === streamed)).toHaveLength(
      1,
    );
  });

  it("F40 goes on from the offset that the service has, after the socket was cut", async () => {
    await serving({ tokenDelayMs: 100 });
    const id = service.offer();
    await until("some output", () => service.seen(id).offsets.length > 2);
    service.cut({ [id]: service.seen(id).offsets[1] ?? 0 });
    await until("the result", () => service.seen(id).results[0], { deadlineMs: 30_000 });
    const { output, results } = service.seen(id);
    expect(service.epoch).toBe(2);
    expect(results[0]).toMatchObject({ outcome: "completed", output_sha256: sha256(output) });
    expect(node.engineEvents().filter(({ event }) => event === "begin")).toHaveLength(1);
  });

  it("sends an unacknowledged result again on the next session", async () => {
    await serving();
    service.bends.withholdAcks = true;
    const id = service.offer();
    await until("the result", () => service.seen(id).results.length === 1);
    service.bends.withholdAcks = false;
    service.cut();
    await until("the result again", () => service.seen(id).results.length === 2);
    const [first, second] = service.seen(id).results;
    expect(second).toEqual(first);
  });

  it("F21 hands a job back that the engine cannot begin, and reports one that broke off after output as failed", async () => {
    await serving({ tokenDelayMs: 20 });
    await node.switchEngine({ mode: "error", times: 1 });
    const refused = service.offer();
    await until("the nack", () => service.seen(refused).nacks[0]);
    expect(service.seen(refused).nacks[0]).toMatchObject({ code: "E_ENGINE" });

    await node.switchEngine({ mode: "crash", times: 1 });
    const broken = service.offer();
    await until("the result", () => service.seen(broken).results[0]);
    const { output, results } = service.seen(broken);
    expect(results[0]).toMatchObject({ outcome: "failed", output_sha256: sha256(output) });
    expect(output).not.toContain("[DONE]");

    await until("a node that is not ready", async () => (await node.ask("/ready")).status === 503);
    // The launcher starts the engine again by itself.
    await until("a ready node", async () => (await node.ask("/ready")).status === 200);
    const again = service.offer();
    await until("a result", () => service.seen(again).results[0]?.outcome === "completed");
  });

  it("F22 bounds an endless answer and hands back garbage", async () => {
    await serving();
    for (const [mode, stream] of [
      ["garbage", false],
      ["garbage", true],
      ["endless", true],
      ["endless", false],
    ] as const) {
      await node.switchEngine({ mode, times: 1 });
      const id = service.offer({ stream });
      await until(`the end of ${mode}`, () => service.seen(id).nacks[0] ?? service.seen(id).results[0]);
      expect(service.seen(id).nacks[0]).toMatchObject({ code: "E_ENGINE" });
    }
    expect(node.agent?.running()).toBe(true);
  });

  it("passes a refusal of the engine on as the answer", async () => {
    await serving();
    await node.switchEngine({ mode: "reject", times: 1 });
    const id = service.offer();
    await until("the result", () => service.seen(id).results[0]);
    expect(service.seen(id).results[0]).toMatchObject({ outcome: "completed", status: 400 });
    expect(service.seen(id).output).toContain("switched to reject");
  });

  it("accepts a job of which the engine says nothing for half a second, and stops it on cancel", async () => {
    await serving();
    await node.switchEngine({ mode: "hang", times: 1 });
    const id = service.offer();
    await until("the accept", () => service.seen(id).accepts === 1);
    service.cancel(id);
    await until("the engine to notice", () =>
      node
        .engineEvents()
        .some((entry) => entry.event === "end" && entry.id === id && entry.outcome === "aborted"),
    );
    expect(service.seen(id).results).toEqual([]);
    expect(service.seen(id).nacks).toEqual([]);
    await until("a free node", () => service.report?.load.active === 0);
  });

  it("F27 finishes its job on SIGTERM, takes no other, says goodbye and exits 0", async () => {
    await serving({ tokenDelayMs: 150 });
    const id = service.offer();
    await until("output", () => service.seen(id).output !== "");
    node.agent?.signal("SIGTERM");
    await until("a node that does not accept", () => service.report?.load.accepting === false);
    const late = service.offer();
    expect(await node.agent?.exited).toEqual({ code: 0, signal: null });
    expect(service.seen(id).results[0]).toMatchObject({ outcome: "completed" });
    expect(service.seen(late).nacks[0]).toMatchObject({ code: "E_BUSY" });
    expect(service.frames.at(-1)).toMatchObject({ kind: "goodbye", payload: { reason: "drained" } });
    // The engine is the launcher's: it runs on.
    expect((await fetch(`http://127.0.0.1:${node.enginePort()}/health`)).status).toBe(200);
  });

  it("F27 hands a job back that does not end within the eviction timeout", async () => {
    await serving({ desired: { evictionTimeoutMs: 300 } });
    await node.switchEngine({ mode: "hang", times: 1 });
    const id = service.offer();
    await until("the accept", () => service.seen(id).accepts === 1);
    node.agent?.signal("SIGTERM");
    expect(await node.agent?.exited).toEqual({ code: 0, signal: null });
    expect(service.seen(id).nacks[0]).toMatchObject({ code: "E_BUSY" });
  });

  it("finds its engine running after a crash, and does not restart it", async () => {
    await serving();
    const before = node.engineEvents().filter(({ event }) => event === "start");
    node.agent?.signal("SIGKILL");
    await node.agent?.exited;
    node.startAgent(service.url);
    await until("a second session", () => service.epoch === 2 && service.report?.load.accepting);
    const id = service.offer();
    await until("a result", () => service.seen(id).results[0]?.outcome === "completed");
    expect(node.engineEvents().filter(({ event }) => event === "start")).toEqual(before);
  });

  it("names the file and the fix when its key cannot be read", async () => {
    node.write("identity/key.jwk", JSON.stringify({ kty: "OKP", crv: "Ed25519", x: "no", d: "secret-part" }));
    const exit = await node.startAgent(service.url).exited;
    expect(exit.code).toBe(1);
    const log = readFileSync(node.agentLog, "utf8");
    expect(log).toContain("key.jwk");
    expect(log).toContain("identity Secret");
    expect(log).not.toContain("secret-part");
  });
});
