/** The controller runtime against a real API server. */
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { Client, jsonPointer, testUnchanged } from "../../src/kube/client.ts";
import { type ApiConnection, fromKubeconfig } from "../../src/kube/config.ts";
import { Controller } from "../../src/kube/controller.ts";
import { KubeError } from "../../src/kube/errors.ts";
import { EventRecorder } from "../../src/kube/events.ts";
import { LeaderElector } from "../../src/kube/leader.ts";
import { Reflector, type WatchClient } from "../../src/kube/reflector.ts";
import { type ConfigMap, configMaps, events, leases } from "../../src/kube/resources.ts";
import { own } from "../../src/kube/sources.ts";
import { Transport } from "../../src/kube/transport.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { startFreezingProxy } from "../kube/freezing-proxy.ts";
import { buildingMs, type ControlPlane, isWrite, startControlPlane } from "../testbed/control-plane.ts";
import { until } from "../testbed/until.ts";

let bed: ControlPlane;
let connection: ApiConnection;
const closing: (() => unknown)[] = [];

beforeAll(async () => {
  bed = await startControlPlane({ components: [] });
  connection = await fromKubeconfig(bed.adminKubeconfig);
}, buildingMs);
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});
afterAll(() => bed?.stop());

function open(to: ApiConnection = connection): Client {
  const transport = new Transport({ connection: to, userAgent: "resultity-operator/test" });
  closing.push(() => transport.close());
  return new Client(transport);
}

function reflect(client: WatchClient, namespace: string, metrics = new Metrics()) {
  const reflector = new Reflector<ConfigMap>({ client, resource: configMaps, namespace, metrics });
  const stop = new AbortController();
  const log: string[] = [];
  reflector.handle({
    added: ({ metadata }) => log.push(`add ${metadata.name} ${metadata.uid}`),
    updated: ({ metadata }) => log.push(`update ${metadata.name} ${metadata.uid}`),
    deleted: ({ metadata }) => log.push(`delete ${metadata.name} ${metadata.uid}`),
  });
  const running = reflector.run(stop.signal);
  closing.push(async () => {
    stop.abort();
    await running;
  });
  return { reflector, log, metrics, stop };
}

let namespaces = 0;
async function namespace(client: Client): Promise<string> {
  const name = `kube-${++namespaces}`;
  await client.create(
    { group: "", version: "v1", plural: "namespaces", kind: "Namespace", namespaced: false },
    { metadata: { name } },
  );
  return name;
}

const make = (client: Client, ns: string, name: string, value = "1") =>
  client.create(configMaps, { metadata: { namespace: ns, name }, data: { value } });

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "none",
    (error: unknown) => (error instanceof KubeError ? error.code : String(error)),
  );
}

describe("client", () => {
  it("deletes and patches only the very object that it was told of", async () => {
    const client = open();
    const ns = await namespace(client);
    const first = await make(client, ns, "a");
    await client.delete(configMaps, first.metadata);
    const annotated = { namespace: ns, name: "a", annotations: { x: "y" } };
    const second = await client.create(configMaps, { metadata: annotated });
    const { uid, resourceVersion } = first.metadata;
    expect(await codeOf(client.delete(configMaps, second.metadata, { preconditions: { uid } }))).toBe(
      "Conflict",
    );
    expect(
      await codeOf(client.delete(configMaps, second.metadata, { preconditions: { resourceVersion } })),
    ).toBe("Conflict");
    const set = { op: "add", path: jsonPointer("metadata", "annotations", "a/b.c"), value: "2" } as const;
    expect(await codeOf(client.jsonPatch(configMaps, first.metadata, [...testUnchanged(first), set]))).toBe(
      "Invalid",
    );
    const patched = await client.jsonPatch(configMaps, second.metadata, [...testUnchanged(second), set]);
    expect(patched.metadata.annotations).toEqual({ x: "y", "a/b.c": "2" });
    const now = { uid: patched.metadata.uid, resourceVersion: patched.metadata.resourceVersion };
    await client.delete(configMaps, patched.metadata, { preconditions: now });
    expect(await client.find(configMaps, patched.metadata)).toBeUndefined();
  });

  it("says by token who it is, and names verb and resource when that may not do something", async () => {
    const client = open();
    const ns = await namespace(client);
    await bed.kubectlOk(["create", "serviceaccount", "someone", "-n", ns]);
    const nobody = open(await fromKubeconfig(await bed.serviceAccountKubeconfig(ns, "someone")));
    const error = await nobody.list(configMaps, { namespace: ns }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      code: "Forbidden",
      verb: "list",
      resource: "configmaps",
      object: `${ns}/`,
    });
    expect(String(error)).toContain(`system:serviceaccount:${ns}:someone`);
  });

  it("does everything but store on a dry run", async () => {
    const client = open();
    const ns = await namespace(client);
    const draft = { metadata: { namespace: ns, name: "dry" } };
    expect((await client.create(configMaps, draft, { dryRun: true })).metadata.uid).toBeTruthy();
    expect(await client.find(configMaps, draft.metadata)).toBeUndefined();
  });

  it("applies its own fields, leaves those of others, and takes back what it no longer asks for", async () => {
    const client = open();
    const ns = await namespace(client);
    const metadata = { namespace: ns, name: "applied" };
    await client.apply(configMaps, { metadata, data: { mine: "1", old: "1" } }, { fieldManager: "us" });
    await client.apply(configMaps, { metadata, data: { theirs: "1" } }, { fieldManager: "them" });
    const again = await client.apply(configMaps, { metadata, data: { mine: "2" } }, { fieldManager: "us" });
    expect(again.data).toEqual({ mine: "2", theirs: "1" });
    const refused = client.apply(
      configMaps,
      { metadata, data: { theirs: "2" } },
      { fieldManager: "us", force: false },
    );
    expect(await codeOf(refused)).toBe("Conflict");
  });

  it("reads a list in pages of one version", async () => {
    const client = open();
    const ns = await namespace(client);
    await Promise.all(Array.from({ length: 25 }, (_, i) => make(client, ns, `c${i}`)));
    const sizes: number[] = [];
    const versions = new Set<string>();
    for await (const page of client.pages(configMaps, { namespace: ns, limit: 10 })) {
      sizes.push(page.items.length);
      versions.add(page.resourceVersion);
      await make(client, ns, `late-${sizes.length}`);
    }
    expect([sizes, versions.size]).toEqual([[10, 10, 5], 1]);
  });
});

describe("reflector", () => {
  it("streams the first state, follows, and makes no LIST", async () => {
    const client = open();
    const ns = await namespace(client);
    await Promise.all(["a", "b"].map((name) => make(client, ns, name)));
    const mark = await bed.audit.mark();
    const { reflector, log } = reflect(client, ns);
    await reflector.synced();
    expect(reflector.store.size).toBe(2);
    await make(client, ns, "c");
    await client.delete(configMaps, { namespace: ns, name: "a" });
    await until("the events", () => log.length === 4, { intervalMs: 5 });
    expect(log.map((line) => line.split(" ").slice(0, 2).join(" ")).slice(2)).toEqual(["add c", "delete a"]);
    const ours = (await bed.audit.since(mark)).filter(({ userAgent }) =>
      userAgent.startsWith("resultity-operator"),
    );
    expect(ours.filter(({ verb }) => verb === "list")).toEqual([]);
  });

  it("comes to the same state by pages where the server has no WatchList", async () => {
    await using older = await startControlPlane({
      components: [],
      extraArgs: { apiserver: ["--feature-gates=WatchList=false"] },
    });
    const client = open(await fromKubeconfig(older.adminKubeconfig));
    const ns = await namespace(client);
    await Promise.all(Array.from({ length: 12 }, (_, i) => make(client, ns, `c${i}`)));
    const mark = await older.audit.mark();
    const small: WatchClient = {
      pages: (resource, options) => client.pages(resource, { ...options, limit: 5 }),
      watch: (resource, options) => client.watch(resource, options),
    };
    const { reflector, log } = reflect(small, ns);
    await reflector.synced();
    expect(reflector.store.size).toBe(12);
    await make(client, ns, "later");
    await until("the event", () => log.length === 13, { intervalMs: 5 });
    const reads = await older.audit.since(mark);
    expect(reads.filter(({ verb, uri }) => verb === "list" && uri.includes("limit=5"))).toHaveLength(3);
  });

  it("F05 relists after a real 410 and tells the difference", async () => {
    const client = open();
    const ns = await namespace(client);
    const [gone, kept] = await Promise.all([make(client, ns, "gone"), make(client, ns, "kept")]);
    let old = false;
    // Stands for a watch that comes back after its version was compacted away: version 1 is.
    const late: WatchClient = {
      pages: (resource, options) => client.pages(resource, options),
      watch: async (resource, options) => {
        if (!old || options.initial) return client.watch(resource, options);
        const answer = await client.watch(resource, { ...options, resourceVersion: "1" });
        old = false;
        return answer;
      },
    };
    const { reflector, log, metrics } = reflect(late, ns);
    await reflector.synced();
    old = true;
    await bed.killApiServer();
    await bed.startApiServer();
    await until("410 Gone", async () => (await metrics.text()).includes('code="Gone"'), { intervalMs: 20 });
    await client.delete(configMaps, gone.metadata);
    await until("the deletion", () => reflector.store.size === 1, { intervalMs: 5 });
    expect(log.slice(2)).toEqual([`delete gone ${gone.metadata.uid}`]);
    expect(reflector.store.getByUid(kept.metadata.uid)).toBeDefined();
  });

  it("F15 loses no event and tells no deletion when the API server is killed and comes back", async () => {
    const client = open();
    const ns = await namespace(client);
    const { reflector, log } = reflect(client, ns);
    await reflector.synced();
    const writer = open();
    const created = new Map<string, string>();
    let recreated = "";
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 20; i++) {
        const { metadata } = await make(writer, ns, `r${round}-${i}`);
        created.set(metadata.name, metadata.uid);
      }
      if (round === 1) {
        await writer.delete(configMaps, { namespace: ns, name: "r0-0" });
        recreated = (await make(writer, ns, "r0-0")).metadata.uid;
      }
      await bed.killApiServer();
      await bed.startApiServer();
    }
    const first = created.get("r0-0");
    created.set("r0-0", recreated);
    await until("every object", () => [...created.values()].every((uid) => reflector.store.getByUid(uid)));
    expect(reflector.store.size).toBe(60);
    expect(log.filter((line) => line.startsWith("delete"))).toEqual([`delete r0-0 ${first}`]);
    expect(log.filter((line) => line.startsWith("add"))).toHaveLength(61);
  });

  it("F08 notices a half-open connection within 30 s", async () => {
    const client = open();
    const ns = await namespace(client);
    await using proxy = await startFreezingProxy(Number(connection.server.port));
    const through = { ...connection, server: new URL(`https://127.0.0.1:${proxy.port}`) };
    const { reflector, log } = reflect(open(through), ns);
    await reflector.synced();
    proxy.freeze();
    const frozen = performance.now();
    await make(client, ns, "unheard");
    await until("the event by a new connection", () => log.length === 1, {
      deadlineMs: 40_000,
      intervalMs: 20,
    });
    const seconds = (performance.now() - frozen) / 1000;
    expect(seconds).toBeLessThan(30);
    expect(seconds).toBeGreaterThan(1);
  });
});

describe("controller, leader and events", () => {
  it("F14 leads by one of two on a real Lease, hands over within 5 s of a clean stop", async () => {
    const client = open();
    const ns = await namespace(client);
    const writes: string[] = [];
    const replica = (identity: string) => {
      const own = open();
      const elector = new LeaderElector({ client: own, namespace: ns, name: "lock", identity });
      const stop = new AbortController();
      const writer = own.guarded(() => elector.assertLeading());
      const ended = elector.run(async (leading) => {
        writes.push(identity);
        await make(writer, ns, `by-${identity}`);
        if (leading.aborted) return;
        await new Promise<void>((resolve) => leading.addEventListener("abort", () => resolve()));
      }, stop.signal);
      closing.push(async () => {
        stop.abort();
        await ended;
      });
      return { elector, stop, ended, writer };
    };
    const a = replica("a");
    await until("a to lead", () => a.elector.isLeader, { intervalMs: 10 });
    const b = replica("b");
    await until("b to see who leads", () => b.elector.leader === "a", { intervalMs: 10 });
    expect(await codeOf(Promise.resolve().then(() => make(b.writer, ns, "not-yet")))).toBe("NotLeader");
    const stopped = performance.now();
    a.stop.abort();
    await a.ended;
    await until("b to lead", () => b.elector.isLeader, { intervalMs: 10 });
    expect(performance.now() - stopped).toBeLessThan(5000);
    await until("b's work", () => writes.length === 2, { intervalMs: 10 });
    expect(writes).toEqual(["a", "b"]);
    const lease = await client.get(leases, { namespace: ns, name: "lock" });
    expect(lease.spec).toMatchObject({ holderIdentity: "b", leaseTransitions: 1, leaseDurationSeconds: 15 });
  });

  it("F14 asks for the operator's Lease in Kubernetes' own queue for leaders, and for all else in that of workloads", async () => {
    const [operator, lease] = ["resultity-system", "resultity-operator"];
    for (const file of ["10-namespace.yaml", "20-rbac.yaml", "25-flow-control.yaml"])
      await bed.kubectlOk(["apply", "-f", join(import.meta.dirname, "../../manifests/operator", file)]);
    await open().create(leases, { metadata: { namespace: operator, name: lease } });
    const to = await fromKubeconfig(await bed.serviceAccountKubeconfig(operator, lease));
    const transport = new Transport({ connection: to, userAgent: "resultity-operator/test" });
    closing.push(() => transport.close());
    const levelOf = async (path: string): Promise<string> => {
      const context = { verb: "get", resource: path, object: "" };
      const answer = await transport.stream({ method: "GET", path, context });
      answer.cancel();
      return String(answer.headers["x-kubernetes-pf-prioritylevel-uid"]);
    };
    const uidOf = async (name: string): Promise<string> =>
      bed.kubectlOk(["get", "prioritylevelconfiguration", name, "-o", "jsonpath={.metadata.uid}"]);
    const [leaders, workloads] = [await uidOf("leader-election"), await uidOf("workload-low")];
    await until(
      "the Lease in the queue of leaders",
      async () =>
        (await levelOf(`/apis/coordination.k8s.io/v1/namespaces/${operator}/leases/${lease}`)) === leaders,
    );
    expect(await levelOf("/api/v1/namespaces/default/pods")).toBe(workloads);
  });

  it("makes no request but the Lease's when there is nothing to do", async () => {
    const client = open();
    const ns = await namespace(client);
    await make(client, ns, "a");
    const elector = new LeaderElector({ client, namespace: ns, name: "lock", identity: "only" });
    const { reflector } = reflect(client, ns);
    const reconciled: string[] = [];
    const controller = new Controller({
      name: "idle",
      sources: [own(reflector)],
      reconcile: async (key) => void reconciled.push(key),
    });
    const stop = new AbortController();
    const ended = elector.run((leading) => controller.run(leading), stop.signal);
    await until("the first reconcile", () => reconciled.length === 1 && controller.idle, { intervalMs: 10 });
    const mark = await bed.audit.mark();
    const began = performance.now();
    await until("ten quiet seconds", () => performance.now() - began > 10_000, { intervalMs: 500 });
    const ours = (await bed.audit.since(mark)).filter(({ userAgent }) =>
      userAgent.startsWith("resultity-operator"),
    );
    expect(ours.filter((entry) => !isWrite(entry))).toEqual([]);
    expect(new Set(ours.map(({ resource }) => resource))).toEqual(new Set(["leases"]));
    // A renewal each 2 s.
    expect(ours.length).toBeLessThanOrEqual((performance.now() - began) / 2_000 + 1);
    expect(reconciled).toEqual([`${ns}/a`]);
    stop.abort();
    await ended;
  });

  it("records an event that kubectl shows, and counts its repetition", async () => {
    const client = open();
    const ns = await namespace(client);
    const object = await make(client, ns, "a");
    const recorder = new EventRecorder({
      client,
      controller: "resultity.com/operator",
      instance: "operator-0",
      clock: systemClock,
    });
    const event = { type: "Warning", reason: "Tried", action: "Try", note: "it did not work" } as const;
    for (let i = 0; i < 4; i++) recorder.record(object, event);
    await recorder.flushed();
    const { items } = await client.list(events, { namespace: ns });
    expect(items.map(({ note, series }) => [note, series?.count])).toEqual([["it did not work", 4]]);
    const described = await bed.kubectlOk(["describe", "configmap", "a", "-n", ns]);
    expect(described).toMatch(/Warning\s+Tried.*it did not work/);
  });
});
