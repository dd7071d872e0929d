import { afterEach, describe, expect, it } from "vitest";
import { Client } from "../../src/kube/client.ts";
import { Reflector, type ReflectorOptions } from "../../src/kube/reflector.ts";
import { type ConfigMap, configMaps } from "../../src/kube/resources.ts";
import { Transport } from "../../src/kube/transport.ts";
import { createLogger } from "../../src/lib/logger.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { FakeClock } from "../lib/fake-clock.ts";
import { until } from "../testbed/until.ts";
import { configMap, told } from "./objects.ts";
import { type Exchange, type Watch, startScriptedServer, status } from "./scripted-server.ts";

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

const syncEnd = (version: number) =>
  configMap("", version, { annotations: { "k8s.io/initial-events-end": "true" } });
const soon = <T>(what: string, look: () => T) => until(what, look, { intervalMs: 2 });

/** A reflector on a scripted server. Each watch or list waits in `exchanges` to be answered by the test. */
async function start(options: Partial<ReflectorOptions<ConfigMap>> = {}) {
  const exchanges: Exchange[] = [];
  const server = await startScriptedServer((exchange) => exchanges.push(exchange));
  const transport = new Transport({ connection: server.connection, userAgent: "test" });
  const metrics = new Metrics();
  const stop = new AbortController();
  const reflector = new Reflector<ConfigMap>({
    client: new Client(transport),
    resource: configMaps,
    metrics,
    backoff: { base: 2, cap: 10 },
    random: () => 0.5,
    ...options,
  });
  const log: string[] = [];
  reflector.handle(told(log));
  const running = reflector.run(stop.signal);
  closing.push(
    () => server[Symbol.asyncDispose](),
    () => transport.close(),
    async () => {
      stop.abort();
      await running;
    },
  );
  const next = () => soon("a request", () => exchanges.shift());
  const initial = async (version: number, ...objects: ConfigMap[]): Promise<Watch> => {
    const exchange = await next();
    expect(Object.fromEntries(exchange.query)).toMatchObject({
      watch: "true",
      sendInitialEvents: "true",
      resourceVersionMatch: "NotOlderThan",
      allowWatchBookmarks: "true",
    });
    const watch = exchange.watch();
    for (const object of objects) watch.send("ADDED", object);
    watch.send("BOOKMARK", syncEnd(version));
    await soon("the sync", () => reflector.resourceVersion === String(version));
    return watch;
  };
  return { reflector, log, next, initial, exchanges, server, stop, running, metrics };
}

/** Waits until an attempt failed with this code. */
function failed(metrics: Metrics, code: string): Promise<unknown> {
  return soon(code, async () => (await metrics.text()).includes(`name="configmaps",code="${code}"`));
}

describe("Reflector", () => {
  it("streams the first state and is synced only when the server says that it is whole", async () => {
    const t = await start({ namespace: "ns", labelSelector: "a=b", fieldSelector: "metadata.name=x" });
    const exchange = await t.next();
    expect(exchange.path).toBe("/api/v1/namespaces/ns/configmaps");
    expect(exchange.query.get("labelSelector")).toBe("a=b");
    expect(exchange.query.get("fieldSelector")).toBe("metadata.name=x");
    const watch = exchange.watch();
    watch.send("ADDED", configMap("a", 1));
    watch.send("BOOKMARK", configMap("", 5));
    watch.send("ADDED", configMap("b", 2));
    await new Promise((resolve) => setImmediate(resolve));
    expect([t.reflector.hasSynced, t.log]).toEqual([false, []]);
    watch.send("BOOKMARK", syncEnd(9));
    await t.reflector.synced();
    expect(t.log).toEqual(["add a/uid-a@1", "add b/uid-b@2"]);
    watch.send("MODIFIED", configMap("a", 10));
    watch.send("DELETED", configMap("b", 11));
    await soon("the events", () => t.log.length === 4);
    expect(t.log.slice(2)).toEqual(["update a/uid-a@10", "delete b/uid-b@11"]);
  });

  it("goes on from the last bookmark when the server ends a watch, without reading anything again", async () => {
    const t = await start();
    const watch = await t.initial(5, configMap("a", 1));
    watch.send("BOOKMARK", configMap("", 42));
    watch.end();
    const again = await t.next();
    expect(Object.fromEntries(again.query)).toMatchObject({ watch: "true", resourceVersion: "42" });
    expect(again.query.has("sendInitialEvents")).toBe(false);
    again.watch().send("ADDED", configMap("b", 43));
    await soon("the event", () => t.log.length === 2);
    expect(t.log).toEqual(["add a/uid-a@1", "add b/uid-b@43"]);
  });

  it("lists in pages where the server refuses WatchList, and never asks for it again", async () => {
    const t = await start();
    (await t.next()).json(400, status(400, "BadRequest", "sendInitialEvents is forbidden"));
    const first = await t.next();
    expect(Object.fromEntries(first.query)).toEqual({ limit: "500" });
    const a = { metadata: configMap("a", 1).metadata };
    first.json(200, { items: [a], metadata: { resourceVersion: "7", continue: "more" } });
    const second = await t.next();
    expect(second.query.get("continue")).toBe("more");
    second.json(200, { items: null, metadata: { resourceVersion: "7" } });
    const watch = await t.next();
    expect(watch.query.get("resourceVersion")).toBe("7");
    expect(t.log).toEqual(["add a/uid-a@1"]);
    expect(t.reflector.store.get("ns/a")).toMatchObject({ apiVersion: "v1", kind: "ConfigMap" });
    watch.json(410, status(410, "Expired", "too old"));
    expect((await t.next()).query.get("limit")).toBe("500");
  });

  for (const how of ["as an event", "as an answer"] as const) {
    it(`F05 reads everything again after 410 Gone ${how}, and tells the difference and nothing else`, async () => {
      const t = await start();
      const watch = await t.initial(5, configMap("gone", 1), configMap("same", 2), configMap("old", 3));
      if (how === "as an event") watch.send("ERROR", status(410, "Expired", "too old resource version"));
      else {
        watch.end();
        (await t.next()).json(410, status(410, "Expired", "too old resource version"));
      }
      await t.initial(50, configMap("same", 2), configMap("old", 40), configMap("new", 41));
      expect(t.log.slice(3).toSorted()).toEqual([
        "add new/uid-new@41",
        "delete gone/uid-gone@1",
        "update old/uid-old@40",
      ]);
    });
  }

  it("F09 takes an object that was deleted and recreated during a relist for another one", async () => {
    const t = await start();
    const watch = await t.initial(5, configMap("a", 1));
    watch.send("ERROR", status(410, "Expired", "too old"));
    await t.initial(50, configMap("a", 40, { uid: "second" }));
    expect(t.log).toEqual(["add a/uid-a@1", "delete a/uid-a@1", "add a/second@40"]);
  });

  it("F06 backs off after 500, 403, 429 and a cut stream, keeps its cache, says so, and recovers", async () => {
    const t = await start();
    const watch = await t.initial(5, configMap("a", 1));
    watch.raw('{"type":"ADDED","object":{"metad');
    watch.cut();
    for (const [code, reason] of [
      [500, "InternalError"],
      [403, "Forbidden"],
      [429, "TooManyRequests"],
    ] as const) {
      const exchange = await t.next();
      expect(exchange.query.get("resourceVersion")).toBe("5");
      exchange.json(code, status(code, reason, "no"));
    }
    (await t.next()).watch().send("MODIFIED", configMap("a", 6));
    await soon("the event", () => t.log.length === 2);
    expect(t.log).toEqual(["add a/uid-a@1", "update a/uid-a@6"]);
    const text = await t.metrics.text();
    expect(text).toContain('reflector_errors_total{name="configmaps",code="Forbidden"} 1');
    expect(text).toContain('reflector_errors_total{name="configmaps",code="TooManyRequests"} 1');
    expect(text).toMatch(/reflector_errors_total\{name="configmaps",code="Unavailable"\} 2/);
  });

  it("F06 waits as long as Retry-After says before it watches again", async () => {
    const clock = new FakeClock();
    const t = await start({ clock });
    const first = await t.next();
    first.json(429, status(429, "TooManyRequests", "later"), { "retry-after": "5" });
    await failed(t.metrics, "TooManyRequests");
    await soon("the wait", () => clock.pending === 1);
    clock.advance(4999);
    expect(clock.pending).toBe(1);
    clock.advance(1);
    await t.initial(5);
    expect(t.server.requests).toHaveLength(2);
  });

  it("F15 tells no deletion while the server is away, however long", async () => {
    const t = await start();
    await t.initial(5, configMap("a", 1));
    for (const session of t.server.sessions) session.destroy();
    t.server.answer = (exchange) => exchange.stream.close(2);
    await soon("many failures", () => t.server.requests.length > 20);
    expect(t.log).toEqual(["add a/uid-a@1"]);
    expect(t.reflector.store.size).toBe(1);
  });

  it("F07 counts and logs a handler that throws, and tells the others", async () => {
    const logger = createLogger("test", "silent");
    const lines: unknown[] = [];
    logger.error = (line: unknown) => void lines.push(line);
    const t = await start({ logger });
    t.reflector.handle({
      added: () => {
        throw new Error("handler broke");
      },
    });
    const after: string[] = [];
    t.reflector.handle(told(after));
    await t.initial(5, configMap("a", 1), configMap("b", 2));
    expect(after).toEqual(["add a/uid-a@1", "add b/uid-b@2"]);
    expect(await t.metrics.text()).toContain('reflector_handler_errors_total{name="configmaps"} 2');
    expect(lines[0]).toMatchObject({ object: "ns/a", change: "add", error: "handler broke" });
  });

  it("reads everything again when even bookmarks stay away", async () => {
    const clock = new FakeClock();
    const t = await start({ clock });
    const watch = await t.initial(5);
    clock.advance(149_999);
    watch.send("BOOKMARK", configMap("", 6));
    await soon("the bookmark", () => t.reflector.resourceVersion === "6");
    clock.advance(149_999);
    expect(t.server.requests).toHaveLength(1);
    clock.advance(1);
    await failed(t.metrics, "Timeout");
    clock.advance(10);
    await t.initial(7, configMap("a", 1));
    expect(t.log).toEqual(["add a/uid-a@1"]);
  });

  it("reads everything again when the server's state is older than what it saw", async () => {
    const t = await start();
    const watch = await t.initial(500, configMap("a", 1));
    watch.end();
    (await t.next()).json(504, {
      ...status(504, "Timeout", "Too large resource version: 500, current: 400"),
      details: { causes: [{ reason: "ResourceVersionTooLarge", message: "Too large resource version" }] },
    });
    await t.initial(400, configMap("b", 2));
    expect(t.log).toEqual(["add a/uid-a@1", "delete a/uid-a@1", "add b/uid-b@2"]);
  });

  it("drops managed fields on the way in, and what else it is told to", async () => {
    const t = await start();
    const noisy = configMap("a", 1, {
      annotations: { "kubectl.kubernetes.io/last-applied-configuration": "{}", keep: "x" },
    });
    const managed = { ...noisy.metadata, managedFields: [{}] };
    await t.initial(5, { ...noisy, metadata: managed });
    const { metadata } = t.reflector.store.get("ns/a") ?? configMap("none", 0);
    expect(metadata.annotations).toEqual({ keep: "x" });
    expect("managedFields" in metadata).toBe(false);

    const trimmed = await start({ trim: ({ data: _, ...object }) => object });
    await trimmed.initial(5, configMap("a", 1, { data: { large: "x" } }));
    expect(trimmed.reflector.store.get("ns/a")?.data).toBeUndefined();
  });

  it("tells a new handler what is there already, and one that was taken off nothing more", async () => {
    const t = await start();
    const watch = await t.initial(5, configMap("a", 1));
    const late: string[] = [];
    const off = t.reflector.handle(told(late));
    expect(late).toEqual(["add a/uid-a@1"]);
    off();
    watch.send("MODIFIED", configMap("a", 6));
    await soon("the event", () => t.log.length === 2);
    expect(late).toHaveLength(1);
  });

  it("reads characters and events that are torn between packets", async () => {
    const t = await start();
    const watch = await t.initial(5);
    const bytes = Buffer.from(
      `${JSON.stringify({ type: "ADDED", object: configMap("a", 6, { data: { k: "żółć 🦆" } }) })}\n`,
    );
    for (const byte of bytes) {
      watch.raw(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await soon("the event", () => t.log.length === 1);
    expect(t.reflector.store.get("ns/a")?.data).toEqual({ k: "żółć 🦆" });
  });

  it("stops at once when told to in the moment in which a list ends", async () => {
    const t = await start();
    t.reflector.handle({ added: () => t.stop.abort() });
    (await t.next()).json(400, status(400, "BadRequest", "no WatchList"));
    (await t.next()).json(200, {
      metadata: { resourceVersion: "7" },
      items: [configMap("a", 1)],
    });
    await t.running;
    expect(t.reflector.store.size).toBe(1);
  });

  it("stops at once when told to, also in the middle of a wait", async () => {
    const clock = new FakeClock();
    const t = await start({ clock });
    (await t.next()).json(500, status(500, "InternalError", "no"));
    await failed(t.metrics, "Unavailable");
    t.stop.abort();
    await t.running;
    expect(clock.pending).toBe(0);
  });
});
