import { afterEach, describe, expect, it } from "vitest";
import { Client } from "../../src/kube/client.ts";
import { informerOf } from "../../src/kube/informer.ts";
import { keyOf } from "../../src/kube/object.ts";
import { type ConfigMap, configMaps } from "../../src/kube/resources.ts";
import { Transport } from "../../src/kube/transport.ts";
import { until } from "../testbed/until.ts";
import { configMap, told } from "./objects.ts";
import { type Watch, startScriptedServer } from "./scripted-server.ts";

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

const soon = <T>(what: string, look: () => T) => until(what, look, { intervalMs: 2 });
const inNamespace = (namespace: string, name: string, version: number, colour = "none"): ConfigMap =>
  configMap(name, version, { namespace, uid: `${namespace}-${name}`, data: { colour } });

/** An informer on a scripted server; `watches` by the path that was asked for. */
async function start(...namespaces: string[]) {
  const watches = new Map<string, Watch>();
  const server = await startScriptedServer((exchange) => void watches.set(exchange.path, exchange.watch()));
  const transport = new Transport({ connection: server.connection, userAgent: "test" });
  const informer = informerOf({ client: new Client(transport), resource: configMaps }, namespaces);
  informer.store.addIndex("colour", ({ data }) => [data?.["colour"] ?? "none"]);
  const log: string[] = [];
  informer.handle(told(log));
  const stop = new AbortController();
  const running = informer.run(stop.signal);
  closing.push(
    () => server[Symbol.asyncDispose](),
    () => transport.close(),
    async () => {
      stop.abort();
      await running;
    },
  );
  await soon("the watches", () => watches.size === Math.max(1, namespaces.length));
  const watchOf = (namespace?: string) => {
    const watch = watches.get(`/api/v1${namespace ? `/namespaces/${namespace}` : ""}/configmaps`);
    if (!watch) throw new Error(`nobody watches ${namespace ?? "all namespaces"}`);
    return watch;
  };
  const synced = (namespace: string, version: number) =>
    watchOf(namespace).send(
      "BOOKMARK",
      configMap("", version, { annotations: { "k8s.io/initial-events-end": "true" } }),
    );
  return { informer, watches, watchOf, synced, log };
}

const names = (objects: Iterable<ConfigMap>) => [...objects].map(keyOf).toSorted();

describe("informerOf", () => {
  it("watches all namespaces with one request, or one namespace", async () => {
    expect([...(await start()).watches.keys()]).toEqual(["/api/v1/configmaps"]);
    expect([...(await start("a")).watches.keys()]).toEqual(["/api/v1/namespaces/a/configmaps"]);
  });

  it("reads several namespaces as one cache, synced when each of them is", async () => {
    const { informer, watches, watchOf, synced, log } = await start("a", "b");
    expect([...watches.keys()].toSorted()).toEqual([
      "/api/v1/namespaces/a/configmaps",
      "/api/v1/namespaces/b/configmaps",
    ]);
    watchOf("a").send("ADDED", inNamespace("a", "x", 1, "red"));
    synced("a", 5);
    await soon("namespace a", () => log.length === 1);
    expect([informer.hasSynced, informer.resourceVersion]).toEqual([false, undefined]);
    watchOf("b").send("ADDED", inNamespace("b", "x", 2, "red"));
    watchOf("b").send("ADDED", inNamespace("b", "y", 3, "blue"));
    synced("b", 9);
    await informer.synced();
    expect(informer.hasSynced).toBe(true);
    const { store } = informer;
    expect(store.size).toBe(3);
    expect(names(store.values())).toEqual(["a/x", "b/x", "b/y"]);
    expect(names(store.byIndex("colour", "red"))).toEqual(["a/x", "b/x"]);
    expect(store.get("b/x")?.metadata.namespace).toBe("b");
    expect(store.get("c/x")).toBeUndefined();
    expect(store.getByUid("b-y")?.metadata.name).toBe("y");
    watchOf("a").send("DELETED", inNamespace("a", "x", 10));
    await soon("the deletion", () => store.size === 2);
    expect(log).toEqual(["add x/a-x@1", "add x/b-x@2", "add y/b-y@3", "delete x/a-x@10"]);
  });

  it("has come as far as the namespace that is furthest behind, so that expectations never end early", async () => {
    const { informer, watchOf, synced } = await start("a", "b");
    synced("a", 9);
    synced("b", 10);
    await informer.synced();
    expect(informer.resourceVersion).toBe("9");
    watchOf("a").send("BOOKMARK", configMap("", 12));
    await soon("the bookmark", () => informer.resourceVersion === "10");
  });

  it("tells a new handler what is there, and one that was taken off nothing more", async () => {
    const { informer, watchOf, synced } = await start("a", "b");
    watchOf("a").send("ADDED", inNamespace("a", "x", 1));
    for (const namespace of ["a", "b"]) synced(namespace, 5);
    await informer.synced();
    const late: string[] = [];
    const end = informer.handle(told(late));
    expect(late).toEqual(["add x/a-x@1"]);
    end();
    watchOf("b").send("ADDED", inNamespace("b", "y", 6));
    await soon("the event", () => informer.store.size === 2);
    expect(late).toHaveLength(1);
  });
});
