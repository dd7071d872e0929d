/**
 * Holds the nodes and pods of a server in memory, as the operator does or as client-node's informers do, and prints the bytes of
 * its heap before and after as a line of JSON. Arguments: `ours` or `client-node`, the server's URL, how many of each there are.
 * Needs `--expose-gc`.
 */
import type { KubernetesListObject, KubernetesObject } from "@kubernetes/client-node";
import { Client } from "../../src/kube/client.ts";
import { runReflectors } from "../../src/kube/reflector.ts";
import { Transport } from "../../src/kube/transport.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { makeCaches } from "../../src/operator/context.ts";
import { until } from "../testbed/until.ts";

const [kind, url = "", number = "0"] = process.argv.slice(2);
const count = Number(number);

/** Bytes of the heap that are in use. */
function heap(): number {
  globalThis.gc?.();
  return process.memoryUsage().heapUsed;
}

/** Starts and answers how many objects are held. */
function ours(): () => number {
  const connection = {
    server: new URL(url),
    namespace: undefined,
    tls: async () => ({}),
    headers: async () => ({}),
  };
  const transport = new Transport({ connection, userAgent: "bench" });
  const caches = makeCaches({
    client: new Client(transport),
    clock: systemClock,
    random: Math.random,
    logger: silentLogger,
    metrics: new Metrics(),
  });
  void runReflectors(Object.values(caches), new AbortController().signal);
  return () => caches.nodes.store.size + caches.pods.store.size;
}

async function clientNode(): Promise<() => number> {
  // Only here, so that the other arm does without.
  const { KubeConfig, makeInformer } = await import("@kubernetes/client-node");
  const config = new KubeConfig();
  config.loadFromOptions({
    clusters: [{ name: "c", server: url, skipTLSVerify: true }],
    users: [{ name: "u" }],
    contexts: [{ name: "x", cluster: "c", user: "u" }],
    currentContext: "x",
  });
  const informers = ["/apis/resultity.com/v1alpha1/resultitynodes", "/api/v1/pods"].map((path) => {
    const list = async () =>
      (await (await fetch(`${url}${path}`)).json()) as KubernetesListObject<KubernetesObject>;
    const informer = makeInformer(config, path, list);
    void informer.start();
    return informer;
  });
  return () => informers.reduce((sum, informer) => sum + informer.list().length, 0);
}

const before = heap();
const held = kind === "ours" ? ours() : await clientNode();
await until("all objects", () => held() === 2 * count, { deadlineMs: 120_000 });
const peakRss = process.resourceUsage().maxRSS / 1024;
// What the first state left behind is collected; twice, since the first pass frees what the second can move.
heap();
console.log(JSON.stringify({ before, after: heap(), peakRss }));
setInterval(() => undefined, 2 ** 30);
