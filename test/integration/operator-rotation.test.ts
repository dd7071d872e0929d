import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Agent as Dispatcher } from "undici";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ResultityNode } from "../../src/api/v1alpha1/node.ts";
import { Client } from "../../src/kube/client.ts";
import { fromKubeconfig } from "../../src/kube/config.ts";
import { EventRecorder } from "../../src/kube/events.ts";
import { runReflectors } from "../../src/kube/reflector.ts";
import type { Pod, Secret } from "../../src/kube/resources.ts";
import { Transport } from "../../src/kube/transport.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { makeCaches, type OperatorContext } from "../../src/operator/context.ts";
import { followFeed } from "../../src/operator/network/fleet.ts";
import { nodeController } from "../../src/operator/node/controller.ts";
import { rotateKeyAnnotation } from "../../src/operator/node/identity-secret.ts";
import { Fleet, NetworkConfigs } from "../../src/operator/views.ts";
import { type AccountKey, accountAuthorization } from "../../src/protocol/binding.ts";
import { paths } from "../../src/protocol/http.ts";
import { importPrivateKey, type PrivateJwk, type SigningKey } from "../../src/protocol/keys.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { NodeProcesses } from "../agent/fixture/process.ts";
import { ScriptedAgent } from "../io/fixture/agent.ts";
import { IoProcess, random16 } from "../io/fixture/network.ts";
import { configOf, digestOfSnapshot, networkOf, snapshotOf } from "../operator/node/network.ts";
import { buildingMs, type ControlPlane, startControlPlane } from "../testbed/control-plane.ts";
import { type KubeJson, kubeJson } from "../testbed/kube-json.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/**
 * The rotation of a node's key from the annotation to the end, with everything real but the kubelet: API server, node
 * controller, service, agent. The test brings the Secret to the agent's folder as a kubelet does.
 */
const repository = join(import.meta.dirname, "../..");
const namespace = "inference";
const name = "gpu-1";
const snapshot = snapshotOf("v1");
const processes = supervise();
let bed: ControlPlane;
let kube: KubeJson;
let kubeconfig: string;
let networkUid = "";
let io: IoProcess;
let accountKey: AccountKey;
let agent: NodeProcesses;
let stopKubelet = () => {};

const podPath = `/api/v1/namespaces/${namespace}/pods/${name}`;
const nodePath = `/apis/resultity.com/v1alpha1/namespaces/${namespace}/resultitynodes/${name}`;
const secretPath = `/api/v1/namespaces/${namespace}/secrets/${name}-identity`;

interface Operator {
  kill(): Promise<void>;
}

/** @param mayWrite called before each write; what it throws takes its place. */
async function startOperator(mayWrite: () => void = () => {}): Promise<Operator> {
  const clock = systemClock;
  const metrics = new Metrics();
  const logger = silentLogger;
  const transport = new Transport({
    connection: await fromKubeconfig(kubeconfig),
    userAgent: "test",
    clock,
    metrics,
  });
  const client = new Client(transport).guarded(mayWrite);
  const shared = { client, clock, random: Math.random, logger, metrics };
  const controller = "resultity.com/operator";
  const context: OperatorContext = {
    ...shared,
    events: new EventRecorder({ client, controller, instance: "test", clock, metrics }),
    caches: makeCaches(shared),
    configs: new NetworkConfigs(),
    fleet: new Fleet(),
  };
  const networkKey = `${namespace}/testnet`;
  const trust = { uid: networkUid, root: io.root, accountKey, endpoints: [io.url] };
  context.configs.set(networkKey, configOf([snapshot], trust));
  const stop = new AbortController();
  const dispatcher = new Dispatcher();
  const feed = followFeed(
    { networkKey, endpoints: [io.url], account: "acme", accountKey },
    { fleet: context.fleet, dispatcher, clock, random: Math.random, logger, metrics, refused: () => {} },
    stop.signal,
  );
  const watching = runReflectors(Object.values(context.caches), stop.signal);
  // The pod's IP is nobody's: its agent listens on the loopback.
  const ask = async (_ip: string, nonce: string) => (await agent.ask(`/status?nonce=${nonce}`)).body;
  const working = nodeController(context, ask).run(stop.signal);
  await Promise.all(Object.values(context.caches).map((cache) => cache.synced()));
  return {
    async kill() {
      stop.abort();
      await Promise.all([working, watching, feed]);
      await dispatcher.destroy();
      transport.close();
    },
  };
}

const secret = () => kube.get<Secret>(secretPath);
const view = async () => (await io.nodes()).find(({ id }) => id === agent.identity.nodeId);

/** The Secret's entries, decoded. */
async function entries(): Promise<Readonly<Record<string, string>>> {
  const data = Object.entries((await secret())?.data ?? {});
  return Object.fromEntries(data.map(([entry, value]) => [entry, Buffer.from(value, "base64").toString()]));
}

async function keyOf(entry: string): Promise<SigningKey | undefined> {
  const text = (await entries())[entry];
  if (text === undefined) return undefined;
  const jwk: PrivateJwk = JSON.parse(text);
  return importPrivateKey(jwk);
}

/** Brings the Secret to the agent's folder now and again: all of it at once, behind a link, as a kubelet does. */
function startKubelet(): () => void {
  const dir = join(agent.dir, "identity");
  const stop = new AbortController();
  let version = 0;
  let last = "";
  const sync = async () => {
    while (!stop.signal.aborted) {
      const now = await entries().catch(() => undefined);
      if (now && JSON.stringify(now) !== last) {
        last = JSON.stringify(now);
        const made = `..v${++version}`;
        mkdirSync(join(dir, made));
        for (const [entry, text] of Object.entries(now)) writeFileSync(join(dir, made, entry), text);
        symlinkSync(made, join(dir, "..data.new"));
        renameSync(join(dir, "..data.new"), join(dir, "..data"));
        for (const entry of readdirSync(dir))
          if (!entry.startsWith("..") && !(entry in now)) rmSync(join(dir, entry));
        for (const entry of Object.keys(now)) {
          rmSync(join(dir, entry), { force: true });
          symlinkSync(join("..data", entry), join(dir, entry));
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  void sync();
  return () => stop.abort();
}

async function condition(type: string): Promise<string> {
  const found = (await kube.get<ResultityNode>(nodePath))?.status?.conditions?.find(
    (one) => one.type === type,
  );
  return `${found?.status ?? ""} ${found?.reason ?? ""}`;
}

const rotate = (value: string) =>
  kube.patch(nodePath, "merge", { metadata: { annotations: { [rotateKeyAnnotation]: value } } });

/** Waits until network, agent and Secret have one and the same new key, and the pod notes it. */
async function rotated(from: SigningKey | undefined, deadlineMs = 60_000): Promise<SigningKey> {
  return until(
    "one new key everywhere",
    async () => {
      const key = await keyOf("key.jwk");
      const seen = await view();
      if (!key || key.kid === from?.kid || (await keyOf("next.jwk"))) return undefined;
      return seen?.connected === true && seen.kid === key.kid ? key : undefined;
    },
    { deadlineMs, intervalMs: 200 },
  );
}

beforeAll(async () => {
  io = await IoProcess.start(processes, ["--heartbeat", "1s"]);
  accountKey = await io.account("acme");
  bed = await startControlPlane({ components: [] });
  kube = kubeJson(bed.adminKubeconfig);
  await bed.kubectlOk(["apply", "-f", join(repository, "crds")]);
  await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
  for (const file of ["10-namespace.yaml", "20-rbac.yaml"])
    await bed.kubectlOk(["apply", "-f", join(repository, "manifests/operator", file)]);
  await bed.kubectlOk(["create", "namespace", namespace]);
  await bed.kubectlOk(["-n", namespace, "create", "serviceaccount", "default"]);
  const { metadata, ...network } = networkOf();
  const made = await kube.create<ResultityNode>(
    `/apis/resultity.com/v1alpha1/namespaces/${namespace}/resultitynetworks`,
    { ...network, metadata: { name: metadata.name, namespace } },
  );
  networkUid = made.metadata.uid;
  kubeconfig = await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");

  const operator = await startOperator();
  await kube.create(nodePath.replace(`/${name}`, ""), {
    apiVersion: "resultity.com/v1alpha1",
    kind: "ResultityNode",
    metadata: { name, namespace },
    spec: { networkRef: { name: "testnet" }, gpu: { count: 0 }, runtime: { engine: "openai" } },
  });
  await until("the pod", () => kube.get<Pod>(podPath));
  agent = await NodeProcesses.make(processes, new TestNetwork());
  for (const entry of readdirSync(join(agent.dir, "identity"))) rmSync(join(agent.dir, "identity", entry));
  const key = await keyOf("key.jwk");
  if (!key) throw new Error("no key in the Secret");
  Object.assign(agent.identity, { key, nodeId: String(key.kid) });
  agent.desire({ target: digestOfSnapshot(snapshot) });
  stopKubelet = startKubelet();
  await until("the folder", () => readdirSync(join(agent.dir, "identity")).includes("root.json"));
  agent.startAgent(io.url);
  await until("the first session", async () => (await view())?.connected);
  await operator.kill();
}, buildingMs);
afterAll(async () => {
  stopKubelet?.();
  await processes.close();
  await kube?.close();
  await bed?.stop();
});

describe("the key of a node", () => {
  it("is rotated by an annotation, once for each value", async () => {
    const operator = await startOperator();
    try {
      const first = await keyOf("key.jwk");
      await rotate("1");
      const second = await rotated(first);
      const now = await entries();
      expect(JSON.parse(now["former.json"] ?? "")).toEqual([first?.jwk]);
      await until("the condition", async () => (await condition("Registered")) === "True AccountBound");
      const before = await secret();
      await kube.patch(nodePath, "merge", { metadata: { labels: { some: "label" } } });
      await rotate("1");
      await rotate("2");
      const third = await rotated(second);
      expect(JSON.parse((await entries())["former.json"] ?? "")).toEqual([first?.jwk, second.jwk]);
      expect((await secret())?.metadata.uid).toBe(before?.metadata.uid);
      expect(third.kid).not.toBe(second.kid);
    } finally {
      await operator.kill();
    }
  });

  it("is rotated by operators that are killed after each single write", async () => {
    const before = await keyOf("key.jwk");
    await rotate("3");
    const done = rotated(before, 150_000).then(() => true);
    for (let life = 0; life < 20; life++) {
      const used = Promise.withResolvers<boolean>();
      let writes = 0;
      const operator = await startOperator(() => {
        if (++writes === 1) return;
        used.resolve(false);
        throw new Error("killed");
      });
      const waited = new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 5_000));
      const over = await Promise.race([done, used.promise, waited]);
      await operator.kill();
      if (over) break;
    }
    const last = await startOperator();
    try {
      await done;
    } finally {
      await last.kill();
    }
    expect(JSON.parse((await entries())["former.json"] ?? "")).toHaveLength(3);
  }, 180_000);

  it("that the account revokes is shown with the fix, and the annotation brings the node back", async () => {
    const operator = await startOperator();
    try {
      const path = paths.revoke(agent.identity.nodeId);
      const nonce = randomBytes(32).toString("base64url");
      const request = { account: "acme", method: "POST", path, time: Date.now(), nonce };
      const authorization = accountAuthorization(accountKey, request);
      expect((await fetch(`${io.url}${path}`, { method: "POST", headers: { authorization } })).status).toBe(
        200,
      );
      await until("the condition", async () => (await condition("Registered")) === "False KeyRevoked");
      const before = await keyOf("key.jwk");
      await rotate("4");
      await rotated(before);
      expect(await view()).toMatchObject({ generation: 1, revoked: false });
      await until("the condition", async () => (await condition("Registered")) === "True AccountBound");
      // And a granted key is rolled over like any other.
      const granted = await keyOf("key.jwk");
      await rotate("5");
      await rotated(granted);
      expect(JSON.parse((await entries())["former.json"] ?? "")).toHaveLength(5);
    } finally {
      await operator.kill();
    }
  });

  it("that two processes use is Degraded/IdentityConflict, with the fix", async () => {
    const operator = await startOperator();
    try {
      const key = await keyOf("key.jwk");
      const config = digestOfSnapshot(snapshot);
      const setting = { url: io.url, root: io.root, account: "acme", accountKey, models: [], config };
      const thief = new ScriptedAgent(setting, key, agent.identity.nodeId);
      const other = new ScriptedAgent(setting, key, agent.identity.nodeId);
      other.instance = random16();
      (await thief.connect()).drop();
      const second = await other.connect();
      await expect(thief.connect()).rejects.toThrow("identity conflict");
      await until("the condition", async () => (await condition("Degraded")) === "True IdentityConflict");
      second.drop();
    } finally {
      await operator.kill();
    }
  });
});
