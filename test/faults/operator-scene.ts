/**
 * A namespace with everything that the operator needs, each part real but for hosts, agents and the network, which are played:
 * pods are "run" by writing what a kubelet would, agents answer over HTTP with the key of their identity Secret, and the
 * IO service is a script. So a create, a roll, a scaling and a deletion go by themselves, in seconds.
 */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { pino } from "pino";
import { parse } from "yaml";
import type { ResultityNetwork } from "../../src/api/v1alpha1/network.ts";
import type { ResultityNode } from "../../src/api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../src/api/v1alpha1/pool.ts";
import { rfc3339 } from "../../src/api/v1alpha1/conditions.ts";
import { Client } from "../../src/kube/client.ts";
import { fromKubeconfig } from "../../src/kube/config.ts";
import { EventRecorder } from "../../src/kube/events.ts";
import { runReflectors } from "../../src/kube/reflector.ts";
import type { Pod, Secret } from "../../src/kube/resources.ts";
import { Transport } from "../../src/kube/transport.ts";
import { systemClock } from "../../src/lib/clock.ts";
import type { Logger } from "../../src/lib/logger.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { makeCaches, type OperatorContext } from "../../src/operator/context.ts";
import { networkController } from "../../src/operator/network/controller.ts";
import { nodeController } from "../../src/operator/node/controller.ts";
import { poolController } from "../../src/operator/pool/controller.ts";
import { Fleet, NetworkConfigs } from "../../src/operator/views.ts";
import { digestOf } from "../../src/protocol/config/snapshot.ts";
import { desiredAnnotation, parseDesired } from "../../src/protocol/desired.ts";
import type { FeedNode } from "../../src/protocol/feed.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { importPrivateKey, type PrivateJwk, type SigningKey } from "../../src/protocol/keys.ts";
import { agentPort, type AgentStatus, sealStatus } from "../../src/protocol/status.ts";
import { bundle } from "../loop/paths.ts";
import { makeAuthority, type TestAuthority } from "../operator/network/authority.ts";
import { type ScriptedIo, startScriptedIo } from "../operator/network/scripted-io.ts";
import { makeSnapshot, random32 } from "../protocol/network.ts";
import { type ControlPlane, type OptionalComponent, startControlPlane } from "../testbed/control-plane.ts";
import { type FaultProxy, startFaultProxy } from "../testbed/fault-proxy.ts";
import { type KubeJson, kubeJson, type KubeObject } from "../testbed/kube-json.ts";
import { writeKubeconfig } from "../testbed/kubeconfig.ts";
import type { Child } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const repository = join(import.meta.dirname, "../..");
const group = "/apis/resultity.com/v1alpha1/namespaces";
const host = "host-1";

/** One API server for all scenes of a file. */
export interface Stand extends AsyncDisposable {
  readonly bed: ControlPlane;
  readonly kube: KubeJson;
  /** Kubeconfig of the operator's ServiceAccount. */
  readonly operator: string;
}

/** Starts a control plane with the CRDs, the operator's RBAC and one host. @param more components beside the usual ones. */
export async function startStand(more: readonly OptionalComponent[] = []): Promise<Stand> {
  const bed = await startControlPlane({ components: ["controller-manager", ...more] });
  const kube = kubeJson(bed.adminKubeconfig);
  await bed.kubectlOk(["apply", "-f", join(repository, "crds")]);
  await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
  for (const file of ["10-namespace.yaml", "20-rbac.yaml"])
    await bed.kubectlOk(["apply", "-f", join(repository, "manifests/operator", file)]);
  await kube.create("/api/v1/nodes", { apiVersion: "v1", kind: "Node", metadata: { name: host } });
  const allocatable = { cpu: "64", memory: "256Gi", pods: "250" };
  await kube.patch(`/api/v1/nodes/${host}/status`, "strategic", {
    status: { capacity: allocatable, allocatable },
  });
  const beat = async () => {
    const lastHeartbeatTime = new Date().toISOString();
    const ready = { type: "Ready", status: "True", reason: "Played", message: "", lastHeartbeatTime };
    await kube.patch(`/api/v1/nodes/${host}/status`, "strategic", { status: { conditions: [ready] } });
  };
  await beat();
  const beating = setInterval(() => void beat().catch(() => undefined), 5_000);
  return {
    bed,
    kube,
    operator: await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator"),
    async [Symbol.asyncDispose]() {
      clearInterval(beating);
      await kube.close();
      await bed.stop();
    },
  };
}

/** The operator in this process, without election: three controllers over the proxy of its scene. */
export interface RunningOperator {
  readonly context: OperatorContext;
  readonly metrics: Metrics;
  /** Lines of its log, as JSON. */
  readonly log: readonly string[];
  /** Ends it without a goodbye: what is under way is aborted. */
  stop(): Promise<void>;
}

/** Makes a namespace with a network that is published at version `v1`, and plays hosts and agents there. */
export async function startScene(stand: Stand, name: string): Promise<Scene> {
  const scene = await emptyScene(stand, name, await startScriptedIo());
  await scene.begin();
  return scene;
}

/** A scene in which nothing is yet, nor played: {@link Scene.begin} or {@link Scene.play} comes next. */
export async function emptyScene(stand: Stand, name: string, io: ScriptedIo): Promise<Scene> {
  return new Scene(stand, name, io, await startFaultProxy(stand.bed.server, stand.bed.ca));
}

/** The operator as a process of its own. */
export type OperatorProcess = Child & { readonly logFile: string };

interface Owned extends KubeObject {
  readonly metadata: KubeObject["metadata"] & {
    readonly ownerReferences?: readonly { readonly kind: string; readonly name: string }[];
  };
}

interface HasConditions {
  readonly status?:
    | { readonly conditions?: readonly { type: string; status: string; reason: string }[] | undefined }
    | undefined;
}

/** How a scene's hosts treat a pod. */
export type Treatment = "run" | "ignore";

export class Scene implements AsyncDisposable {
  readonly namespace: string;
  readonly stand: Stand;
  readonly io: ScriptedIo;
  readonly proxy: FaultProxy;
  readonly authority: TestAuthority = makeAuthority("testnet", Date.now());
  /** What hosts do with each pod. Default: run it. */
  treat: (pod: Pod) => Treatment = () => "run";
  /** Which host a pod comes to where no scheduler runs. */
  hostOf: (pod: Pod) => string = () => host;
  /** What the agent of a node says in place of that all is well; undefined = it does not answer. */
  says: (node: string, status: AgentStatus) => AgentStatus | undefined = (_, status) => status;
  /** Whether hosts can give a running pod another size; those that cannot do not say what its containers have. */
  resizes = true;
  /** What agents say of their hosts' disks; undefined = nothing, as old ones do. */
  imageDisk: { readonly free: number; readonly total: number } | undefined;
  readonly #agents = new Map<string, Server>();
  readonly #feedLines = new Map<string, FeedNode>();
  readonly #operators = new Set<RunningOperator>();
  readonly #processes: Child[] = [];
  readonly #stop = new AbortController();
  #feedsServed = 0;
  #octet = 200 + Math.floor(Math.random() * 50);
  #nextIp = Math.floor(Math.random() * 60_000);
  #playing: Promise<void> = Promise.resolve();

  constructor(stand: Stand, name: string, io: ScriptedIo, proxy: FaultProxy) {
    this.stand = stand;
    this.namespace = name;
    this.io = io;
    this.proxy = proxy;
  }

  get #kube(): KubeJson {
    return this.stand.kube;
  }

  async begin(): Promise<void> {
    const { namespace, authority, io } = this;
    const make = (path: string, body: object) => this.#kube.create(path, body);
    await make("/api/v1/namespaces", { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
    const data = { "root.json": authority.rootText };
    await make(this.core("configmaps"), {
      kind: "ConfigMap",
      apiVersion: "v1",
      metadata: { name: "root" },
      data,
    });
    const stringData = { "account-key": random32() };
    const account = { kind: "Secret", apiVersion: "v1", metadata: { name: "account" }, stringData };
    await make(this.core("secrets"), account);
    io.root = authority.rootText;
    this.publish("v1");
    await make(this.path("resultitynetworks"), {
      apiVersion: "resultity.com/v1alpha1",
      kind: "ResultityNetwork",
      metadata: { name: "testnet" },
      spec: {
        environment: "Testnet",
        endpoints: [io.url],
        trust: { rootConfigMap: { name: "root" } },
        account: { id: "acme", secretName: "account" },
        config: { refreshIntervalSeconds: 5 },
        agent: { image: `registry.test/agent@sha256:${"1".repeat(64)}` },
      },
    });
    await this.play();
  }

  /** Plays hosts and agents from now on. @param told what the network says of its nodes from the beginning. */
  async play(told: readonly FeedNode[] = []): Promise<void> {
    for (const line of told) this.#feedLines.set(line.node_id, line);
    await until("the default ServiceAccount", () =>
      this.#kube.get(`${this.core("serviceaccounts")}/default`),
    );
    this.#playing = this.#play();
  }

  /** What the network says of its nodes. */
  get told(): readonly FeedNode[] {
    return [...this.#feedLines.values()];
  }

  /** Path of a kind of ours in the namespace, or of one object. */
  path(plural: string, name?: string): string {
    return `${group}/${this.namespace}/${plural}${name === undefined ? "" : `/${name}`}`;
  }
  core(plural: string, name?: string): string {
    return `/api/v1/namespaces/${this.namespace}/${plural}${name === undefined ? "" : `/${name}`}`;
  }

  /** Publishes a config whose engine is at `version`; returns its digest. The operator asks every 5 s. */
  publish(version: string): ConfigDigest {
    const imageHex = digestOf(Buffer.from(version)).slice("sha256:".length);
    const snapshot = makeSnapshot("testnet", version, imageHex);
    const bytes = Buffer.from(JSON.stringify(snapshot));
    const digest = digestOf(bytes);
    this.io.put(digest, bytes);
    this.io.release = JSON.stringify(this.authority.release({ snapshot, bytes, digest }));
    return digest;
  }

  /** The operator's own, over the scene's proxy. @param as kubeconfig; default its ServiceAccount's. */
  async startOperator(as = this.stand.operator): Promise<RunningOperator> {
    const clock = systemClock;
    const metrics = new Metrics();
    const log: string[] = [];
    const logger: Logger = pino({ level: "debug" }, { write: (line: string) => void log.push(line) });
    const connection = {
      ...(await fromKubeconfig(as)),
      server: new URL(this.proxy.server),
      tls: () => Promise.resolve({ ca: this.proxy.ca }),
    };
    const transport = new Transport({ connection, userAgent: "resultity-operator", clock, logger, metrics });
    const client = new Client(transport);
    const shared = { client, clock, random: Math.random, logger, metrics };
    const instance = `test-${randomBytes(4).toString("hex")}`;
    const events = new EventRecorder({ ...shared, controller: "resultity.com/operator", instance });
    const context: OperatorContext = {
      ...shared,
      events,
      caches: makeCaches(shared, [this.namespace]),
      configs: new NetworkConfigs(),
      fleet: new Fleet(),
    };
    const stop = new AbortController();
    const running = Promise.all([
      runReflectors(Object.values(context.caches), stop.signal),
      networkController(context).run(stop.signal),
      nodeController(context).run(stop.signal),
      poolController(context).run(stop.signal),
    ]);
    const operator: RunningOperator = {
      context,
      metrics,
      log,
      stop: async () => {
        this.#operators.delete(operator);
        stop.abort();
        await running;
        transport.close();
      },
    };
    this.#operators.add(operator);
    return operator;
  }

  /**
   * The operator as a process, over `proxy`; its log is `<name>.log` in the bed's folder.
   *
   * @param flags beside those that say where things are.
   */
  startProcess(name: string, flags: readonly string[], proxy = this.proxy): OperatorProcess {
    const { bed, operator } = this.stand;
    const file = join(bed.dir, `${name}.kubeconfig`);
    const { users }: { users: readonly { user: { token: string } }[] } = parse(
      readFileSync(operator, "utf8"),
    );
    const credentials = { token: users[0]?.user.token ?? "" };
    writeKubeconfig(file, { server: proxy.server, ca: proxy.ca, user: "operator", credentials });
    const where = [
      "--kubeconfig",
      file,
      "--watch-namespaces",
      this.namespace,
      "--metrics-listen",
      "127.0.0.1:0",
    ];
    const logFile = join(bed.dir, `${name}.log`);
    const args = [bundle("operator"), ...where, ...flags];
    const child = bed.processes.spawn({ name, command: process.execPath, args, logFile, graceMs: 0 });
    this.#processes.push(child);
    return Object.assign(child, { logFile });
  }

  /**
   * Everything that the operator has made or said here, without what differs from run to run: times, UIDs, addresses,
   * revisions.
   */
  async picture(): Promise<unknown> {
    const [network, pool, nodes, pods] = await Promise.all([
      this.network(),
      this.pool("chat"),
      this.nodes(),
      this.list<Pod>(this.core("pods")),
    ]);
    const others = await Promise.all(
      [this.core("secrets"), this.core("configmaps"), this.budgets].map((path) => this.list<Owned>(path)),
    );
    const conditions = (object: HasConditions | undefined) =>
      (object?.status?.conditions ?? []).map(({ type, status, reason }) => `${type}=${status} ${reason}`);
    return {
      network: [network?.status?.config?.digest, network?.status?.nodes, conditions(network)],
      pool: pool && {
        rollout: [pool.status?.rollout?.target, pool.status?.rollout?.updated],
        counts: [pool.status?.replicas, pool.status?.availableReplicas, pool.status?.updatedReplicas],
        conditions: conditions(pool),
      },
      nodes: nodes.map((node) => ({
        name: node.metadata.name,
        spec: node.spec,
        config: node.status?.config,
        conditions: conditions(node),
      })),
      pods: pods.map(({ metadata, spec }) => {
        const orders = metadata.annotations?.[desiredAnnotation];
        const { stage, target, plannedStop } = orders ? parseDesired(orders) : {};
        const images = [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])].map(
          ({ image }) => image,
        );
        return { name: metadata.name, images, orders: [stage, target, plannedStop] };
      }),
      others: others
        .flat()
        .map(({ metadata }) => [
          metadata.name,
          ...(metadata.ownerReferences ?? []).map(({ kind, name }) => `${kind} ${name}`),
        ]),
    };
  }

  get budgets(): string {
    return `/apis/policy/v1/namespaces/${this.namespace}/poddisruptionbudgets`;
  }

  async createPool(name: string, replicas: number, spec: object = {}): Promise<void> {
    const template = {
      spec: { networkRef: { name: "testnet" }, gpu: { count: 0 }, runtime: { engine: "openai" } },
    };
    await this.#kube.create(this.path("resultitynodepools"), {
      apiVersion: "resultity.com/v1alpha1",
      kind: "ResultityNodePool",
      metadata: { name },
      spec: { replicas, template, ...spec },
    });
  }

  async createNode(name: string, spec: object = {}): Promise<void> {
    const basic = { networkRef: { name: "testnet" }, gpu: { count: 0 }, runtime: { engine: "openai" } };
    await this.#kube.create(this.path("resultitynodes"), {
      apiVersion: "resultity.com/v1alpha1",
      kind: "ResultityNode",
      metadata: { name },
      spec: { ...basic, ...spec },
    });
  }

  patch(plural: string, name: string, body: object): Promise<KubeObject> {
    return this.#kube.patch(this.path(plural, name), "merge", body);
  }
  scale(pool: string, replicas: number): Promise<KubeObject> {
    return this.patch("resultitynodepools", pool, { spec: { replicas } });
  }
  network(): Promise<ResultityNetwork | undefined> {
    return this.#kube.get(this.path("resultitynetworks", "testnet"));
  }
  pool(name: string): Promise<ResultityNodePool | undefined> {
    return this.#kube.get(this.path("resultitynodepools", name));
  }
  node(name: string): Promise<ResultityNode | undefined> {
    return this.#kube.get(this.path("resultitynodes", name));
  }
  pod(name: string): Promise<Pod | undefined> {
    return this.#kube.get(this.core("pods", name));
  }
  nodes(): Promise<readonly ResultityNode[]> {
    return this.list(this.path("resultitynodes"));
  }
  /** Pods of nodes. */
  async pods(): Promise<readonly Pod[]> {
    const all = await this.list<Pod>(this.core("pods"));
    return all.filter(({ metadata }) => metadata.labels?.["resultity.com/prefetch"] === undefined);
  }
  async list<T extends KubeObject>(path: string): Promise<readonly T[]> {
    return (await this.#kube.get<KubeObject & { items: readonly T[] }>(path))?.items ?? [];
  }

  /** Resolves when exactly `count` nodes exist and are Ready for their newest spec. */
  async untilReady(count: number, deadlineMs = 60_000): Promise<void> {
    await until(
      `${count} Ready nodes`,
      async () => {
        const nodes = await this.nodes();
        const ready = nodes.filter((node) => conditionOf(node, "Ready") === "True AllWell");
        const newest = ready.filter(
          ({ status, metadata }) => status?.observedGeneration === metadata.generation,
        );
        if (nodes.length === count && newest.length === count) return true;
        throw new Error(JSON.stringify(nodes.map((node) => [node.metadata.name, node.status?.conditions])));
      },
      { deadlineMs },
    );
  }

  async untilCondition(
    name: string,
    type: string,
    wanted: string,
    deadlineMs = 60_000,
  ): Promise<ResultityNode> {
    return until(
      `${name} ${type}=${wanted}`,
      async () => {
        const seen = await this.node(name);
        if (seen && conditionOf(seen, type) === wanted) return seen;
        throw new Error(JSON.stringify(seen?.status?.conditions ?? seen?.status));
      },
      { deadlineMs },
    );
  }

  /** Resolves when the operator has asked for nothing to be written for `ms`, accepted or not. */
  async untilQuiet(ms = 1_500): Promise<void> {
    const writes = () => this.proxy.log.filter(({ write }) => write).length;
    let [count, since] = [writes(), performance.now()];
    await until("the operator to have nothing to write", () => {
      if (writes() !== count) [count, since] = [writes(), performance.now()];
      return performance.now() - since > ms;
    });
  }

  /** Objects that were created more than once, or deleted, by name; `[]` is what is hoped for. */
  madeTwice(): string[] {
    const made = this.proxy
      .accepted()
      .filter(({ method, resource }) => method === "POST" && resource !== "events")
      .map(({ resource, body }) => `${resource} ${nameIn(body)}`);
    return made.filter((what, at) => made.indexOf(what) !== at);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#playing;
    for (const operator of this.#operators) await operator.stop();
    for (const child of this.#processes) await child.stop();
    for (const agent of this.#agents.values()) agent.close();
    await this.proxy[Symbol.asyncDispose]();
    await this.io.stop();
  }

  /** Hosts and network: looks at what there is, and does what they would. */
  async #play(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        for (const pod of await this.list<Pod>(this.core("pods"))) {
          if (this.treat(pod) === "run") await this.#host(pod);
        }
      } catch {
        // Somebody else was faster; the next look shows what there is.
      }
      for (; this.#feedsServed < this.io.feeds.length; this.#feedsServed++) {
        const feed = this.io.feeds[this.#feedsServed];
        for (const line of this.#feedLines.values()) feed?.line(line);
        feed?.line({ type: "synced" });
      }
      await wait(60);
    }
  }

  async #host(pod: Pod): Promise<void> {
    const { name } = pod.metadata;
    if (pod.metadata.deletionTimestamp !== undefined) {
      await this.#kube.delete(this.core("pods", name), 0);
      return;
    }
    if (pod.status?.phase === "Failed" || pod.status?.phase === "Succeeded") return;
    if (!pod.spec?.nodeName) {
      await this.#kube.create(`${this.core("pods", name)}/binding`, {
        apiVersion: "v1",
        kind: "Binding",
        metadata: { name },
        target: { apiVersion: "v1", kind: "Node", name: this.hostOf(pod) },
      });
      return;
    }
    const has = ({ image, resources = {} }: { image?: string; resources?: object }) =>
      this.resizes ? [image, resources] : image;
    const wanted = [...(pod.spec.initContainers ?? []), ...pod.spec.containers].map(has);
    const running = [
      ...(pod.status?.initContainerStatuses ?? []),
      ...(pod.status?.containerStatuses ?? []),
    ].map(has);
    if (JSON.stringify(wanted) === JSON.stringify(running)) return;
    const ip =
      pod.status?.podIP ?? `127.${this.#octet}.${(this.#nextIp >> 8) % 250}.${1 + (this.#nextIp++ % 250)}`;
    if (pod.metadata.labels?.["resultity.com/node"] !== undefined) await this.#agent(ip, name);
    const status = (container: { name: string; image?: string; resources?: object }) => ({
      ...(this.resizes ? { resources: container.resources ?? {} } : {}),
      name: container.name,
      image: container.image ?? "",
      imageID: container.image ?? "",
      ready: true,
      started: true,
      restartCount: 0,
      state: { running: { startedAt: rfc3339(Date.now()) } },
    });
    await this.#kube.patch(`${this.core("pods", name)}/status`, "merge", {
      status: {
        phase: "Running",
        podIP: ip,
        podIPs: [{ ip }],
        conditions: [
          { type: "PodScheduled", status: "True" },
          { type: "Ready", status: "True" },
          ...(pod.status?.conditions ?? []).filter(({ type }) => type.startsWith("PodResize")),
        ],
        initContainerStatuses: (pod.spec.initContainers ?? []).map(status),
        containerStatuses: pod.spec.containers.map(status),
      },
    });
  }

  /** The agent of a pod: listens, and is registered with the network. */
  async #agent(ip: string, node: string): Promise<void> {
    if (this.#agents.has(ip)) return;
    const server = createServer((request, response) => {
      const nonce = new URL(request.url ?? "/", "http://x").searchParams.get("nonce") ?? "";
      this.#status(node, nonce).then(
        (body) => response.end(body),
        (error: unknown) => response.writeHead(500).end(String(error)),
      );
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(agentPort, ip, resolve);
    });
    this.#agents.set(ip, server);
    const { kid } = await this.#keyOf(node);
    const line: FeedNode = {
      type: "node",
      node_id: kid as unknown as FeedNode["node_id"],
      kid,
      connected: true,
      since: Date.now(),
      epoch: 1,
      deprioritised_until: null,
      banned: null,
      generation: 0,
      revoked: false,
      conflict: null,
      config_applied: null,
      models_active: ["tiny"],
      jobs_committed: 0,
      work: { config: null, completed: 0, failed: 0, duration_ms: 0 },
    };
    this.#feedLines.set(line.node_id, line);
    for (const feed of this.io.feeds.slice(0, this.#feedsServed)) feed.line(line);
  }

  /** The network says something else of a node from now on. */
  async tell(node: string, changes: Partial<FeedNode>): Promise<void> {
    const { kid } = await this.#keyOf(node);
    const before = this.#feedLines.get(kid);
    if (!before) throw new Error(`the network does not know ${node}`);
    const line = { ...before, ...changes };
    this.#feedLines.set(kid, line);
    for (const feed of this.io.feeds.slice(0, this.#feedsServed)) feed.line(line);
  }

  async #keyOf(node: string): Promise<SigningKey> {
    const name = (await this.node(node))?.spec.identity?.secretName ?? `${node}-identity`;
    const secret = await this.#kube.get<Secret>(this.core("secrets", name));
    const jwk: PrivateJwk = JSON.parse(Buffer.from(secret?.data?.["key.jwk"] ?? "", "base64").toString());
    return importPrivateKey(jwk);
  }

  async #status(node: string, nonce: string): Promise<string> {
    const pod = await this.pod(node);
    const key = await this.#keyOf(node);
    const desired = parseDesired(pod?.metadata.annotations?.[desiredAnnotation] ?? "");
    const status: AgentStatus = {
      nonce,
      time: Date.now(),
      node_id: key.kid as unknown as AgentStatus["node_id"],
      instance: "A".repeat(22),
      desired_revision: desired.revision,
      report: {
        agent_version: "0.1.0",
        engine: { type: "openai", version: "1.0", image: null, health: "healthy" },
        hardware: { cpus: 1, memory_mib: 1, gpus: [] },
        config: {
          applied: desired.target,
          target: desired.target,
          staged: desired.stage,
          release_sequence: 1,
        },
        models: { installed: ["tiny"], active: ["tiny"] },
        load: { slots: 1, active: 0, accepting: true },
        subclouds: [],
      },
      ...(this.imageDisk ? { image_disk: this.imageDisk } : {}),
      config_error: null,
      drain: { state: "serving", jobs: 0, since: null },
      session: { connected: true, since: null, epoch: 1, last_error: null },
    };
    const said = this.says(node, status);
    if (!said) throw new Error("the agent is silent");
    return sealStatus(said, key);
  }
}

/** `True AllWell`. */
export function conditionOf(object: HasConditions, type: string): string | undefined {
  const found = object.status?.conditions?.find((one) => one.type === type);
  return found && `${found.status} ${found.reason}`;
}

/** Name of the object in the body of a create. */
export function nameIn(body: string): string {
  const draft: { metadata?: { name?: string } } = JSON.parse(body);
  return draft.metadata?.name ?? "";
}
