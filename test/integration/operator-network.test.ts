/** The network controller with its ServiceAccount's rights on a real API server, against an IO service that plays its part by script. */
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { findCondition, type NetworkConditionType } from "../../src/api/v1alpha1/conditions.ts";
import type { ResultityNetwork } from "../../src/api/v1alpha1/network.ts";
import { Client } from "../../src/kube/client.ts";
import { fromKubeconfig } from "../../src/kube/config.ts";
import { EventRecorder } from "../../src/kube/events.ts";
import { runReflectors } from "../../src/kube/reflector.ts";
import { configMaps } from "../../src/kube/resources.ts";
import { Transport } from "../../src/kube/transport.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { makeCaches, networks, nodes, type OperatorContext } from "../../src/operator/context.ts";
import { networkController } from "../../src/operator/network/controller.ts";
import { nodeManager, releaseEntry, snapshotEntry } from "../../src/operator/names.ts";
import { Fleet, NetworkConfigs } from "../../src/operator/views.ts";
import type { Statement } from "../../src/protocol/config/statement.ts";
import { random32 } from "../protocol/network.ts";
import { day, makeAuthority, type Signed, type TestAuthority } from "../operator/network/authority.ts";
import { type ScriptedIo, startScriptedIo } from "../operator/network/scripted-io.ts";
import { type AuditEntry, markWhenQuiet } from "../testbed/audit.ts";
import { buildingMs, type ControlPlane, isWrite, startControlPlane } from "../testbed/control-plane.ts";
import { until } from "../testbed/until.ts";

const repository = join(import.meta.dirname, "../..");
let bed: ControlPlane;
let admin: Client;
let operatorKubeconfig: string;
let namespaces = 0;
const transports: Transport[] = [];

async function connect(kubeconfig: string): Promise<Client> {
  const transport = new Transport({
    connection: await fromKubeconfig(kubeconfig),
    userAgent: "operator-network-test",
  });
  transports.push(transport);
  return new Client(transport);
}

beforeAll(async () => {
  bed = await startControlPlane({ components: [], log: console.error });
  await bed.kubectlOk(["apply", "-f", join(repository, "crds")]);
  await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all"]);
  for (const file of ["10-namespace.yaml", "20-rbac.yaml"])
    await bed.kubectlOk(["apply", "-f", join(repository, "manifests/operator", file)]);
  admin = await connect(bed.adminKubeconfig);
  operatorKubeconfig = await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
}, buildingMs);

afterAll(async () => {
  for (const transport of transports) transport.close();
  await bed?.stop();
});

/** An operator of one namespace: begun, and ended by `stop`. */
async function startOperator(namespace: string) {
  const client = await connect(operatorKubeconfig);
  const shared = {
    client,
    clock: systemClock,
    random: Math.random,
    logger: silentLogger,
    metrics: new Metrics(),
    namespace,
  };
  const context: OperatorContext = {
    ...shared,
    events: new EventRecorder({ client, controller: "resultity.com/operator", instance: "test" }),
    caches: makeCaches(shared, [namespace]),
    configs: new NetworkConfigs(),
    fleet: new Fleet(),
  };
  const abort = new AbortController();
  const running = Promise.all([
    runReflectors([context.caches.networks, context.caches.nodes], abort.signal),
    networkController(context).run(abort.signal),
  ]);
  return {
    context,
    async stop() {
      abort.abort();
      await running;
    },
  };
}

/** One network in a namespace of its own, with everything it names, an IO service and an operator. */
class Scene {
  readonly namespace = `inference-${++namespaces}`;
  readonly authority: TestAuthority = makeAuthority("testnet", Date.now());
  readonly io: ScriptedIo;
  operator: Awaited<ReturnType<typeof startOperator>> | undefined;

  constructor(io: ScriptedIo) {
    this.io = io;
  }
  get key() {
    return `${this.namespace}/testnet`;
  }
  get config() {
    return this.operator?.context.configs.get(this.key);
  }

  async publish(current: Signed, release: Statement): Promise<void> {
    this.io.put(current.digest, current.bytes);
    this.io.release = JSON.stringify(release);
    await this.lookNow();
  }
  /** Changes the spec in a way that means nothing, so that the operator looks now and not in some seconds. */
  async lookNow(): Promise<void> {
    if (!this.operator) return;
    const config = { refreshIntervalSeconds: (this.#interval = this.#interval === 5 ? 6 : 5) };
    await admin.mergePatch(networks, { namespace: this.namespace, name: "testnet" }, { spec: { config } });
  }
  #interval = 5;
  async network(): Promise<ResultityNetwork> {
    return admin.get(networks, { namespace: this.namespace, name: "testnet" });
  }
  async entries(): Promise<Readonly<Record<string, string>>> {
    const found = await admin.find(configMaps, { namespace: this.namespace, name: "testnet-config" });
    return found?.data ?? {};
  }
  /** Waits until a condition has this reason, and answers it. */
  async says(type: NetworkConditionType, reason: string) {
    let last = "";
    return until(`${type} to say ${reason}`, async () => {
      const found = findCondition((await this.network()).status?.conditions, type);
      last = `${found?.reason}: ${found?.message}`;
      if (found?.reason !== reason) throw new Error(last);
      return found;
    });
  }
  async node(name: string): Promise<void> {
    await admin.create(nodes, {
      metadata: { name, namespace: this.namespace },
      spec: { networkRef: { name: "testnet" }, runtime: { engine: "openai" } } as never,
    });
  }
  /** Plays the node and pool controllers: what a node's status says. */
  async nodeSays(name: string, config: { target?: string; applied?: string }, ready: boolean): Promise<void> {
    const lastTransitionTime = "2026-01-01T00:00:00Z";
    const status = ready ? "True" : "False";
    await admin.applyStatus(
      nodes,
      {
        metadata: { name, namespace: this.namespace },
        status: {
          config,
          session: { connected: ready },
          conditions: [
            {
              type: "Ready",
              status,
              reason: "AllWell",
              message: "",
              observedGeneration: 1,
              lastTransitionTime,
            },
          ],
        },
      },
      { fieldManager: nodeManager },
    );
  }
}

async function startScene({ account = true } = {}): Promise<Scene> {
  const scene = new Scene(await startScriptedIo());
  const { namespace, authority, io } = scene;
  io.root = authority.rootText;
  await bed.kubectlOk(["create", "namespace", namespace]);
  const apply = (object: object) => bed.kubectlOk(["apply", "-f", "-"], { stdin: JSON.stringify(object) });
  await apply({
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: "root", namespace },
    data: { "root.json": authority.rootText },
  });
  if (account) await makeAccount(namespace);
  await apply({
    apiVersion: "resultity.com/v1alpha1",
    kind: "ResultityNetwork",
    metadata: { name: "testnet", namespace },
    spec: {
      environment: "Testnet",
      endpoints: [io.url],
      trust: { rootConfigMap: { name: "root" } },
      account: { id: "acme", secretName: "account" },
      config: { refreshIntervalSeconds: 5 },
      agent: { image: `registry.test/agent@sha256:${"1".repeat(64)}` },
    },
  });
  scene.operator = await startOperator(namespace);
  return scene;
}

async function makeAccount(namespace: string): Promise<void> {
  await bed.kubectlOk([
    "create",
    "secret",
    "generic",
    "account",
    "-n",
    namespace,
    `--from-literal=account-key=${random32()}`,
  ]);
}

async function endScene(scene: Scene): Promise<void> {
  await scene.operator?.stop();
  await scene.io.stop();
}

describe("a network that is well", () => {
  let scene: Scene;
  let first: Signed;
  let second: Signed;
  beforeAll(async () => {
    scene = await startScene();
    first = scene.authority.snapshot("1.0.0");
    second = scene.authority.snapshot("2.0.0");
    await scene.publish(first, scene.authority.release(first));
    await scene.says("Ready", "AllWell");
  });
  afterAll(() => endScene(scene));

  test("becomes Ready, with its config in status, in the ConfigMap and in what the other controllers see", async () => {
    const { status, metadata } = await scene.network();
    expect(status).toMatchObject({
      config: { digest: first.digest, version: "1.0.0", releaseSequence: 1, models: ["tiny"] },
      history: [{ digest: first.digest, version: "1.0.0" }],
      nodes: { total: 0, ready: 0, connected: 0 },
    });
    expect(status?.conditions?.map(({ type, status: is, reason }) => `${type} ${is} ${reason}`)).toEqual([
      "Reachable True EndpointAnswers",
      "Trusted True Verified",
      "Fresh True Current",
      "Ready True AllWell",
    ]);
    const stored = await admin.get(configMaps, { namespace: scene.namespace, name: "testnet-config" });
    expect(stored.data).toEqual({
      [releaseEntry]: scene.io.release,
      [snapshotEntry(first.digest)]: first.bytes.toString(),
    });
    expect(stored.metadata.ownerReferences).toMatchObject([{ uid: metadata.uid, controller: true }]);
    expect(scene.config).toMatchObject({ uid: metadata.uid, account: "acme", current: first.digest });
    expect([...(scene.config?.snapshots.keys() ?? [])]).toEqual([first.digest]);
  });

  test("moves to a new release, and keeps the old config while a node runs it", async () => {
    await scene.node("one");
    await scene.nodeSays("one", { applied: first.digest }, true);
    await scene.publish(second, scene.authority.release(second));
    const { status } = await until("the new digest, and the node", async () => {
      const seen = await scene.network();
      return seen.status?.config?.digest === second.digest && seen.status.nodes?.connected === 1 && seen;
    });
    expect(status?.history?.map(({ digest }) => digest)).toEqual([second.digest, first.digest]);
    expect(status).toMatchObject({
      config: { releaseSequence: 2 },
      nodes: { total: 1, ready: 1, connected: 1 },
    });
    const both = [releaseEntry, snapshotEntry(first.digest), snapshotEntry(second.digest)];
    expect(Object.keys(await scene.entries()).toSorted()).toEqual(both.toSorted());
    expect(scene.config?.current).toBe(second.digest);

    await scene.nodeSays("one", { target: second.digest, applied: second.digest }, true);
    await until(
      "the old config to go",
      async () => !(snapshotEntry(first.digest) in (await scene.entries())),
    );
  });

  test("with apply: Approve a new config waits, says what it changes, and moves when it is approved", async () => {
    const patch = (config: object) =>
      admin.mergePatch(networks, { namespace: scene.namespace, name: "testnet" }, { spec: { config } });
    await patch({ apply: "Approve" });
    const third = scene.authority.snapshot("3.0.0");
    await scene.publish(third, scene.authority.release(third));
    await scene.says("Fresh", "ApprovalNeeded");
    await until(
      "what it changes",
      async () => (await scene.network()).status?.pending?.digest === third.digest,
    );
    expect(scene.config?.current).toBe(second.digest);
    await patch({ approved: third.digest });
    await until("the approved config", () => scene.config?.current === third.digest);
    await scene.says("Fresh", "Current");
    const { status } = await scene.network();
    expect(status?.pending).toBeUndefined();
    expect(status?.config?.digest).toBe(third.digest);
    await patch({ apply: "Automatic", approved: null, pin: second.digest });
    await until("the pin", () => scene.config?.current === second.digest);
    await until(
      "the pin in the status",
      async () => (await scene.network()).status?.config?.digest === second.digest,
    );
  });

  test("writes nothing and lists nothing in 10 s of steady state, in which IO answers that nothing changed", async () => {
    await scene.says("Ready", "AllWell");
    // What the last test has begun ends first.
    const writes = (entry: AuditEntry) => entry.user.endsWith(":resultity-operator") && isWrite(entry);
    const mark = await markWhenQuiet(bed.audit, writes, 2_000);
    const asked = scene.io.log.length;
    await new Promise((resolve) => setTimeout(resolve, 10_500));
    const mine = (await bed.audit.since(mark)).filter(({ user }) => user.endsWith(":resultity-operator"));
    expect(mine.filter((entry) => isWrite(entry) || entry.verb === "list")).toEqual([]);
    const answers = scene.io.log.slice(asked);
    expect(answers).toContain("GET /v1/config/release 304");
    expect(answers.filter((answer) => !answer.endsWith(" 304"))).toEqual([]);
  });

  test("counts nodes that come and go with at most about one write a second", async () => {
    const mark = await bed.audit.mark();
    const began = performance.now();
    for (let turn = 0; performance.now() - began < 4_000; turn++) {
      await scene.nodeSays("one", { target: second.digest, applied: second.digest }, turn % 2 === 0);
    }
    await scene.nodeSays("one", { target: second.digest, applied: second.digest }, false);
    await until("the last count", async () => (await scene.network()).status?.nodes?.ready === 0);
    const writes = (await bed.audit.since(mark)).filter(
      (entry) => entry.user.endsWith(":resultity-operator") && isWrite(entry),
    );
    expect(writes.length).toBeGreaterThan(0);
    expect(writes.length).toBeLessThanOrEqual(1 + (performance.now() - began) / 1000);
  });

  test("puts back what somebody changed in the ConfigMap, by the next look at it", async () => {
    const entry = snapshotEntry(second.digest);
    const data = { [entry]: '{"network":"another"}' };
    await admin.mergePatch(configMaps, { namespace: scene.namespace, name: "testnet-config" }, { data });
    await scene.lookNow();
    await until(
      "the exact bytes again",
      async () => (await scene.entries())[entry] === second.bytes.toString(),
    );
  });
});

describe("what is refused, while the last good config stays", () => {
  let scene: Scene;
  let good: Signed;
  let goodRelease: Statement;
  beforeAll(async () => {
    scene = await startScene();
    good = scene.authority.snapshot("1.0.0");
    goodRelease = scene.authority.release(good, { sequence: 5 });
  });
  afterAll(() => endScene(scene));
  beforeEach(async () => {
    scene.io.root = scene.authority.rootText;
    await scene.publish(good, goodRelease);
    await scene.says("Ready", "AllWell");
  });

  const expectGood = async () => {
    const { status } = await scene.network();
    expect(status?.config).toMatchObject({ digest: good.digest, releaseSequence: 5 });
    expect(scene.config).toMatchObject({ current: good.digest, release: { sequence: 5 } });
    const release = JSON.parse((await scene.entries())[releaseEntry] ?? "") as Statement;
    expect(JSON.parse(Buffer.from(release.payload, "base64url").toString())).toMatchObject({ sequence: 5 });
    const ready = findCondition(status?.conditions, "Ready");
    return ready;
  };
  const bad = () => scene.authority.snapshot("6.6.6");

  test("a lower sequence", async () => {
    await scene.publish(bad(), scene.authority.release(bad(), { sequence: 3 }));
    const { message } = await scene.says("Trusted", "SequenceWentBack");
    expect(message).toContain("release 3 is older than release 5");
    expect(await expectGood()).toMatchObject({ status: "False", reason: "SequenceWentBack" });
  });

  test("other content under the sequence that is known", async () => {
    await scene.publish(bad(), scene.authority.release(bad(), { sequence: 5 }));
    expect((await scene.says("Trusted", "SequenceWentBack")).message).toContain("other content");
    await expectGood();
  });

  test("one signature, given twice", async () => {
    const [key] = scene.authority.configKeys;
    await scene.publish(bad(), scene.authority.release(bad(), { sequence: 6, keys: [key, key] }));
    const { message } = await scene.says("Trusted", "ThresholdNotMet");
    expect(message).toContain("signed by 1 trusted keys, 2 distinct ones are needed");
    expect(await expectGood()).toMatchObject({ status: "False", reason: "ThresholdNotMet" });
  });

  test("a release of another network", async () => {
    await scene.publish(bad(), scene.authority.release(bad(), { sequence: 6, network: "othernet" }));
    await scene.says("Trusted", "OtherNetwork");
    await expectGood();
  });

  test("a root that nobody here trusts", async () => {
    scene.io.root = makeAuthority("testnet", Date.now()).rootText;
    await scene.lookNow();
    const { message } = await scene.says("Trusted", "RootInvalid");
    expect(message).toContain("is not the one in spec.trust");
    await expectGood();
  });

  test("an IO service that does not answer", async () => {
    await scene.io.stop();
    await scene.lookNow();
    const { message } = await scene.says("Reachable", "EndpointUnreachable");
    expect(message).toContain(`${scene.io.url}/v1/config/root`);
    expect(message).toContain("Check spec.endpoints");
    expect(await expectGood()).toMatchObject({ status: "False", reason: "EndpointUnreachable" });
    await scene.io.start();
  });

  test("a digest that has expired: the release counts, nodes stay", async () => {
    const late = scene.authority.snapshot("0.9.0");
    const allowed = [
      { digest: good.digest, expires: Date.now() + 30 * day },
      { digest: late.digest, expires: Date.now() - day },
    ];
    await scene.publish(late, scene.authority.release(late, { sequence: 6, allowed }));
    const { message } = await scene.says("Fresh", "Expired");
    expect(message).toContain(late.digest);
    const { status } = await scene.network();
    expect(status?.config).toMatchObject({ digest: good.digest, releaseSequence: 6 });
    expect(scene.config?.current).toBe(good.digest);
  });
});

describe("what the user gave", () => {
  test("a missing account Secret is named, and noticed when it comes; so is a pin that is not allowed", async () => {
    const scene = await startScene({ account: false });
    try {
      const only = scene.authority.snapshot("1.0.0");
      await scene.publish(only, scene.authority.release(only));
      const { message } = await scene.says("Ready", "AccountSecretNotFound");
      expect(message).toContain(`Secret ${scene.namespace}/account`);
      expect(scene.config).toBeUndefined();
      await makeAccount(scene.namespace);
      // No event tells of a Secret: it is looked for again by itself.
      await scene.says("Ready", "AllWell");
      expect(scene.config?.current).toBe(only.digest);

      const other = scene.authority.snapshot("2.0.0");
      const pin = (digest: string | null) =>
        admin.mergePatch(
          networks,
          { namespace: scene.namespace, name: "testnet" },
          { spec: { config: { pin: digest } } },
        );
      await pin(other.digest);
      expect((await scene.says("Trusted", "PinNotAllowed")).message).toContain(other.digest);
      expect(scene.config?.current).toBe(only.digest);
      scene.io.put(other.digest, other.bytes);
      scene.authority.release(other);
      await scene.publish(only, scene.authority.release(only));
      await until("the pinned digest", async () => scene.config?.current === other.digest);
      await scene.says("Ready", "AllWell");
      await pin(null);
      await until("the current digest", async () => scene.config?.current === only.digest);
    } finally {
      await endScene(scene);
    }
  });

  test("a new operator serves the last good config while IO is away, and knows how far releases had come", async () => {
    const scene = await startScene();
    try {
      const [old, newer] = [scene.authority.snapshot("1.0.0"), scene.authority.snapshot("2.0.0")];
      const oldRelease = scene.authority.release(old);
      const rotated = scene.authority.rotate();
      scene.io.root = rotated.text;
      await scene.publish(newer, scene.authority.release(newer, { keys: rotated.configKeys }));
      await scene.says("Ready", "AllWell");
      await scene.io.stop();
      await scene.operator?.stop();
      expect(scene.config).toBeUndefined();

      scene.operator = await startOperator(scene.namespace);
      await until("the last good config", async () => scene.config?.current === newer.digest);
      expect(scene.config?.root.version).toBe(2);
      await scene.says("Reachable", "EndpointUnreachable");

      await scene.publish(old, oldRelease);
      await scene.operator?.stop();
      await admin.delete(configMaps, { namespace: scene.namespace, name: "testnet-config" });
      await scene.io.start();
      scene.operator = await startOperator(scene.namespace);
      await scene.says("Trusted", "ThresholdNotMet");
      await scene.publish(old, scene.authority.release(old, { sequence: 1, keys: rotated.configKeys }));
      expect((await scene.says("Trusted", "SequenceWentBack")).message).toContain("release 2");
    } finally {
      await endScene(scene);
    }
  });

  test("a deleted network is forgotten, and its feed ends", async () => {
    const scene = await startScene();
    try {
      const only = scene.authority.snapshot("1.0.0");
      await scene.publish(only, scene.authority.release(only));
      await scene.says("Ready", "AllWell");
      const feed = await until("the feed", async () => scene.io.feeds[0]);
      feed.line({ type: "synced" });
      await until("the fleet to be live", async () => scene.operator?.context.fleet.live(scene.key));
      await admin.delete(networks, { namespace: scene.namespace, name: "testnet" });
      await feed.closed;
      await until("it to be forgotten", async () => scene.config === undefined);
      expect(scene.operator?.context.fleet.live(scene.key)).toBe(false);
    } finally {
      await endScene(scene);
    }
  });
});
