/**
 * The system on a real kubelet: control plane, containerd, the operator's and the service's processes with the rights and
 * arguments that they have in a cluster, agents and engines in images of their own. Nothing is played.
 */
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ResultityNode } from "../../src/api/v1alpha1/node.ts";
import type { Pod } from "../../src/kube/resources.ts";
import type { Snapshot } from "../../src/protocol/config/snapshot.ts";
import type { MadeFile } from "../agent/fixture/weights.ts";
import { Authority, io, loopModel, loopSnapshot } from "../loop/authority.ts";
import { buildBundles } from "../loop/build.ts";
import { type ClientEntry, runLoad } from "../loop/load.ts";
import { type IoNode, isNodeReady } from "../loop/loop.ts";
import { bundle, repository } from "../loop/paths.ts";
import { type ControlPlane, startControlPlane } from "../testbed/control-plane.ts";
import { type KubeJson, kubeJson, type KubeObject } from "../testbed/kube-json.ts";
import { type WrittenImage, writeOciArchive } from "../testbed/oci.ts";
import { freePort } from "../testbed/ports.ts";
import { type Child, logTail } from "../testbed/processes.ts";
import { type RealKubelet, startRealKubelet } from "../testbed/real/kubelet.ts";
import { until } from "../testbed/until.ts";
import { agentSource, engineCommand, engineSource } from "./images.ts";

export const namespace = "inference";
const network = "testnet";
const account = "my-account";
/** Milliseconds between two tokens: a completion is under way long enough to be met. */
export const tokenDelayMs = 40;

/** Releases that the host has from the start. */
export type Release = "v1" | "v2";

export interface Stand extends AsyncDisposable {
  readonly bed: ControlPlane;
  readonly kube: KubeJson;
  readonly host: RealKubelet;
  /** References with digest. `engine("v3")` is of an image that no host has until {@link Stand.bringLate}. */
  readonly agentImage: (release: Release) => string;
  readonly engineImage: (release: Release | "v3") => string;
  /** Makes the image of engine v3 known to the host, as a registry that has come back would. */
  bringLate(): void;
  /** Makes an image of weights known to the host; returns its reference. */
  bringWeights(file: MadeFile): string;
  /** Publishes a config with the engine at `release`, and has the operator look at once; returns its digest. */
  publish(release: Release | "v3", change?: Partial<Snapshot>): Promise<string>;
  createNode(name: string, spec?: object): Promise<void>;
  patchNode(name: string, spec: object): Promise<unknown>;
  patchNetwork(spec: object): Promise<unknown>;
  node(name: string): Promise<ResultityNode | undefined>;
  pod(name: string): Promise<Pod | undefined>;
  prefetches(): Promise<readonly Pod[]>;
  /** Resolves when the node is Ready for its newest spec and `isSo` of it. */
  untilReady(name: string, isSo?: (node: ResultityNode) => boolean): Promise<ResultityNode>;
  /** What the service says of a node. */
  seen(node: ResultityNode | undefined): Promise<IoNode | undefined>;
  /** `count` completions at once, every second one streamed. */
  complete(count: number, maxTokens?: number): Promise<ClientEntry[]>;
  /** JSON lines that the engines of a node's pods have written, oldest first. */
  engineLines(name: string): readonly EngineLine[];
}

export interface EngineLine {
  readonly event: string;
  readonly time: number;
  readonly pid: number;
  readonly version: string;
  readonly id?: string;
  readonly weights?: string;
}

export async function startStand(log: (line: string) => void): Promise<Stand> {
  await buildBundles();
  const bed = await startControlPlane({ components: ["scheduler", "controller-manager"], log });
  try {
    return await startParts(bed, log);
  } catch (thrown) {
    await bed.stop();
    throw thrown;
  }
}

async function startParts(bed: ControlPlane, log: (line: string) => void): Promise<Stand> {
  const { processes } = bed;
  const folder = processes.folder("e2e");
  const kube = kubeJson(bed.adminKubeconfig);
  processes.onClose(() => kube.close());
  const host = await startRealKubelet({ bed, hostName: "gpu-1", gpus: 2, log });
  const [agent1, agent2, engine1, engine2] = host.importImages(
    [agentSource, engineSource].flatMap((source) => [source("v1"), source("v2")]),
  );
  const lateArchive = join(folder, "late.tar");
  const [engine3] = writeOciArchive(lateArchive, [engineSource("v3")]);
  const pinned = (image: WrittenImage | undefined): string => image?.pinned ?? "";
  const engines = { v1: pinned(engine1), v2: pinned(engine2), v3: pinned(engine3) };
  const agents = { v1: pinned(agent1), v2: pinned(agent2) };

  // Pods reach the service at the host's address on their network.
  const listen = `${host.hostIP}:${await freePort()}`;
  const ioURL = `http://${listen}`;
  const data = join(folder, "io");
  mkdirSync(data, { mode: 0o700 });
  const run = (name: "io" | "operator", args: readonly string[]): Child & { readonly logFile: string } => {
    const logFile = join(folder, `${name}.log`);
    const command = { command: process.execPath, args: [bundle(name), ...args] };
    return Object.assign(processes.spawn({ name, ...command, logFile, graceMs: 5_000 }), { logFile });
  };
  const service = run("io", ["serve", "--data", data, "--listen", listen, "--network", network]);
  await until("the IO service", async () => (await fetch(`${ioURL}/healthz`)).status > 0, {
    giveUp: service.requireRunning,
  });
  const authority = new Authority(network, folder, data);
  await authority.init();
  const accountKey = lastWord(await io(["accounts", "add", account, "--data", data]));
  const apiKey = lastWord(await io(["apikeys", "add", "someone", "--data", data]));
  const draft = (release: Release | "v3", change: Partial<Snapshot> = {}): Snapshot => {
    const snapshot = loopSnapshot(network, release);
    const runtimes = snapshot.runtimes.map((runtime) => ({
      ...runtime,
      image: engines[release],
      command: engineCommand(tokenDelayMs),
    }));
    return { ...snapshot, runtimes, ...change };
  };
  await authority.publish(draft("v1"));

  await bed.kubectlOk(["apply", "-f", join(repository, "crds")]);
  await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
  for (const file of ["10-namespace.yaml", "15-priority-class.yaml", "20-rbac.yaml"])
    await bed.kubectlOk(["apply", "-f", join(repository, "manifests/operator", file)]);
  const metrics = `127.0.0.1:${await freePort()}`;
  const kubeconfig = await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
  const operator = run("operator", ["--kubeconfig", kubeconfig, "--metrics-listen", metrics]);

  const ours = (plural: string, name = "") =>
    `/apis/resultity.com/v1alpha1/namespaces/${namespace}/${plural}${name && `/${name}`}`;
  const core = (plural: string, name = "") =>
    `/api/v1/namespaces/${namespace}/${plural}${name && `/${name}`}`;
  await kube.create("/api/v1/namespaces", { metadata: { name: namespace } });
  await kube.create(core("configmaps"), {
    metadata: { name: "root" },
    data: { "root.json": authority.root },
  });
  await kube.create(core("secrets"), {
    metadata: { name: "account" },
    stringData: { "account-key": accountKey },
  });
  await kube.create(ours("resultitynetworks"), {
    apiVersion: "resultity.com/v1alpha1",
    kind: "ResultityNetwork",
    metadata: { name: network },
    spec: {
      environment: "Testnet",
      endpoints: [ioURL],
      trust: { rootConfigMap: { name: "root" } },
      account: { id: account, secretName: "account" },
      config: { refreshIntervalSeconds: 5 },
      agent: { image: agents.v1 },
    },
  });

  let refreshIntervalSeconds = 5;
  const stand: Stand = {
    bed,
    kube,
    host,
    agentImage: (release) => agents[release],
    engineImage: (release) => engines[release],
    bringLate: () => host.importArchive(lateArchive),
    bringWeights({ path, bytes }) {
      const archive = join(folder, "weights.tar");
      const files = { [`/${path}`]: { content: bytes } };
      const reference = "registry.resultity.test/weights:v1";
      const [image] = writeOciArchive(archive, [{ reference, entrypoint: ["/none"], files }], {});
      host.importArchive(archive);
      return pinned(image);
    },
    async publish(release, change) {
      const digest = await authority.publish(draft(release, change));
      refreshIntervalSeconds = refreshIntervalSeconds === 5 ? 6 : 5;
      await stand.patchNetwork({ config: { refreshIntervalSeconds } });
      return digest;
    },
    async createNode(name, spec = {}) {
      await kube.create(ours("resultitynodes"), {
        apiVersion: "resultity.com/v1alpha1",
        kind: "ResultityNode",
        metadata: { name },
        spec: { networkRef: { name: network }, gpu: { count: 1 }, runtime: { engine: "openai" }, ...spec },
      });
    },
    patchNode: (name, spec) => kube.patch(ours("resultitynodes", name), "merge", { spec }),
    patchNetwork: (spec) => kube.patch(ours("resultitynetworks", network), "merge", { spec }),
    node: (name) => kube.get(ours("resultitynodes", name)),
    pod: (name) => kube.get(core("pods", name)),
    async prefetches() {
      const list = await kube.get<KubeObject & { readonly items: readonly Pod[] }>(
        `${core("pods")}?labelSelector=resultity.com/prefetch`,
      );
      return list?.items ?? [];
    },
    untilReady: (name, isSo = () => true) =>
      until(
        `node ${name} to be Ready`,
        async () => {
          const node = await stand.node(name);
          if (node && isNodeReady(node) && isSo(node)) return node;
          throw new Error(`${JSON.stringify(node?.status)}\n${logTail(operator.logFile)}`);
        },
        { deadlineMs: 90_000, intervalMs: 100, giveUp: operator.requireRunning },
      ),
    async seen(node) {
      const all: readonly IoNode[] = JSON.parse(await io(["nodes", "list", "--json", "--data", data]));
      return all.find(({ id }) => id === node?.status?.nodeId);
    },
    complete: (count, maxTokens = 8) =>
      runLoad({ baseURL: ioURL, apiKey, total: count, concurrency: count, maxTokens }),
    engineLines: (name) => engineLines(join(host.folder, "pods"), name),
    [Symbol.asyncDispose]: () => bed.stop(),
  };
  return stand;
}

/** The one model of the network. */
export const model = loopModel;

const lastWord = (text: string): string => text.trim().split(/\s+/).at(-1) ?? "";

/** What the runtime containers of a pod have written, by the files that the kubelet keeps while the pod is there. */
function engineLines(pods: string, name: string): EngineLine[] {
  const folders = readdirSync(pods).filter((folder) => folder.startsWith(`${namespace}_${name}_`));
  const files = folders.flatMap((folder) => {
    const runtime = join(pods, folder, "runtime");
    return readdirSync(runtime).map((file) => join(runtime, file));
  });
  const lines = files.flatMap((file) => readFileSync(file, "utf8").split("\n"));
  const parsed = lines.flatMap((line): EngineLine[] => {
    // The container runtime puts time, stream and a flag before each line.
    const text = /^\S+ stdout F (\{.*\})$/.exec(line)?.[1];
    return text === undefined ? [] : [JSON.parse(text)];
  });
  return parsed.toSorted((a, b) => a.time - b.time);
}
