import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { httpAnswerTyp, paths } from "../../src/protocol/http.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { ScriptedService } from "../agent/fixture/service.ts";
import { badInputs, closeCodeOf, frameRoom, type Good, marker, sealGood } from "../faults/inputs.ts";
import { memoryOf } from "../faults/memory.ts";
import type { Offer } from "../io/fixture/agent.ts";
import { random16 } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** The bad inputs of faults-inputs.test.ts from a hostile service to real agents, in a session and as answers by HTTP. */
const processes = supervise();
afterAll(() => processes.close());

/** Longest that a refusal may take on a busy machine, ms; what it takes on an idle one is some 10 ms. */
const refusalMs = 5_000;
/** What a process may grow by while it refuses all of these, MiB. */
const growthMib = 64;

describe("agents whose service is hostile", () => {
  const network = new TestNetwork();
  /** Several, so that one is in session while others back off. */
  const nodes: { readonly service: ScriptedService; readonly node: NodeProcesses }[] = [];
  let turn = 0;
  let before: readonly number[] = [];

  beforeAll(async () => {
    for (let at = 0; at < 4; at++) {
      const service = await ScriptedService.start(network);
      service.bends.heartbeatMs = 500;
      const node = await NodeProcesses.make(processes, network);
      const config = network.config({ command: engineCommand({ log: node.engineLog }) });
      node.mount(network.release(1, config, Date.now()), config);
      node.desire({ target: config.digest });
      node.startAgent(service.url);
      nodes.push({ service, node });
    }
    for (const { service } of nodes) await until("a session", () => service.connected);
    before = nodes.map(({ node }) => memoryOf(node.agent?.pid ?? 0).now);
  });
  afterAll(async () => {
    for (const { service } of nodes) await service.stop();
  });

  /** A service whose agent is in a session that has proved itself, so that its back-off begins anew. */
  async function inSession(): Promise<ScriptedService> {
    const { service } = nodes[turn++ % nodes.length] ?? expect.fail();
    const heartbeats = () => {
      const { sid } = service.next;
      return service.frames.filter(({ kind, payload }) => kind === "heartbeat" && payload.sid === sid).length;
    };
    await until("a second heartbeat", () => service.connected && heartbeats() > 1, { deadlineMs: 60_000 });
    return service;
  }

  /** Waits for the agent's close, which names `error` and repeats nothing. */
  async function closes(service: ScriptedService, code: number, error?: string): Promise<void> {
    const { length } = service.closes;
    const sentAt = performance.now();
    await until("the close", () => service.closes.length > length, { intervalMs: 5 });
    expect(performance.now() - sentAt).toBeLessThan(refusalMs);
    const closed = service.closes[length];
    expect(closed?.code).toBe(code);
    if (code !== 1009 && error !== undefined) expect(closed?.reason).toMatch(new RegExp(`^${error}: `));
    expect(closed?.reason).not.toContain(marker);
  }

  /** A message that the agent would take next: an acknowledgement of nothing. */
  function goodOf(service: ScriptedService): Good {
    const { sid, seq } = service.next;
    const numbered = (number: string) => `"sid":"${sid}","seq":${seq},"upto":${number},"results":[]`;
    return { typ: "rn1.ack", key: network.service, members: numbered("0"), numbered, room: frameRoom };
  }

  it.each(badInputs)("$id $what, to an agent", async ({ error, make }) => {
    const service = await inSession();
    service.raw(make(goodOf(service)));
    await closes(service, closeCodeOf(error), error);
  });

  it("B01 a frame again, to an agent", async () => {
    const service = await inSession();
    service.raw(service.say("ack", { upto: 0, results: [] }));
    await closes(service, 4412, "sequence");
  });

  it("B02 a frame that is ahead, to an agent", async () => {
    const service = await inSession();
    const good = goodOf(service);
    service.raw(
      sealGood({
        ...good,
        members: good.members.replace(/"seq":(\d+)/, (_all, seq) => `"seq":${Number(seq) + 1}`),
      }),
    );
    await closes(service, 4412, "sequence");
  });

  it("B03 a frame of another session, to an agent", async () => {
    const service = await inSession();
    const good = goodOf(service);
    service.raw(
      sealGood({ ...good, members: good.members.replace(/"sid":"[^"]*"/, `"sid":"${random16()}"`) }),
    );
    await closes(service, 4412, "wrong_session");
  });

  it("B07 a frame that the node itself could have sent, to an agent", async () => {
    const service = await inSession();
    const { sid, seq } = service.next;
    const members = `"sid":"${sid}","seq":${seq},"reason":"shutdown"`;
    service.raw(sealGood({ ...goodOf(service), typ: "rn1.goodbye", members }));
    await closes(service, 4401, "wrong_typ");
  });

  it("B16 bytes that are not UTF-8, to an agent", async () => {
    const service = await inSession();
    service.raw(Buffer.concat([Buffer.from(marker), Buffer.of(0xff, 0xfe)]), { binary: false });
    await closes(service, 1007);
  });

  it("B17 a binary message that is right in all else, to an agent", async () => {
    const service = await inSession();
    service.raw(Buffer.from(sealGood(goodOf(service))));
    await closes(service, 4400, "malformed");
  });

  it.each([
    ["by their size", 40, 10_000, 1009],
    ["by their number", 20_000, 1, 1008],
  ])("B18 fragments without end, to an agent: cut %s", async (_how, count, size, code) => {
    const service = await inSession();
    for (let at = 0; at < count; at++) service.raw("x".repeat(size), { fin: false });
    await closes(service, code);
  });

  it("B23 what is said of jobs that it does not hold changes nothing", async () => {
    const service = await inSession();
    const about = { job: "job-neverheld" as Offer["job"], attempt: 1 };
    service.say("cancel", { ...about, reason: "none" });
    service.say("ack", { upto: 0, results: [{ ...about, status: "committed" }] });
    service.say("verdict", { jobs: [{ ...about, action: "keep", offset: 1_000_000 }], last: true });
    const { length } = service.frames;
    await until("heartbeats", () => service.frames.length > length + 2);
    expect(service.frames.slice(length).every(({ kind }) => kind === "heartbeat")).toBe(true);
  });

  // Unknown keys that fit into an answer's 64 KiB are fewer than a message may have.
  const answers = badInputs.filter(({ what }) => what !== "as many unknown keys as fit");
  it("B04 B05 B06 B09 B10 B11 B12 B13 B14 B15 B16 B19 B22 B31 answers to what it says by HTTP: believed by nobody", async () => {
    const { node, service } = nodes[0] ?? expect.fail();
    await until("a session", () => service.connected, { deadlineMs: 60_000 });
    service.bends.heartbeatMs = 100;
    const { epoch } = service;
    service.cut();
    await until("another session", () => service.epoch > epoch && service.connected, { deadlineMs: 70_000 });
    const { nodeId } = node.identity;
    const known = (await node.status()).report.config.release_sequence;
    let told = 0;
    service.bends.answer = (path, body) => {
      if (path !== paths.heartbeat) return undefined;
      const [, payload = ""] = body.split(".");
      const { nonce } = JSON.parse(Buffer.from(payload, "base64url").toString()) as { nonce: string };
      // Were one of them believed, the node would know of a release that nobody has published.
      const latest = `"latest":{"release_sequence":99,"digest":null,"nonce":"${nonce}"}`;
      const numbered = (number: string) => `"node_id":"${nodeId}","time":${number},"http_seq":0,${latest}`;
      const input = answers[told++ % answers.length] ?? expect.fail();
      const members = numbered(String(Date.now()));
      const room = Math.floor((63 * 1024 * 3) / 4);
      const good = { typ: httpAnswerTyp, key: network.service, members, numbered, room };
      return { status: 200, body: input.make(good) };
    };
    service.down = true;
    service.cut();
    await until("all of them", () => told > answers.length + 2, { deadlineMs: 60_000 });
    expect((await node.status()).report.config.release_sequence).toBe(known);
    const refused = readFileSync(node.agentLog, "utf8").match(/heartbeat by HTTP failed/g) ?? [];
    expect(refused.length).toBeGreaterThanOrEqual(answers.length);
    delete service.bends.answer;
    service.down = false;
    await until("a session", () => service.connected, { deadlineMs: 70_000 });
  });

  it("are all well afterwards: no growth, nothing of it in logs and status", async () => {
    for (const [at, { service, node }] of nodes.entries()) {
      expect(memoryOf(node.agent?.pid ?? 0).now - (before[at] ?? 0)).toBeLessThan(growthMib);
      await until("a session", () => service.connected, { deadlineMs: 60_000 });
      expect(readFileSync(node.agentLog, "utf8")).not.toContain(marker);
      expect(JSON.stringify(await node.status())).not.toContain(marker);
      expect(service.registrations).toHaveLength(1);
    }
  });
});
