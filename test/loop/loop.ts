/**
 * The whole system on one machine, every joint real: a control plane, hosts that run pods as processes, the IO service, the
 * operator with its ServiceAccount's rights, and the network's keys. Used by the demo and by the tests of the whole.
 *
 * ```ts
 * await using loop = await startLoop({ hosts: 2 });
 * await loop.applySamples({ replicas: 3 });
 * await loop.untilReady(3);
 * const entries = await runLoad({ baseURL: loop.ioURL, apiKey: loop.apiKey, total: 20, concurrency: 4, maxTokens: 16 });
 * ```
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import type { ResultityNetwork } from "../../src/api/v1alpha1/network.ts";
import type { ResultityNode } from "../../src/api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../src/api/v1alpha1/pool.ts";
import { type ControlPlane, type ControlPlaneOptions, startControlPlane } from "../testbed/control-plane.ts";
import { type KubeJson, kubeJson, type KubeObject } from "../testbed/kube-json.ts";
import type { EngineBehaviour } from "../testbed/kubelet/memory/engine-program.ts";
import { hostNames, type MemoryFleet, startMemoryFleet } from "../testbed/kubelet/memory/fleet.ts";
import type { MemoryPod } from "../testbed/kubelet/memory/pod.ts";
import { type ProcessKubelet, startProcessKubelet } from "../testbed/kubelet/process/kubelet.ts";
import { freePort } from "../testbed/ports.ts";
import { type Child, logTail } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";
import { Authority, io, loopSnapshot } from "./authority.ts";
import { agentImage, memoryImages, resolveImage } from "./images.ts";
import { bundle, repository } from "./paths.ts";

export const namespace = "inference";
export const poolName = "chat";
export const networkName = "testnet";
/** Account of the nodes: what they do is receipted to it. */
export const account = "my-account";
const gpuProduct = "NVIDIA-H100-80GB-HBM3";

export interface LoopOptions {
  /** Virtual hosts. Default 2; 0 for who brings hosts of another kind. */
  readonly hosts?: number;
  /** More flags of the control plane. */
  readonly extraArgs?: NonNullable<ControlPlaneOptions["extraArgs"]>;
  /** GPUs of each host. Default 4. */
  readonly gpusPerHost?: number;
  /** What the hosts say that they have beside GPUs. Default: what this machine has. */
  readonly hostCapacity?: Readonly<Record<string, string>>;
  /** Milliseconds between two tokens of the engine. Default 20. */
  readonly tokenDelayMs?: number;
  /** Jobs at once on a node. Default 8. */
  readonly maxJobs?: number;
  /**
   * Hosts with containers in memory, for pods by the hundred: then `hosts` of the loop is empty and `fleet` is there.
   * `behaviour` says how engines do, anew at each start and request.
   */
  readonly inMemory?: { readonly behaviour?: (pod: MemoryPod) => EngineBehaviour };
  readonly log?: (line: string) => void;
}

/** What a test wants of the samples. */
export interface SampleOptions {
  readonly replicas: number;
  readonly pool?: Readonly<Record<string, unknown>>;
}

/** The running system. */
export interface Loop extends AsyncDisposable {
  readonly bed: ControlPlane;
  readonly kube: KubeJson;
  readonly authority: Authority;
  readonly ioURL: string;
  readonly apiKey: string;
  /** Folder of the IO service's data; its log is `io.log` beside it. */
  readonly ioData: string;
  /** Digest of the config that is published at the start. */
  readonly firstDigest: string;
  readonly hosts: readonly VirtualHost[];
  /** The hosts, when they are in memory. */
  readonly fleet: MemoryFleet | undefined;
  readonly io: Service;
  readonly operator: Service;
  /**
   * Applies `manifests/samples` with this machine's endpoint, root, account and images, and `replicas` nodes in the pool, of
   * whose spec `pool` sets further fields by their paths with dots.
   */
  applySamples(options: SampleOptions): Promise<void>;
  scale(replicas: number): Promise<void>;
  pool(): Promise<ResultityNodePool | undefined>;
  network(): Promise<ResultityNetwork | undefined>;
  nodes(): Promise<readonly ResultityNode[]>;
  /** The nodes' pods. */
  pods(): Promise<readonly PodObject[]>;
  /** Pods that bring images to hosts. */
  prefetches(): Promise<readonly PodObject[]>;
  /** Resolves when exactly `count` nodes exist and all are Ready. */
  untilReady(count: number, deadlineMs?: number): Promise<readonly ResultityNode[]>;
  /** Publishes a snapshot with the engine at `release`; returns the digest. */
  publish(release: string): Promise<string>;
  /** What `io nodes list --json` and `io jobs list --json` print. */
  ioNodes(): Promise<readonly IoNode[]>;
  ioJobs(): Promise<readonly IoJob[]>;
  stop(): Promise<void>;
}

/** A pod as the loop reads it. */
export interface PodObject extends KubeObject {
  readonly metadata: KubeObject["metadata"] & { readonly uid: string };
  readonly spec: { readonly nodeName?: string };
  readonly status?: {
    readonly podIP?: string;
    readonly conditions?: readonly { type: string; status: string }[];
    readonly initContainerStatuses?: readonly { name: string; restartCount: number; image: string }[];
    readonly containerStatuses?: readonly { name: string; restartCount: number; image: string }[];
  };
}

/** A line of `io nodes list --json`. */
export interface IoNode {
  readonly id: string;
  readonly connected: boolean;
  readonly epoch: number;
}

/** A line of `io jobs list --json`. */
export interface IoJob {
  readonly id: string;
  readonly state: string;
  readonly attempt: number;
  /** Id of the node of the last attempt. */
  readonly node: string | null;
}

/** A process of ours that a test may kill and start again with the same arguments. */
export class Service {
  readonly #start: () => Child;
  child: Child;

  constructor(start: () => Child) {
    this.#start = start;
    this.child = start();
  }

  async kill(): Promise<void> {
    this.child.signal("SIGKILL");
    await this.child.exited;
  }

  async restart(): Promise<void> {
    if (this.child.running()) await this.kill();
    this.child = this.#start();
  }
}

/** A host that can lose its power and come back. */
export class VirtualHost {
  readonly name: string;
  readonly dir: string;
  readonly #boot: () => Promise<ProcessKubelet>;
  kubelet: ProcessKubelet;

  constructor(name: string, dir: string, boot: () => Promise<ProcessKubelet>, kubelet: ProcessKubelet) {
    this.name = name;
    this.dir = dir;
    this.#boot = boot;
    this.kubelet = kubelet;
  }

  async reboot(): Promise<void> {
    await this.kubelet.crash();
    this.kubelet = await this.#boot();
  }
}

/** Starts everything and publishes a first config; the samples are not applied yet. */
export async function startLoop(options: LoopOptions = {}): Promise<Loop> {
  for (const name of ["io", "operator", "agent"] as const) {
    if (!existsSync(bundle(name)))
      throw new Error(`dist/${name}.mjs is missing: run \`npm run build\` first`);
  }
  const { log = () => {} } = options;
  const bed = await startControlPlane({
    components: ["scheduler", "controller-manager"],
    log,
    extraArgs: options.extraArgs ?? {},
  });
  try {
    return await startParts(bed, options, log);
  } catch (thrown) {
    await bed.stop();
    throw thrown;
  }
}

async function startParts(
  bed: ControlPlane,
  options: LoopOptions,
  log: (line: string) => void,
): Promise<Loop> {
  const { tokenDelayMs = 20, maxJobs = 8 } = options;
  const { processes } = bed;
  const folder = processes.folder("loop");
  const kube = kubeJson(bed.adminKubeconfig);
  processes.onClose(() => kube.close());

  log("IO service");
  const ioData = join(folder, "io");
  mkdirSync(ioData, { mode: 0o700 });
  const port = await freePort();
  const ioURL = `http://127.0.0.1:${port}`;
  const run = (name: "io" | "operator", args: readonly string[]) =>
    new Service(() =>
      processes.spawn({
        name,
        command: process.execPath,
        args: [bundle(name), ...args],
        logFile: join(folder, `${name}.log`),
        graceMs: 10_000,
      }),
    );
  const service = run("io", [
    "serve",
    "--data",
    ioData,
    "--listen",
    `127.0.0.1:${port}`,
    "--network",
    networkName,
    "--audience",
    ioURL,
  ]);
  const logged = (name: string) => () => {
    const child = name === "io" ? service.child : operator.child;
    if (!child.running()) throw new Error(`${name} has ended: ${logTail(join(folder, `${name}.log`))}`);
  };
  // It answers, if only that it has no root yet.
  await until("the IO service", async () => (await fetch(`${ioURL}/healthz`)).status > 0, {
    giveUp: logged("io"),
  });
  const authority = new Authority(networkName, folder, ioData);
  await authority.init();
  const accountKey = lastWord(await io(["accounts", "add", account, "--data", ioData]));
  const apiKey = lastWord(await io(["apikeys", "add", "demo-client", "--data", ioData]));
  const publish = (release: string) =>
    authority.publish(loopSnapshot(networkName, release, { tokenDelayMs, maxJobs }));
  const firstDigest = await publish("v1");

  log("CRDs and the operator");
  await bed.kubectlOk(["apply", "-f", join(repository, "crds")]);
  await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
  for (const file of ["10-namespace.yaml", "15-priority-class.yaml", "20-rbac.yaml"]) {
    await bed.kubectlOk(["apply", "-f", join(repository, "manifests/operator", file)]);
  }
  const kubeconfig = await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
  const operator = run("operator", [
    "--kubeconfig",
    kubeconfig,
    "--metrics-listen",
    `127.0.0.1:${await freePort()}`,
  ]);

  log("hosts");
  const names = hostNames("gpu-host", options.hosts ?? 2);
  const gpus = { count: options.gpusPerHost ?? 4, product: gpuProduct };
  const behaviour = (pod: MemoryPod) => ({ tokenDelayMs, ...options.inMemory?.behaviour?.(pod) });
  const fleet = options.inMemory
    ? await startMemoryFleet({
        kubeconfig: bed.adminKubeconfig,
        hosts: names,
        images: memoryImages(behaviour),
        gpus,
      })
    : undefined;
  if (fleet) processes.onClose(() => fleet.stop());
  const hosts = await Promise.all(
    (fleet ? [] : names).map(async (name) => {
      const dir = join(folder, name);
      mkdirSync(dir);
      const boot = () =>
        startProcessKubelet({
          kubeconfig: bed.kubeconfigForUser(`system:node:${name}`, ["system:nodes"]),
          hostName: name,
          dir,
          images: resolveImage,
          gpus,
          capacity: options.hostCapacity ?? {},
        });
      return new VirtualHost(name, dir, boot, await boot());
    }),
  );
  for (const host of hosts) processes.onClose(() => host.kubelet.stop());

  const root = "/apis/resultity.com/v1alpha1/namespaces";
  const path = (plural: string, name?: string) =>
    `${root}/${namespace}/${plural}${name === undefined ? "" : `/${name}`}`;
  const listOf = async <T extends KubeObject>(where: string): Promise<readonly T[]> => {
    const list = await kube.get<KubeObject & { readonly items: readonly T[] }>(where);
    return list?.items ?? [];
  };
  const loop: Loop = {
    bed,
    kube,
    authority,
    ioURL,
    apiKey,
    ioData,
    firstDigest,
    hosts,
    fleet,
    io: service,
    operator,
    publish,
    applySamples: (samples) => applySamples(bed, { ...samples, ioURL, accountKey, root: authority.root }),
    async scale(replicas) {
      await bed.kubectlOk(["-n", namespace, "scale", "rpool", poolName, `--replicas=${replicas}`]);
    },
    pool: () => kube.get<ResultityNodePool>(path("resultitynodepools", poolName)),
    network: () => kube.get<ResultityNetwork>(path("resultitynetworks", networkName)),
    nodes: () => listOf<ResultityNode>(path("resultitynodes")),
    pods: () => listOf<PodObject>(`/api/v1/namespaces/${namespace}/pods?labelSelector=resultity.com/node`),
    prefetches: () =>
      listOf<PodObject>(`/api/v1/namespaces/${namespace}/pods?labelSelector=resultity.com/prefetch`),
    untilReady: (count, deadlineMs = 90_000) =>
      until(
        `${count} Ready nodes`,
        async () => {
          const nodes = await loop.nodes();
          const ready = nodes.filter(isNodeReady);
          if (nodes.length === count && ready.length === count) return nodes;
          const why = nodes.filter((node) => !isNodeReady(node)).map(whyNot);
          throw new Error(
            `${ready.length} of ${nodes.length} nodes are Ready; ${why.join("; ").slice(0, 600)}`,
          );
        },
        { deadlineMs, intervalMs: 200, giveUp: logged("operator") },
      ),
    ioNodes: async () =>
      JSON.parse(await io(["nodes", "list", "--json", "--data", ioData])) as readonly IoNode[],
    ioJobs: async () =>
      JSON.parse(
        await io(["jobs", "list", "--json", "--limit", "10000", "--data", ioData]),
      ) as readonly IoJob[],
    stop: () => bed.stop(),
    [Symbol.asyncDispose]: () => bed.stop(),
  };
  return loop;
}

const lastWord = (text: string): string => text.trim().split(/\s+/).at(-1) ?? "";

/** True when the node's condition Ready is True for its newest spec. */
export function isNodeReady(node: ResultityNode): boolean {
  const ready = node.status?.conditions?.find(({ type }) => type === "Ready");
  return ready?.status === "True" && ready.observedGeneration === node.metadata.generation;
}

function whyNot(node: ResultityNode): string {
  const ready = node.status?.conditions?.find(({ type }) => type === "Ready");
  return `${node.metadata.name}: ${ready ? `${ready.reason}, ${ready.message}` : "no condition Ready"}`;
}

/**
 * The samples as a user applies them after filling in what is theirs. The engine becomes the test engine, the weights' cache an
 * emptyDir, and the sample of a single node is left out.
 */
async function applySamples(
  bed: ControlPlane,
  {
    replicas,
    pool: fields = {},
    ioURL,
    accountKey,
    root,
  }: SampleOptions & { readonly ioURL: string; readonly accountKey: string; readonly root: string },
): Promise<void> {
  const sample = (name: string) => readFileSync(join(repository, "manifests/samples", name), "utf8");
  const apply = (text: string) => bed.kubectlOk(["apply", "-f", "-"], { stdin: text });
  await apply(sample("10-namespace.yaml"));
  const inputs = [
    {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: "testnet-root", namespace },
      data: { "root.json": root },
    },
    {
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "testnet-account", namespace },
      stringData: { "account-key": accountKey },
    },
  ];
  for (const input of inputs) await apply(JSON.stringify(input));
  const [network] = parseAllDocuments(sample("20-network.yaml"));
  network?.setIn(["spec", "endpoints"], [ioURL]);
  network?.setIn(["spec", "account", "id"], account);
  network?.setIn(["spec", "agent", "image"], agentImage());
  network?.setIn(["spec", "config"], { refreshIntervalSeconds: 5 });
  await apply(String(network));
  const [pool] = parseAllDocuments(sample("30-pool.yaml"));
  pool?.setIn(["spec", "replicas"], replicas);
  pool?.setIn(["spec", "template", "spec", "runtime"], { engine: "openai" });
  pool?.deleteIn(["spec", "template", "spec", "modelCache"]);
  for (const [path, value] of Object.entries(fields)) pool?.setIn(["spec", ...path.split(".")], value);
  await apply(String(pool));
}
