import { PassThrough } from "node:stream";
import { pino } from "pino";
import { afterEach, describe, expect, it } from "vitest";
import { Client } from "../../src/kube/client.ts";
import { Controller, type ControllerOptions } from "../../src/kube/controller.ts";
import { KubeError } from "../../src/kube/errors.ts";
import { Expectations } from "../../src/kube/expectations.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { Reflector, type WatchClient } from "../../src/kube/reflector.ts";
import { type ConfigMap, configMaps, customResource } from "../../src/kube/resources.ts";
import { batched, exceptStatus, mapped, own, owned, type Source } from "../../src/kube/sources.ts";
import { noteWrite } from "../../src/kube/trace.ts";
import { Transport } from "../../src/kube/transport.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { FakeClock } from "../lib/fake-clock.ts";
import { until } from "../testbed/until.ts";
import { configMap } from "./objects.ts";
import { startScriptedServer } from "./scripted-server.ts";

const parents = customResource<object, object>("example.com", "v1", "parents", "Parent");

/** A reflector whose watch is fed by hand. */
function feed(clock: FakeClock) {
  const body = new PassThrough();
  const client: WatchClient = {
    // oxlint-disable-next-line require-yield
    pages: async function* () {
      throw new Error("not listed here");
    },
    watch: async () => ({ status: 200, headers: {}, body, cancel: () => body.destroy() }),
  };
  const reflector = new Reflector<ConfigMap>({ client, resource: configMaps, clock });
  const send = (type: string, object: KubeObject) => body.write(`${JSON.stringify({ type, object })}\n`);
  const synced = (version = 100) =>
    send("BOOKMARK", configMap("", version, { annotations: { "k8s.io/initial-events-end": "true" } }));
  return { reflector, send, synced };
}

/** Lets everything that can happen without time going by happen. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}

const stops: AbortController[] = [];
afterEach(() => stops.splice(0).forEach((stop) => stop.abort()));

function start(options: Partial<ControllerOptions> & Pick<ControllerOptions, "reconcile">) {
  const clock = new FakeClock();
  const source = feed(clock);
  const metrics = new Metrics();
  const stop = new AbortController();
  stops.push(stop);
  void source.reflector.run(stop.signal);
  const controller = new Controller({
    name: "test",
    sources: [own(source.reflector)],
    clock,
    random: () => 0,
    metrics,
    ...options,
  });
  return { clock, ...source, metrics, stop, controller, ended: controller.run(stop.signal) };
}

describe("Controller", () => {
  it("waits for its caches, then reconciles each object, with the reason", async () => {
    const seen: [string, readonly string[]][] = [];
    const t = start({ reconcile: async (key, _signal, reasons) => void seen.push([key, reasons]) });
    t.send("ADDED", configMap("a", 1));
    await settle();
    expect(seen).toEqual([]);
    t.synced();
    await settle();
    expect(seen).toEqual([["ns/a", ["configmaps ns/a added"]]]);
    t.send("DELETED", configMap("a", 101));
    await settle();
    expect(seen[1]).toEqual(["ns/a", ["configmaps ns/a deleted"]]);
  });

  it("decides nothing while one of its caches is not whole", async () => {
    const clock = new FakeClock();
    const [whole, half] = [feed(clock), feed(clock)];
    const stop = new AbortController();
    stops.push(stop);
    const seen: string[] = [];
    const controller = new Controller({
      name: "test",
      sources: [own(whole.reflector), own(half.reflector)],
      reconcile: async (key) => void seen.push(key),
    });
    for (const { reflector } of [whole, half]) void reflector.run(stop.signal);
    void controller.run(stop.signal);
    whole.synced();
    whole.send("ADDED", configMap("a", 101));
    await settle();
    expect([whole.reflector.store.size, seen]).toEqual([1, []]);
    half.synced();
    await settle();
    expect(seen).toEqual(["ns/a"]);
  });

  it("tries a key that failed again, later each time, while the others go on", async () => {
    const seen: string[] = [];
    const t = start({
      reconcile: async (key) => {
        seen.push(key);
        if (key === "ns/bad") throw new Error("cannot");
      },
    });
    t.synced();
    t.send("ADDED", configMap("bad", 101));
    t.send("ADDED", configMap("good", 102));
    await settle();
    expect(seen.toSorted()).toEqual(["ns/bad", "ns/good"]);
    for (let i = 0; i < 4; i++) {
      t.clock.advance(5 * 2 ** i);
      await settle();
    }
    expect(seen.filter((key) => key === "ns/bad").length).toBeGreaterThanOrEqual(4);
    expect(seen.filter((key) => key === "ns/good")).toHaveLength(1);
    expect(await t.metrics.text()).toMatch(
      /controller_runtime_reconcile_errors_total\{controller="test"\} [45]/,
    );
  });

  it("waits as long as the API server asked for", async () => {
    let calls = 0;
    const t = start({
      reconcile: async () => {
        calls++;
        throw new KubeError("TooManyRequests", "slow down", { retryAfter: 7000 });
      },
    });
    t.synced();
    t.send("ADDED", configMap("a", 101));
    await settle();
    t.clock.advance(6999);
    await settle();
    expect(calls).toBe(1);
    t.clock.advance(1);
    await settle();
    expect(calls).toBe(2);
  });

  it("queues a key again after the time that its reconcile asked for", async () => {
    let calls = 0;
    const t = start({ reconcile: async () => (calls++ === 0 ? { requeueAfter: 500 } : undefined) });
    t.synced();
    t.send("ADDED", configMap("a", 101));
    await settle();
    t.clock.advance(500);
    await settle();
    t.clock.advance(60_000);
    await settle();
    expect(calls).toBe(2);
    expect(t.controller.idle).toBe(true);
  });

  it("does not come back after a while to what an event has made it look at since", async () => {
    const asked = [500, undefined];
    let calls = 0;
    const t = start({
      reconcile: async () => {
        const requeueAfter = asked[calls++];
        return requeueAfter === undefined ? undefined : { requeueAfter };
      },
    });
    t.synced();
    t.send("ADDED", configMap("a", 101));
    await settle();
    t.controller.enqueueAfter("ns/a", 300, "a look that the event makes needless too");
    t.send("MODIFIED", configMap("a", 102));
    await settle();
    t.clock.advance(60_000);
    await settle();
    expect(calls).toBe(2);
  });

  it("works on as many keys at once as allowed, and never on one twice", async () => {
    const running = new Set<string>();
    let most = 0;
    const release: (() => void)[] = [];
    const t = start({
      concurrency: 2,
      reconcile: async (key) => {
        expect(running.has(key)).toBe(false);
        running.add(key);
        most = Math.max(most, running.size);
        await new Promise<void>((resolve) => release.push(resolve));
        running.delete(key);
      },
    });
    t.synced();
    for (const name of ["a", "b", "c"]) t.send("ADDED", configMap(name, 101));
    await settle();
    t.send("MODIFIED", configMap("a", 105));
    await settle();
    for (let i = 0; i < 6; i++) {
      release.shift()?.();
      await settle();
    }
    expect(most).toBe(2);
    expect(running.size).toBe(0);
  });

  it("lets timers and sockets have their turn every few milliseconds of reconciles that await neither", async () => {
    let looked = 0;
    const t = start({
      concurrency: 4,
      reconcile: async () => {
        looked++;
        t.clock.advance(1);
      },
    });
    for (let i = 0; i < 400; i++) t.send("ADDED", configMap(`c${i}`, 1 + i));
    t.synced();
    const inOneTurn: number[] = [];
    for (let turn = 0; turn < 200; turn++) {
      const before = looked;
      await new Promise((resolve) => setImmediate(resolve));
      inOneTurn.push(looked - before);
    }
    expect(looked).toBe(400);
    expect(Math.max(...inOneTurn)).toBeLessThan(30);
  });

  it("goes on first with keys that wrote or wait for something, then begins with others", async () => {
    const order: string[] = [];
    const gate = Promise.withResolvers<void>();
    const t = start({
      concurrency: 1,
      reconcile: async (key, signal) => {
        order.push(key);
        const first = order.filter((each) => each === key).length === 1;
        if (key === "ns/a" && first) noteWrite(signal, "create pods ns/a");
        if (key === "ns/c" && first) await gate.promise;
        return key === "ns/b" && first ? { requeueAfter: 60_000 } : undefined;
      },
    });
    for (const name of ["a", "b", "c", "d", "e"]) t.send("ADDED", configMap(name, 1));
    t.synced();
    await settle();
    expect(order).toEqual(["ns/a", "ns/b", "ns/c"]);
    for (const key of ["ns/c", "ns/b", "ns/a"]) t.controller.enqueue(key, "news");
    gate.resolve();
    await settle();
    expect(order.slice(3)).toEqual(["ns/b", "ns/a", "ns/d", "ns/e", "ns/c"]);
  });

  it("aborts a reconcile that takes too long, and one that runs when the controller stops", async () => {
    const reasons: unknown[] = [];
    const t = start({
      timeout: 1000,
      reconcile: (_key, signal) =>
        new Promise((_, reject) => {
          signal.addEventListener("abort", () => {
            reasons.push(String(signal.reason));
            reject(signal.reason);
          });
        }),
    });
    t.synced();
    t.send("ADDED", configMap("a", 101));
    await settle();
    t.clock.advance(1000);
    await settle();
    expect(reasons).toEqual(["Error: reconcile took longer than 1 s"]);
    t.clock.advance(100);
    await settle();
    t.stop.abort();
    await t.ended;
    expect(reasons).toHaveLength(2);
  });

  it("F02 holds a key back until the cache shows what was written for it", async () => {
    const children: string[] = [];
    const clock = new FakeClock();
    const expectations = new Expectations(clock);
    const t = start({
      expectations,
      reconcile: async (key) => {
        if (t.reflector.store.get("ns/child")) return;
        children.push(key);
        expectations.wrote(key, t.reflector, configMap("child", 200));
      },
    });
    t.synced();
    t.send("ADDED", configMap("a", 101));
    await settle();
    // Before the child shows up the parent changes again: a naive controller would create a second child here.
    t.send("MODIFIED", configMap("a", 102));
    t.controller.enqueue("ns/a", "impatience");
    await settle();
    expect(children.filter((key) => key === "ns/a")).toHaveLength(1);
    t.send("ADDED", configMap("child", 200));
    await settle();
    t.clock.advance(250);
    await settle();
    expect(t.controller.idle).toBe(true);
    expect(children.filter((key) => key === "ns/a")).toHaveLength(1);
  });

  it("looks less often at a key the longer the cache does not show its write, so that others have their turn", async () => {
    const clock = new FakeClock();
    const looks: number[] = [];
    class Watched extends Expectations {
      override wait(key: string): number {
        const hold = super.wait(key);
        if (hold > 0) looks.push(clock.monotonic());
        return hold;
      }
    }
    const expectations = new Watched(clock);
    let calls = 0;
    const t = start({
      clock,
      expectations,
      reconcile: async (key) => {
        if (key !== "ns/a") return undefined;
        calls++;
        if (calls < 3) expectations.wrote(key, t.reflector, configMap("child", 100 * calls + 100));
        return calls < 3 ? { requeueAfter: 1 } : undefined;
      },
    });
    const pass = async (ms: number) => {
      for (let at = 0; at < ms; at += 10) {
        clock.advance(10);
        await settle();
      }
    };
    t.synced();
    t.send("ADDED", configMap("a", 101));
    await settle();
    await pass(10_000);
    expect(calls).toBe(1);
    const waits = looks.slice(1).map((at, index) => at - (looks[index] ?? 0));
    expect(waits.slice(0, 4)).toEqual([50, 50, 100, 200]);
    expect(new Set(waits.slice(4))).toEqual(new Set([250]));
    // The next write is looked for as often as the first was.
    looks.length = 0;
    t.send("ADDED", configMap("child", 200));
    await pass(400);
    expect(calls).toBe(2);
    expect((looks[1] ?? 0) - (looks[0] ?? 0)).toBe(50);
  });

  it("says of each reconcile why its key was queued, how long it waited, and what was written", async () => {
    const lines: Record<string, unknown>[] = [];
    const logger = pino(
      { level: "debug", base: {}, timestamp: false, formatters: { level: (level) => ({ level }) } },
      { write: (line: string) => void lines.push(JSON.parse(line)) },
    );
    await using server = await startScriptedServer((exchange) => exchange.json(200, configMap("child", 7)));
    const transport = new Transport({ connection: server.connection, userAgent: "test" });
    const client = new Client(transport);
    const ref = { namespace: "ns", name: "child" };
    const t = start({
      logger,
      async reconcile(key, signal) {
        await client.get(configMaps, ref, { signal });
        if (key === "ns/many") {
          for (let n = 0; n < 20; n++) await client.delete(configMaps, ref, { signal });
        }
        if (key !== "ns/writes") return;
        await client.create(configMaps, { metadata: ref }, { signal, dryRun: true });
        await client.create(configMaps, { metadata: ref }, { signal });
        await client.applyStatus(configMaps, { metadata: ref }, { signal, fieldManager: "x" });
        await client.delete(configMaps, ref, { signal });
      },
    });
    t.send("ADDED", configMap("writes", 1));
    t.send("ADDED", configMap("reads", 2));
    t.send("ADDED", configMap("many", 3));
    t.synced();
    await until("the reconciles", () => lines.length === 3, { intervalMs: 2 });
    transport.close();
    const many = lines.splice(
      lines.findIndex((line) => line["key"] === "ns/many"),
      1,
    );
    expect(many).toMatchObject([{ writes: { length: 16 }, count: 20 }]);
    const line = { controller: "test", waitedMs: 0, tookMs: 0 };
    expect(lines.toSorted((a, b) => String(a["key"]).localeCompare(String(b["key"])))).toEqual([
      {
        ...line,
        level: "debug",
        key: "ns/reads",
        reasons: ["configmaps ns/reads added"],
        msg: "reconciled, nothing written",
      },
      {
        ...line,
        level: "info",
        key: "ns/writes",
        reasons: ["configmaps ns/writes added"],
        writes: [
          "create configmaps ns/child",
          "patch configmaps/status ns/child",
          "delete configmaps ns/child",
        ],
        msg: "reconciled",
      },
    ]);
  });

  it("has the metrics that users of controller-runtime know, under their names and labels", async () => {
    const t = start({
      reconcile: async (key) => {
        if (key === "ns/bad") throw new Error("no");
        return key === "ns/again" ? { requeueAfter: 1000 } : undefined;
      },
    });
    for (const name of ["good", "again", "bad"]) t.send("ADDED", configMap(name, 1));
    t.synced();
    await settle();
    const text = await t.metrics.text();
    const queue = 'name="test",controller="test"';
    for (const series of [
      `workqueue_depth{${queue}} 0`,
      `workqueue_adds_total{${queue}} 3`,
      `workqueue_retries_total{${queue}} 1`,
      `workqueue_queue_duration_seconds_count{${queue}} 3`,
      `workqueue_work_duration_seconds_count{${queue}} 3`,
      `workqueue_unfinished_work_seconds{${queue}} 0`,
      `workqueue_longest_running_processor_seconds{${queue}} 0`,
      'controller_runtime_reconcile_total{controller="test",result="success"} 1',
      'controller_runtime_reconcile_total{controller="test",result="requeue_after"} 1',
      'controller_runtime_reconcile_total{controller="test",result="error"} 1',
      'controller_runtime_reconcile_errors_total{controller="test"} 1',
      'controller_runtime_reconcile_time_seconds_count{controller="test"} 3',
      'controller_runtime_active_workers{controller="test"} 0',
      'controller_runtime_max_concurrent_reconciles{controller="test"} 4',
    ])
      expect(text.split("\n")).toContain(series);
  });

  it("begins with every object again when it is run again", async () => {
    const seen: string[] = [];
    const t = start({ reconcile: async (key) => void seen.push(key) });
    t.synced();
    t.send("ADDED", configMap("a", 101));
    await settle();
    const second = new AbortController();
    stops.push(second);
    const again = new Controller({
      name: "again",
      sources: [own(t.reflector)],
      reconcile: async (key) => void seen.push(`again ${key}`),
    });
    void again.run(second.signal);
    await settle();
    expect(seen).toEqual(["ns/a", "again ns/a"]);
  });
});

describe("sources", () => {
  const parent = { apiVersion: "example.com/v1", kind: "Parent", name: "p", uid: "u", controller: true };

  it("map children to the owner of the right kind and group, and what is moved to both its keys", async () => {
    const clock = new FakeClock();
    const { reflector, send, synced } = feed(clock);
    const stop = new AbortController();
    stops.push(stop);
    void reflector.run(stop.signal);
    const keys: string[] = [];
    owned(reflector, parents).attach((key) => keys.push(key));
    mapped(reflector, (object) => [object.data?.["for"] ?? "none"]).attach((key) => keys.push(`data ${key}`));
    synced();
    send("ADDED", configMap("mine", 101, { ownerReferences: [parent], data: { for: "x" } }));
    send("ADDED", configMap("other", 102, { ownerReferences: [{ ...parent, apiVersion: "else.com/v1" }] }));
    send("ADDED", configMap("loose", 103, { ownerReferences: [{ ...parent, controller: false }] }));
    send("MODIFIED", configMap("mine", 104, { data: { for: "y" } }));
    await settle();
    expect(keys).toEqual(["ns/p", "data x", "data none", "data none", "ns/p", "data y", "data x"]);
  });

  it("let a change of the status alone pass by", () => {
    const old = configMap("a", 1, { generation: 1 });
    const update = (object: ConfigMap) => exceptStatus({ type: "update", object, old });
    expect(update(configMap("a", 2, { generation: 1 }))).toBe(false);
    expect(update(configMap("a", 2, { generation: 2 }))).toBe(true);
    expect(update(configMap("a", 2, { generation: 1, labels: { x: "y" } }))).toBe(true);
    expect(update(configMap("a", 2, { generation: 1, deletionTimestamp: "now" }))).toBe(true);
    expect(exceptStatus({ type: "add", object: old })).toBe(true);
  });

  it("that are batched tell a key at once, and what follows when its time is over", () => {
    const clock = new FakeClock();
    let add: (key: string, reason: string) => void = () => undefined;
    let attached = false;
    const source: Source = {
      name: "nodes",
      synced: () => Promise.resolve(),
      attach(to) {
        [add, attached] = [to, true];
        return () => void (attached = false);
      },
    };
    const told: string[] = [];
    const detach = batched(source, clock, (key) => (key === "quick" ? 0 : 1000)).attach((key, reason) =>
      told.push(`${key} ${reason}`),
    );
    for (const reason of ["1", "2", "3"]) add("a", reason);
    add("b", "4");
    expect(told).toEqual(["a 1", "b 4"]);
    clock.advance(999);
    expect(told).toHaveLength(2);
    clock.advance(1);
    expect(told).toEqual(["a 1", "b 4", "a 2"]);
    clock.advance(1000);
    expect(told).toHaveLength(3);
    add("a", "5");
    expect(told.at(-1)).toBe("a 5");
    for (const reason of ["6", "7"]) add("quick", reason);
    expect(told.slice(-2)).toEqual(["quick 6", "quick 7"]);
    detach();
    expect(attached).toBe(false);
    expect(clock.pending).toBe(0);
  });
});
