/**
 * `node test/faults/record-fleet.ts FILE`: has the operator of this tree make a fleet that uses every part of the API, and records it
 * at rest. Run once for each version that is released (and then left alone): test/integration/operator-upgrade.test.ts puts every
 * recorded fleet before the present operator.
 */
import { writeFileSync } from "node:fs";
import { digestOf } from "../../src/protocol/config/snapshot.ts";
import { startScriptedIo } from "../operator/network/scripted-io.ts";
import { makeSnapshot, random32 } from "../protocol/network.ts";
import { recordedAddress, recordedText, recordFleet, whenFree } from "./fleet-at-rest.ts";
import { emptyScene, type Scene, startStand } from "./operator-scene.ts";

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error("usage: node test/faults/record-fleet.ts FILE");

const hex = (digit: string) => digit.repeat(64);
/** Never renewed, and never to be: a fleet at rest must not grow old in the repository. */
const expires = Date.UTC(9000, 0, 1);

/** What a node may say beside what it must. */
const everything = {
  gpu: { count: 2, resourceName: "nvidia.com/gpu", product: "NVIDIA-H100-80GB-HBM3" },
  runtime: {
    engine: "openai",
    image: `registry.test/engine@sha256:${hex("a")}`,
    args: ["--max-model-len", "8192"],
    env: [{ name: "LOG_LEVEL", value: "$(HOME) costs $5" }],
    resources: { requests: { cpu: 2, memory: "8Gi" }, limits: { cpu: "4", memory: "16Gi" } },
  },
  models: ["tiny"],
  participation: { subclouds: ["eu"], accept: true },
  drain: { timeoutSeconds: 120, evictionTimeoutSeconds: 20 },
  podOverrides: {
    labels: { team: "ml" },
    annotations: { "example.com/cost": "7" },
    nodeSelector: { "example.com/rack": "r1" },
    affinity: {
      nodeAffinity: {
        requiredDuringSchedulingIgnoredDuringExecution: {
          nodeSelectorTerms: [
            { matchExpressions: [{ key: "example.com/zone", operator: "In", values: ["a"] }] },
          ],
        },
      },
    },
    tolerations: [{ key: "gpu", operator: "Exists", effect: "NoSchedule" }],
    topologySpreadConstraints: [
      {
        maxSkew: 1,
        topologyKey: "kubernetes.io/hostname",
        whenUnsatisfiable: "ScheduleAnyway",
        labelSelector: { matchLabels: { team: "ml" } },
      },
    ],
    imagePullSecrets: [{ name: "pull" }],
    volumes: [
      { name: "scratch", emptyDir: { sizeLimit: "1Gi" } },
      { name: "settings", configMap: { name: "settings" } },
    ],
    volumeMounts: [
      { name: "scratch", mountPath: "/scratch" },
      { name: "settings", mountPath: "/settings", readOnly: true },
    ],
  },
};

async function makeFleet(scene: Scene): Promise<number> {
  const { kube } = scene.stand;
  const { authority, io, namespace } = scene;
  await kube.create("/api/v1/namespaces", {
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name: namespace },
  });
  const metadata = (name: string) => ({ metadata: { name } });
  const data = { "root.json": authority.rootText };
  await kube.create(scene.core("configmaps"), {
    apiVersion: "v1",
    kind: "ConfigMap",
    ...metadata("root"),
    data,
  });
  const stringData = { "account-key": random32() };
  await kube.create(scene.core("secrets"), {
    apiVersion: "v1",
    kind: "Secret",
    ...metadata("account"),
    stringData,
  });
  const snapshot = { ...makeSnapshot("testnet", "v1"), subclouds: ["eu"] };
  const bytes = Buffer.from(JSON.stringify(snapshot));
  const digest = digestOf(bytes);
  io.root = authority.rootText;
  io.put(digest, bytes);
  io.release = JSON.stringify(
    authority.release({ snapshot, bytes, digest }, { allowed: [{ digest, expires }] }),
  );
  await scene.play();

  const network = {
    environment: "Testnet",
    endpoints: [io.url],
    trust: { rootConfigMap: { name: "root" } },
    account: { id: "acme", secretName: "account" },
    config: { refreshIntervalSeconds: 5 },
    agent: { image: `registry.test/agent@sha256:${hex("1")}` },
  };
  const group = { apiVersion: "resultity.com/v1alpha1" };
  const makeNetwork = (name: string, spec: object) =>
    kube.create(scene.path("resultitynetworks"), {
      ...group,
      kind: "ResultityNetwork",
      ...metadata(name),
      spec,
    });
  await makeNetwork("testnet", network);
  await makeNetwork("approved", {
    ...network,
    config: { ...network.config, apply: "Approve", approved: digest },
    images: {
      mirrors: [{ source: "registry.test", mirrors: ["mirror.test/cache"] }],
      allowed: ["registry.test"],
      denied: ["registry.test/bad"],
    },
    models: { mirrors: [{ source: "https://weights.test/a", mirrors: ["http://near.test/a"] }] },
  });

  await scene.createPool("plain", 2);
  const template = { metadata: { labels: { tier: "gold" }, annotations: { "example.com/owner": "us" } } };
  const spec = { networkRef: { name: "approved" }, ...everything };
  await scene.createPool("whole", 2, {
    template: { ...template, spec: { ...spec, modelCache: { emptyDir: { sizeLimit: "20Gi" } } } },
    strategy: {
      rollingUpdate: { maxUnavailable: "50%", canary: { replicas: 1 }, prefetch: { maxParallel: 2 } },
    },
    identityRetention: "Delete",
  });
  await scene.createPool("held", 1, {
    strategy: { paused: true, rollingUpdate: { partition: 5, autoRollback: false } },
  });
  await scene.createPool("empty", 0);
  await scene.createNode("alone");
  await scene.createNode("claim", {
    modelCache: { persistentVolumeClaim: { claimName: "weights" } },
    identity: { secretName: "claimed" },
    config: { pin: digest },
  });
  await scene.createNode("host-path", { modelCache: { hostPath: { path: "/data/models" } } });
  await scene.createNode("image", {
    modelCache: { imageVolume: { reference: `registry.test/weights@sha256:${hex("2")}` } },
  });
  return 9;
}

await using stand = await startStand();
const io = await whenFree(() => startScriptedIo(recordedAddress));
await using scene = await emptyScene(stand, "at-rest", io);
const count = await makeFleet(scene);
const operator = await scene.startOperator();
await scene.untilReady(count, 60_000);
// Parked after it has served, which leaves it an identity.
await scene.createNode("parked");
await scene.untilReady(count + 1, 60_000);
await scene.patch("resultitynodes", "parked", { spec: { replicas: 0 } });
await scene.untilCondition("parked", "Scheduled", "False Parked");
await scene.untilQuiet(8_000);
await operator.stop();
const fleet = await recordFleet(scene);
writeFileSync(file, recordedText(fleet));
console.log(`${fleet.objects.length} objects recorded in ${file}`);
