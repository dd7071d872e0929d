/**
 * One world: a namespace of a real API server with one pool; the real operator before it; hosts in memory with the real agents; the
 * network as a script. Everything that may happen to it is a method here; `happenings.ts` says when.
 */
import { createHash } from "node:crypto";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../../src/api/v1alpha1/pool.ts";
import type { Transport } from "../../../src/agent/ports.ts";
import { systemClock } from "../../../src/lib/clock.ts";
import { silentLogger } from "../../../src/lib/logger.ts";
import { digestOf } from "../../../src/protocol/config/snapshot.ts";
import { makeAuthority } from "../../operator/network/authority.ts";
import { type ScriptedIo, startScriptedIo } from "../../operator/network/scripted-io.ts";
import { makeSnapshot, random32 } from "../../protocol/network.ts";
import { type Fault, type FaultProxy, startFaultProxy } from "../../testbed/fault-proxy.ts";
import type { KubeObject } from "../../testbed/kube-json.ts";
import { agentProgram } from "../../testbed/kubelet/memory/agent-program.ts";
import {
  type EngineBehaviour,
  engineProgram,
  type RunningEngine,
} from "../../testbed/kubelet/memory/engine-program.ts";
import { hostNames, type MemoryFleet, startMemoryFleet } from "../../testbed/kubelet/memory/fleet.ts";
import { isObject } from "../../testbed/kubelet/memory/json.ts";
import type { MemoryImage } from "../../testbed/kubelet/process/images.ts";
import { Api } from "../../testbed/kubelet/process/api.ts";
import { watchPods } from "../../testbed/kubelet/process/pod-watch.ts";
import { until } from "../../testbed/until.ts";
import type { Dice } from "../random.ts";
import { OperatorLife } from "./operator.ts";
import type { Stand } from "./stand.ts";
import { NetworkView } from "./view.ts";
import { Witness } from "./witness.ts";

export const poolName = "chat";
const product = "NVIDIA-H100-80GB-HBM3";
const gpu = "nvidia.com/gpu";
const agentImage = `registry.test/agent@sha256:${"1".repeat(64)}`;
const tenantImage = `registry.test/tenant@sha256:${"2".repeat(64)}`;
/** How often the world looks at what no event tells of, ms. */
const tickMs = 200;

/** How a published engine turns out. */
export type Quality = "good" | "slow" | "broken" | "unpullable";

interface PublishedEngine {
  readonly image: MemoryImage;
  readonly quality: Quality;
}

/** How large a world is. */
export interface WorldSize {
  readonly nodes: number;
  readonly gpusPerHost: number;
  /** Hosts beside those that the nodes need. */
  readonly spareHosts: number;
  readonly maxUnavailable: number;
}

interface HostObject extends KubeObject {
  readonly spec?: { readonly taints?: readonly { readonly key: string; readonly effect: string }[] };
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

/** Sessions are no part of these worlds: whoever dials hears that nobody is there. */
const noSessions: Transport = {
  dial(_url, handlers) {
    const timer = setTimeout(() => handlers.closed(1006, "no service"), 50);
    return { send: () => {}, close: () => {}, terminate: () => clearTimeout(timer), buffered: 0 };
  },
};

/** A running world. */
export class World {
  readonly namespace: string;
  readonly size: WorldSize;
  readonly stand: Stand;
  readonly dice: Dice;
  readonly fleet: MemoryFleet;
  readonly witness: Witness;
  readonly trace: string[] = [];
  operatorLives = 0;
  replicas: number;
  /** Image that all nodes are to run in the end; undefined before the first publication. */
  image = "";
  readonly #io: ScriptedIo;
  readonly #view: NetworkView;
  readonly #proxy: FaultProxy;
  readonly #authority = makeAuthority("testnet", Date.now());
  readonly #images: Map<string, PublishedEngine>;
  readonly #engines: Map<string, RunningEngine>;
  readonly #began = performance.now();
  readonly #api: Api;
  readonly #closed = new AbortController();
  readonly #loops: Promise<unknown>[] = [];
  readonly #slow: Set<string>;
  #operator: OperatorLife | undefined;
  #starting: Promise<void> = Promise.resolve();
  #releases = 0;
  #killAfterWrites: number | undefined;
  #tenants = 0;
  #edits = 0;

  private constructor(parts: {
    stand: Stand;
    dice: Dice;
    size: WorldSize;
    namespace: string;
    io: ScriptedIo;
    view: NetworkView;
    proxy: FaultProxy;
    fleet: MemoryFleet;
    images: Map<string, PublishedEngine>;
    engines: Map<string, RunningEngine>;
    slow: Set<string>;
  }) {
    const { stand, dice, size, fleet, namespace } = parts;
    this.stand = stand;
    this.dice = dice;
    this.size = size;
    this.namespace = namespace;
    this.fleet = fleet;
    this.replicas = size.nodes;
    this.#io = parts.io;
    this.#view = parts.view;
    this.#proxy = parts.proxy;
    this.#images = parts.images;
    this.#engines = parts.engines;
    this.#slow = parts.slow;
    this.witness = new Witness(fleet, (text) => this.note(text));
    this.#api = new Api(stand.bed.adminKubeconfig);
  }

  /** Makes a world on the stand, whose pool is asked for and whose operator has not begun. */
  static async make(stand: Stand, seed: number, size: WorldSize, dice: Dice): Promise<World> {
    const namespace = `seed-${seed}`;
    const io = await startScriptedIo();
    const view = new NetworkView(io);
    const proxy = await startFaultProxy(stand.bed.server, stand.bed.ca);
    const images = new Map<string, PublishedEngine>();
    const engines = new Map<string, RunningEngine>();
    const slow = new Set<string>();
    const agents: MemoryImage = {
      program: agentProgram({ transport: noSessions, onAgent: (begun) => view.agentBegan(begun) }),
      pullDelayMs: 50,
    };
    const tenant: MemoryImage = { program: (container) => ({ term: () => container.exit(0) }) };
    const hosts = Math.ceil(size.nodes / size.gpusPerHost) + size.spareHosts;
    const fleet = await startMemoryFleet({
      kubeconfig: stand.bed.adminKubeconfig,
      hosts: hostNames(`${namespace}-host`, hosts),
      gpus: { count: size.gpusPerHost, product },
      labels: { seed: String(seed) },
      leaseMs: 3_000,
      crashLoop: { scale: 0.05 },
      images(reference) {
        if (reference === agentImage) return agents;
        if (reference === tenantImage) return tenant;
        const engine = images.get(reference);
        return engine?.quality === "unpullable" ? undefined : engine?.image;
      },
    });
    return new World({ stand, dice, size, namespace, io, view, proxy, fleet, images, engines, slow });
  }

  get now(): number {
    return performance.now() - this.#began;
  }

  note(text: string): void {
    this.trace.push(`${(this.now / 1000).toFixed(2)} ${text}`);
  }

  /** Asks for everything, begins the operator, and watches from now on. */
  async begin(): Promise<void> {
    const { kube } = this.stand;
    const make = (path: string, body: object) => kube.create(path, { apiVersion: "v1", ...body });
    await make("/api/v1/namespaces", { kind: "Namespace", metadata: { name: this.namespace } });
    const data = { "root.json": this.#authority.rootText };
    await make(this.#core("configmaps"), { kind: "ConfigMap", metadata: { name: "root" }, data });
    const stringData = { "account-key": random32() };
    await make(this.#core("secrets"), { kind: "Secret", metadata: { name: "account" }, stringData });
    this.#io.root = this.#authority.rootText;
    this.publish("good");
    const ours = { apiVersion: "resultity.com/v1alpha1" };
    await make(this.#ours("resultitynetworks"), {
      ...ours,
      kind: "ResultityNetwork",
      metadata: { name: "testnet" },
      spec: {
        environment: "Testnet",
        endpoints: [this.#io.url],
        trust: { rootConfigMap: { name: "root" } },
        account: { id: "acme", secretName: "account" },
        config: { refreshIntervalSeconds: 5 },
        agent: { image: agentImage },
      },
    });
    await until("the default ServiceAccount", () => kube.get(this.#core("serviceaccounts", "default")));
    const handler = {
      all: (pods: Parameters<Witness["all"]>[0]) => this.witness.all(pods),
      changed: (pod: Parameters<Witness["changed"]>[0]) => this.witness.changed(pod),
      deleted: (pod: Parameters<Witness["gone"]>[0]) => this.witness.gone(pod),
    };
    const shared = { clock: systemClock, log: silentLogger };
    const pods = `${this.#core("pods")}?labelSelector=resultity.com/node`;
    this.#loops.push(watchPods(this.#api, pods, handler, shared, this.#closed.signal));
    const tick = setInterval(() => {
      this.#view.serve();
      this.witness.check();
    }, tickMs);
    const ping = setInterval(() => this.#view.ping(), 10_000);
    this.#closed.signal.addEventListener("abort", () => {
      clearInterval(tick);
      clearInterval(ping);
    });
    this.#proxy.fault = (asked) => this.#meddle(asked);
    this.witness.budget(this.replicas, this.size.maxUnavailable);
    await make(this.#ours("resultitynodepools"), {
      ...ours,
      kind: "ResultityNodePool",
      metadata: { name: poolName },
      spec: {
        replicas: this.replicas,
        strategy: {
          rollingUpdate: { maxUnavailable: this.size.maxUnavailable, prefetch: { maxParallel: 16 } },
        },
        template: {
          spec: {
            networkRef: { name: "testnet" },
            gpu: { count: 1 },
            runtime: { engine: "openai" },
            podOverrides: { nodeSelector: { seed: this.namespace.slice("seed-".length) } },
          },
        },
      },
    });
    this.startOperator();
    await this.#starting;
  }

  /** Kills the operator if it is to die at this write; its answer never comes. */
  #meddle(asked: { readonly write: boolean; readonly resource: string }): Fault | undefined {
    if (!asked.write || asked.resource === "events") return undefined;
    const request = asked as Parameters<Witness["wrote"]>[0];
    let isLast = false;
    if (this.#killAfterWrites !== undefined && --this.#killAfterWrites <= 0) {
      this.#killAfterWrites = undefined;
      isLast = true;
    }
    return {
      do: "judge",
      judge: (status) => {
        if (status < 300) this.witness.wrote(request);
        if (!isLast) return "pass";
        this.killOperator();
        return "lose";
      },
    };
  }

  // --- what happens ---

  /** The network publishes a new config with an engine of its own image. */
  publish(quality: Quality): void {
    const version = `v${++this.#releases}`;
    const hex = createHash("sha256").update(`${this.namespace} ${version}`).digest("hex");
    const image = `registry.test/engine@sha256:${hex}`;
    const behaviour = (pod: { readonly name: string }): EngineBehaviour => ({
      startMs: quality === "slow" || this.#slow.has(pod.name) ? 4_000 : 300,
      mode: quality === "broken" ? "hang" : "ok",
    });
    const program = engineProgram({
      version,
      behaviour,
      onEngine: (pod, engine) => this.#engines.set(pod.name, engine),
    });
    this.#images.set(image, { image: { program, pullDelayMs: 300 }, quality });
    const snapshot = makeSnapshot("testnet", version, hex);
    const bytes = Buffer.from(JSON.stringify(snapshot));
    const digest = digestOf(bytes);
    this.#io.put(digest, bytes);
    this.#io.release = JSON.stringify(this.#authority.release({ snapshot, bytes, digest }));
    this.image = image;
    this.note(`network publishes ${version}, whose engine is ${quality}`);
  }

  async scale(replicas: number): Promise<void> {
    this.note(`pool is scaled from ${this.replicas} to ${replicas}`);
    // Before: the operator may hear of it before the answer is here. The smaller budget is the one in force meanwhile.
    const after = () => this.witness.budget(replicas, this.size.maxUnavailable);
    if (replicas < this.replicas) after();
    await this.stand.kube.patch(this.#ours("resultitynodepools", poolName), "merge", { spec: { replicas } });
    if (replicas >= this.replicas) after();
    this.replicas = replicas;
  }

  /** The pool's owner changes what only new pods can have. */
  async editTemplate(): Promise<void> {
    const value = String(++this.#edits);
    this.note(`pool's template is edited: pods are to have EDIT=${value}`);
    const template = { spec: { runtime: { engine: "openai", env: [{ name: "EDIT", value }] } } };
    await this.stand.kube.patch(this.#ours("resultitynodepools", poolName), "merge", { spec: { template } });
  }

  startOperator(): void {
    const begin = async () => {
      if (this.#operator || this.#closed.signal.aborted) return;
      this.operatorLives++;
      this.note(`operator begins, life ${this.operatorLives}`);
      const { operator } = this.stand;
      const onLine = (line: string) => this.#operatorSays(line);
      this.#operator = await OperatorLife.begin(operator, this.#proxy, this.namespace, onLine);
    };
    this.#starting = this.#starting.then(begin);
  }

  /** What the operator does, and why, is part of the story; how it goes about it is not. */
  #operatorSays(line: string): void {
    const said: unknown = JSON.parse(line);
    if (!isObject(said)) return;
    const { msg, level, node, object, action, reason, why } = said;
    const isWarning = typeof level === "number" && level >= 40;
    if (isWarning) this.note(`  operator warns: ${String(msg)} ${typeof why === "string" ? why : ""}`);
    else if (msg === "node: acting" || msg === "pool action")
      this.note(`  operator: ${String(node ?? object)} ${String(action)}: ${String(reason)}`);
  }

  killOperator(): void {
    const operator = this.#operator;
    this.#operator = undefined;
    if (!operator) return;
    this.note("operator is killed");
    this.#loops.push(operator.kill());
  }

  /** The operator dies right after this many more writes, before it hears of the last. */
  killOperatorAfter(writes: number): void {
    this.#killAfterWrites = writes;
  }

  /** SIGKILL to a container of a node. */
  killContainer(node: string, container: "agent" | "runtime"): void {
    this.#fault(node, `its ${container} container is killed`);
    this.fleet.container(this.namespace, node, container)?.kill();
  }

  crashEngine(node: string): void {
    this.#fault(node, "its engine crashes");
    this.#engines.get(node)?.crash();
  }

  /** From now on, or no more, the node's engine takes long to start. */
  slowEngine(node: string, is: boolean): void {
    if (is) this.#slow.add(node);
    else this.#slow.delete(node);
  }

  /** Somebody deletes the node's pod by hand. */
  async deletePod(node: string): Promise<void> {
    this.#fault(node, "its pod is deleted by hand");
    await this.stand.kube.delete(this.#core("pods", node)).catch(() => undefined);
  }

  /** Its host runs out of something, and ends the pod. */
  evictPod(node: string): void {
    const running = this.fleet.container(this.namespace, node, "agent");
    if (!running) return;
    this.#fault(node, "its host evicts it");
    this.fleet
      .host(running.host)
      .evict({ namespace: this.namespace, name: node }, "The node was low on memory.");
  }

  async crashHost(host: string): Promise<void> {
    for (const node of this.#nodesOn(host)) this.#fault(node, `its host ${host} loses its power`);
    await this.fleet.host(host).crash();
  }

  async bootHost(host: string): Promise<void> {
    this.note(`${host} boots`);
    await this.fleet.host(host).boot();
  }

  /** Takes all pods from a host by a taint, or lets them come again. */
  async taint(host: string, is: boolean): Promise<void> {
    for (const node of is ? this.#nodesOn(host) : []) this.#fault(node, `its host ${host} is tainted`);
    // The list is one value to the API server: others' taints, which it drops, come back from who keeps them.
    const taints = is ? [{ key: "maintenance", value: "now", effect: "NoExecute" }] : null;
    await this.stand.kube.patch(`/api/v1/nodes/${host}`, "merge", { spec: { taints } });
  }

  /** A tenant of higher priority wants a GPU of one host, where all may be taken. Returns what ends it. */
  async tenant(host: string): Promise<() => Promise<void>> {
    for (const node of this.#nodesOn(host)) this.#fault(node, `a tenant wants a GPU of its host ${host}`);
    const name = `tenant-${++this.#tenants}`;
    const resources = { limits: { [gpu]: "1" }, requests: { [gpu]: "1" } };
    await this.stand.kube.create(this.#core("pods"), {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name },
      spec: {
        priorityClassName: "tenant",
        automountServiceAccountToken: false,
        terminationGracePeriodSeconds: 1,
        nodeSelector: { "kubernetes.io/hostname": host },
        containers: [{ name: "main", image: tenantImage, resources }],
      },
    });
    return async () => {
      this.note(`${name} leaves`);
      await this.stand.kube.delete(this.#core("pods", name)).catch(() => undefined);
    };
  }

  /** The operator's watches break. */
  cutWatches(): void {
    this.note("the operator's watches break");
    this.#proxy.cutWatches();
  }

  #fault(node: string, what: string): void {
    this.note(`${node}: ${what}`);
    this.witness.fault(node);
  }

  #nodesOn(host: string): string[] {
    return this.witness.pods.flatMap(({ spec, metadata }) =>
      spec.nodeName === host && metadata.labels?.["resultity.com/node"] ? [metadata.name] : [],
    );
  }

  // --- what there is ---

  pool(): Promise<ResultityNodePool | undefined> {
    return this.stand.kube.get<ResultityNodePool>(this.#ours("resultitynodepools", poolName));
  }

  async nodes(): Promise<readonly ResultityNode[]> {
    const list = await this.stand.kube.get<KubeObject & { readonly items: readonly ResultityNode[] }>(
      this.#ours("resultitynodes"),
    );
    return list?.items ?? [];
  }

  /** What keeps pods from hosts, for the report of a failure. */
  async hostTroubles(): Promise<readonly string[]> {
    const all = await Promise.all(
      this.fleet.hosts.map(async ({ name, up }) => {
        const node = await this.stand.kube.get<HostObject>(`/api/v1/nodes/${name}`);
        const ready = node?.status?.conditions?.find(({ type }) => type === "Ready");
        const taints = node?.spec?.taints?.map(({ key, effect }) => `${key}:${effect}`) ?? [];
        const isWell = up && taints.length === 0 && ready?.status === "True";
        return isWell ? [] : [`${name} is ${up ? "up" : "off"}, Ready ${ready?.status}, ${taints.join(" ")}`];
      }),
    );
    return all.flat();
  }

  /** Writes of the operator that the API server took: not its events. */
  get writes(): readonly string[] {
    return this.#proxy
      .accepted()
      .filter(({ resource }) => resource !== "events" && resource !== "leases")
      .map(({ method, resource, name }) => `${method} ${resource} ${name}`);
  }

  /** Ends all of it, and removes it from the API server. */
  async end(): Promise<void> {
    this.#closed.abort();
    await this.#starting;
    this.killOperator();
    await this.fleet.stop();
    await Promise.all(this.#loops);
    this.#api.close();
    await this.#proxy[Symbol.asyncDispose]();
    await this.#io.stop();
    const { kube } = this.stand;
    for (const { name } of this.fleet.hosts)
      await kube.delete(`/api/v1/nodes/${name}`).catch(() => undefined);
    await kube.delete(`/api/v1/namespaces/${this.namespace}`).catch(() => undefined);
  }

  #core(plural: string, name?: string): string {
    return `/api/v1/namespaces/${this.namespace}/${plural}${name === undefined ? "" : `/${name}`}`;
  }

  #ours(plural: string, name?: string): string {
    const group = `/apis/resultity.com/v1alpha1/namespaces/${this.namespace}`;
    return `${group}/${plural}${name === undefined ? "" : `/${name}`}`;
  }
}
