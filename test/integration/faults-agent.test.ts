import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as wait } from "node:timers/promises";
import { WebSocketServer } from "ws";
import { afterAll, describe, expect, it } from "vitest";
import { agentMemoryMib } from "../../src/operator/node/pod.ts";
import { type Release, signRelease } from "../../src/protocol/config/release.ts";
import { paths } from "../../src/protocol/http.ts";
import { type Config, TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { ScriptedService, sha256 } from "../agent/fixture/service.ts";
import { memoryOf, resetPeak } from "../faults/memory.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/**
 * Faults around a real agent with its launcher and engine, under a service that a test plays. Most of the time here is the
 * agent's own patience, so the tests run side by side.
 */
const processes = supervise();
const toClose: (() => unknown)[] = [];
afterAll(async () => {
  for (const close of toClose) await close();
  await processes.close();
});

interface Site {
  readonly network: TestNetwork;
  readonly service: ScriptedService;
  readonly node: NodeProcesses;
  readonly config: Config;
}

/** A node that serves, with a network and a service of its own. */
async function site(
  options: {
    readonly tokenDelayMs?: number;
    readonly maxOutputBytes?: number;
    /** Where the agent dials; the service's own address by default. */
    readonly dials?: (service: ScriptedService) => readonly string[];
  } = {},
): Promise<Site> {
  const network = new TestNetwork();
  const service = await ScriptedService.start(network);
  toClose.push(() => service.stop());
  service.bends.heartbeatMs = 2_000;
  const node = await NodeProcesses.make(processes, network);
  const { tokenDelayMs = 5, maxOutputBytes = 1024 * 1024 } = options;
  const config = network.config({
    command: engineCommand({ log: node.engineLog, tokenDelayMs }),
    limits: { max_jobs: 8, max_output_bytes: maxOutputBytes },
  });
  node.mount(network.release(1, config, Date.now()), config);
  node.desire({ target: config.digest });
  const [first = service.url, ...more] = options.dials?.(service) ?? [];
  node.startAgent(
    first,
    more.flatMap((url) => ["--endpoint", url]),
  );
  await node.startLauncher();
  return { network, service, node, config };
}

const answers = async (node: NodeProcesses, status: number) => (await node.ask("/ready")).status === status;

describe.concurrent("an engine", () => {
  it("F21 that hangs: its jobs are handed back at their deadline, the node is not ready, and after a minute another engine serves", async () => {
    const { service, node } = await site();
    await service.ready();
    await node.switchEngine({ mode: "mute" });
    const jobs = [
      service.offer({ deadline_ms: 4_000 }),
      service.offer({ deadline_ms: 4_000, stream: false }),
    ];
    for (const id of jobs) {
      const nack = await until("the nack", () => service.seen(id).nacks[0]);
      expect(nack).toMatchObject({ code: "E_ENGINE" });
      expect(service.seen(id)).toMatchObject({ accepts: 1, results: [] });
    }
    await until("a node that is not ready", () => answers(node, 503));
    await until("the service to hear of it", () => service.report?.load.accepting === false);
    expect(service.report?.engine.health).toBe("unhealthy");
    await service.ready(90_000);
    expect(node.engineEvents().filter(({ event }) => event === "start")).toHaveLength(2);
    const again = service.offer();
    await until("a result", () => service.seen(again).results[0]?.outcome === "completed");
  });

  it("F21 that answers slowly: the job is accepted, its lease renewed, and it completes", async () => {
    const { service, node } = await site();
    await service.ready();
    await node.switchEngine({ tokenDelayMs: 300 });
    const [plain, stream] = [service.offer({ stream: false }), service.offer()];
    await until("both results", () => [plain, stream].every((id) => service.seen(id).results.length > 0));
    for (const id of [plain, stream]) {
      expect(service.seen(id).results[0]).toMatchObject({ outcome: "completed" });
      const renewed = service.frames.filter(
        (frame) => frame.kind === "heartbeat" && frame.payload.leases.some(({ job }) => job === id),
      );
      expect(renewed.length).toBeGreaterThan(1);
    }
    expect(service.seen(plain)).toMatchObject({ accepts: 1 });
    expect(service.report?.engine.health).toBe("healthy");
  });

  const largest = 32 * 1024 * 1024;
  it("F22 that answers 1 GB, six times at once: each job fails with a code, the agent's memory is bounded, the node lives", async () => {
    const { service, node } = await site({ maxOutputBytes: largest });
    await service.ready();
    const pid = node.agent?.pid ?? 0;
    resetPeak(pid);
    await node.switchEngine({ mode: "huge", times: 6 });
    const plain = Array.from({ length: 4 }, () => service.offer({ stream: false }));
    const streams = [service.offer(), service.offer()];
    const jobs = [...plain, ...streams];
    await until("their ends", () =>
      jobs.every((id) => service.seen(id).nacks[0] ?? service.seen(id).results[0]),
    );
    for (const id of plain) expect(["E_ENGINE", "E_BUSY"]).toContain(service.seen(id).nacks[0]?.code);
    for (const id of streams) {
      const { output, bytes, results, nacks } = service.seen(id);
      expect(bytes).toBeLessThanOrEqual(largest);
      // What was relayed cannot be taken back: the job failed over it.
      if (bytes > 0) expect(results[0]).toMatchObject({ outcome: "failed", output_sha256: sha256(output) });
      else expect(nacks[0]).toMatchObject({ code: "E_BUSY" });
    }
    await service.ready();
    const again = service.offer();
    await until("a result", () => service.seen(again).results[0]?.outcome === "completed");
    // In its container, with room to spare.
    expect(memoryOf(pid).peak).toBeLessThan(0.85 * agentMemoryMib);
  });

  it("F22 that answers its health checks without end: bounded too, and well again when it stops", async () => {
    const { service, node } = await site();
    await service.ready();
    const pid = node.agent?.pid ?? 0;
    const before = memoryOf(pid).now;
    resetPeak(pid);
    await node.switchEngine({ polls: "endless" });
    await until("a node that is not ready", () => answers(node, 503));
    await node.switchEngine({ polls: "ok" });
    await until("a ready node", () => answers(node, 200));
    expect(memoryOf(pid).peak - before).toBeLessThan(64);
  });
});

/** Notes when each session is dialled, and refuses all while `away`; says nothing to HTTP either. */
async function gate(to: () => string) {
  const dials: number[] = [];
  const open = new Set<Socket>();
  const state = { away: false };
  const server = createServer((from) => {
    open.add(from);
    from.on("error", () => {});
    from.on("close", () => open.delete(from));
    from.once("data", (head) => {
      if (head.toString("latin1").startsWith(`GET ${paths.session}`)) dials.push(performance.now());
      if (state.away) return void from.destroy();
      const onward = connect(Number(new URL(to()).port), "127.0.0.1");
      onward.on("error", () => {});
      onward.on("close", () => from.destroy());
      from.on("close", () => onward.destroy());
      onward.write(head);
      from.pipe(onward).pipe(from);
    });
  });
  const port = await listening(server);
  return {
    url: `http://127.0.0.1:${port}`,
    dials,
    leave() {
      state.away = true;
      for (const socket of open) socket.destroy();
    },
    comeBack: () => (state.away = false),
  };
}

async function listening(server: Server): Promise<number> {
  const open = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    open.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => open.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  toClose.push(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

describe.concurrent("the network's side", () => {
  const awayMs = 20_000;
  it("F25 away for an hour [time ×1/180]: agents come back by a back-off with jitter, keep their config, and deliver what they finished", async () => {
    const gates = new Map<ScriptedService, Awaited<ReturnType<typeof gate>>>();
    const sites = await Promise.all(
      Array.from({ length: 3 }, async () => {
        let real: ScriptedService | undefined;
        const own = await gate(() => real?.url ?? "");
        const made = await site({
          tokenDelayMs: 60,
          dials: (service) => {
            real = service;
            service.bends.alsoDialled = own.url;
            return [own.url];
          },
        });
        gates.set(made.service, own);
        return { ...made, gate: own };
      }),
    );
    for (const { service } of sites) await service.ready();
    const [holder] = sites;
    if (!holder) throw new Error("no site");
    const job = holder.service.offer();
    await until("output", () => holder.service.seen(job).output !== "");

    const leftAt = performance.now();
    for (const each of sites) each.gate.leave();
    await until("the job's end at the engine", () =>
      holder.node.engineEvents().some(({ id, outcome }) => id === job && outcome === "completed"),
    );
    await wait(awayMs - (performance.now() - leftAt));
    for (const { node, config } of sites) {
      expect((await node.ask("/ready")).status).toBe(200);
      const { report, session, config_error: problem } = await node.status();
      expect(report.config.applied).toBe(config.digest);
      expect(problem).toBeNull();
      expect(session.connected).toBe(false);
    }
    const backAt = performance.now();
    for (const each of sites) each.gate.comeBack();

    // Who holds a result is back within 8 s, the others within 64 s.
    await until("the result", () => holder.service.seen(job).results[0], { deadlineMs: 30_000 });
    expect(holder.service.seen(job).results[0]).toMatchObject({
      outcome: "completed",
      output_sha256: sha256(holder.service.seen(job).output),
    });
    for (const { service } of sites) await service.ready(70_000);

    const waits = sites.map(({ gate: { dials }, service }) => {
      const tried = dials.filter((at) => at > leftAt);
      const cap = service === holder.service ? 8_000 : 64_000;
      const gaps = tried.map((at, index) => at - (tried[index - 1] ?? leftAt));
      // 4 s for a machine that is busy.
      for (const [index, gap] of gaps.entries())
        expect(gap).toBeLessThan(Math.min(cap, 1_000 * 2 ** index) + 4_000);
      const during = tried.filter((at) => at < backAt).length;
      expect(during).toBeGreaterThan(0);
      expect(during).toBeLessThan(20);
      return gaps.slice(0, 3).map((gap) => Math.round(gap / 20));
    });
    // Not in step: three agents that lost the service in one moment did not dial in one.
    expect(new Set(waits.map((gaps) => gaps.join(" "))).size).toBe(3);
    for (const { node } of sites)
      expect(node.engineEvents().filter(({ event }) => event === "start")).toHaveLength(1);
  });

  it("B20 B21 endpoints that never speak, never end TLS, answer with 64 KiB or 1,000 headers, or never challenge: the agent gets to the one that works", async () => {
    const mute = await listening(createServer(() => {}));
    const headers = (lines: readonly string[]) =>
      listening(
        createHttpServer().on("upgrade", (_request, socket) => {
          socket.on("error", () => {});
          socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join("\r\n")}\r\n\r\n`);
        }),
      );
    const long = await headers([`x-long: ${"y".repeat(64 * 1024)}`]);
    const many = await headers(Array.from({ length: 1_000 }, (_, at) => `x-header-${at}: 0123456789012345`));
    const silent = createHttpServer();
    const sockets = new WebSocketServer({ server: silent, handleProtocols: ([first]) => first ?? false });
    toClose.push(() => sockets.close());
    const ports = { long, many, mute, silent: await listening(silent) };
    const { service, node } = await site({
      dials: ({ url }) => [
        `http://127.0.0.1:${ports.long}`,
        `http://127.0.0.1:${ports.many}`,
        `http://127.0.0.1:${ports.mute}`,
        `https://127.0.0.1:${ports.mute}`,
        `http://127.0.0.1:${ports.silent}`,
        url,
      ],
    });
    const pid = node.agent?.pid ?? 0;
    const seen = new Set<string>();
    await until(
      "a session",
      async () => {
        seen.add((await node.status()).session.last_error ?? "");
        return service.connected;
      },
      { deadlineMs: 110_000, intervalMs: 100 },
    );
    const said = [...seen].join("\n");
    expect(said).toContain("Header overflow");
    expect(said).toContain("Opening handshake has timed out");
    expect(said).toContain(`wss://127.0.0.1:${ports.mute}/v1/session: no session within 15000 ms`);
    expect(said).toContain(`ws://127.0.0.1:${ports.silent}/v1/session: no session within 15000 ms`);
    expect(memoryOf(pid).now).toBeLessThan(200);
    await service.ready();
  });
});

describe.concurrent("a release", () => {
  const refused: readonly [
    string,
    string,
    (at: {
      network: TestNetwork;
      config: Config;
      other: TestNetwork;
      sequence: number;
    }) => ReturnType<TestNetwork["release"]>,
  ][] = [
    [
      "signed by keys that the root does not name",
      "threshold",
      ({ network, config, other, sequence }) =>
        network.release(sequence, config, Date.now(), { keys: other.configKeys }),
    ],
    [
      "signed by the root's keys, which have another role",
      "threshold",
      ({ network, config, sequence }) =>
        network.release(sequence, config, Date.now(), { keys: network.rootKeys }),
    ],
    [
      "of another network, signed by this one's keys",
      "wrong_network",
      ({ network, config, sequence }) => {
        const { digest } = config;
        const allowed = [{ digest, expires: Date.now() + 60_000 }];
        const release = { network: "elsewhere", sequence, released_at: 0, current: digest, allowed };
        return signRelease(release, network.configKeys);
      },
    ],
    [
      "that allows another digest than the one that it names",
      "schema",
      ({ network, config, sequence }) => {
        const allowed: Release["allowed"] = [{ digest: otherDigest(config), expires: Date.now() + 60_000 }];
        return network.release(sequence, config, Date.now(), { allowed });
      },
    ],
    [
      "with a signature of nothing but zeros",
      "bad_signature",
      ({ network, config, sequence }) => {
        const statement = network.release(sequence, config, Date.now());
        const signatures = statement.signatures.map((each) => ({ ...each, signature: "A".repeat(86) }));
        return { ...statement, signatures };
      },
    ],
  ];

  it(`B24 that does not hold, from mount and service: refused by its code, and the last good one goes on [×${2 * refused.length}]`, async () => {
    const { network, service, node, config } = await site();
    await service.ready();
    const other = new TestNetwork();
    const good = network.release(1, config, Date.now());
    for (const [what, code, make] of refused) {
      node.mount(make({ network, config, other, sequence: 2 }), config);
      await node.sees(what, ({ config_error: error }) => error?.code === code);
      const { report } = await node.status();
      expect(report.config).toMatchObject({ applied: config.digest, release_sequence: 1 });
      node.mount(good, config);
      await node.sees("nothing wrong", ({ config_error: error }) => error === null);
    }
    for (const [at, [what, code, make]] of refused.entries()) {
      // Each time the service names a newer one, which the agent then asks for.
      const sequence = at + 2;
      service.publish(sequence, make({ network, config, other, sequence }), config);
      await node.sees(what, ({ config_error: error }) => error?.code === code);
      expect((await node.status()).report.config.applied).toBe(config.digest);
    }
    const last = refused.length + 2;
    service.publish(last, network.release(last, config, Date.now()), config);
    await node.sees("nothing wrong", ({ config_error: error }) => error === null);
    const job = service.offer();
    await until("a result", () => service.seen(job).results[0]?.outcome === "completed");
  });

  it("B24 that does not allow the digest that the node is told to run: it keeps what it has", async () => {
    const { network, service, node, config } = await site();
    await service.ready();
    const next = network.config({ ...config.snapshot, version: "2" });
    service.publish(1, network.release(1, config, Date.now()), config, next);
    node.mount(network.release(1, config, Date.now()), config, next);
    node.desire({ revision: 2, target: next.digest });
    await node.sees("the refusal", ({ config_error: error }) => error?.code === "not_allowed");
    expect((await node.status()).report.config.applied).toBe(config.digest);
    expect(service.report?.load.accepting).toBe(true);
  });
});

const otherDigest = ({ digest }: Config): Config["digest"] =>
  (digest.endsWith("0") ? digest.replace(/0$/, "1") : digest.replace(/.$/, "0")) as Config["digest"];
