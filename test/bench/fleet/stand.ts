import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import { Client } from "../../../src/kube/client.ts";
import { fromKubeconfig } from "../../../src/kube/config.ts";
import { Reflector } from "../../../src/kube/reflector.ts";
import { Transport } from "../../../src/kube/transport.ts";
import { findCondition } from "../../../src/api/v1alpha1/conditions.ts";
import { nodes, pools } from "../../../src/operator/context.ts";
import type { NetworkConfig } from "../../../src/operator/views.ts";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import { digestOf } from "../../../src/protocol/config/snapshot.ts";
import { bundle, repository } from "../../loop/paths.ts";
import { makeAuthority } from "../../operator/network/authority.ts";
import { type ScriptedIo, startScriptedIo } from "../../operator/network/scripted-io.ts";
import { makeSnapshot, random32 } from "../../protocol/network.ts";
import { type ControlPlane, startControlPlane } from "../../testbed/control-plane.ts";
import { type KubeJson, kubeJson } from "../../testbed/kube-json.ts";
import { freePort } from "../../testbed/ports.ts";
import type { Child, Supervisor } from "../../testbed/processes.ts";
import { until } from "../../testbed/until.ts";
import { asDeployed } from "../as-deployed.ts";
import { PlayedAgents } from "./agents.ts";
import { PlayedHosts } from "./hosts.ts";
import { asInPod } from "./in-pod.ts";

/** Namespace of everything that a bench makes. */
export const namespace = "fleet";
/** Id of the account at the network. */
export const account = "acme";
const ours = `/apis/resultity.com/v1alpha1/namespaces/${namespace}`;

/**
 * As it is shipped, where that matters: 20 requests a second, bursts of 30. Hosts are played and have no Node objects, so nobody may
 * look after those.
 */
const controllerManagerFlags = (asShipped: boolean): readonly string[] => [
  ...(asShipped ? ["--kube-api-qps=20", "--kube-api-burst=30"] : []),
  "--controllers=*,-node-lifecycle-controller,-pod-garbage-collector-controller",
];

/** The operator as a process of its own. */
export interface OperatorProcess {
  readonly child: Child;
  readonly logFile: string;
  /** Bytes that the API server has sent it; with TLS. */
  readonly received: () => number;
  /** Sum of a metric over its series whose labels contain all of `labels`; 0 where there is none yet. */
  metric(name: string, ...labels: readonly string[]): Promise<number>;
}

/** A control plane, a network and played hosts; the operator is started on top. */
export class FleetStand implements AsyncDisposable {
  readonly bed: ControlPlane;
  readonly kube: KubeJson;
  readonly client: Client;
  readonly hosts: PlayedHosts;
  /** All nodes as the API server has them. */
  readonly nodes: Reflector<ResultityNode>;
  readonly accountKey = random32();
  readonly #io: ScriptedIo;
  readonly #authority = makeAuthority("testnet", Date.now());
  /** Kubeconfig of the operator's ServiceAccount. */
  readonly operatorKubeconfig: string;
  readonly #stop = new AbortController();
  readonly #running: Promise<unknown>;
  readonly #ready = new Set<string>();
  readonly #applied = new Map<string, string>();
  readonly #told = new Map<string, number>();
  #operators = 0;

  private constructor(parts: {
    bed: ControlPlane;
    kube: KubeJson;
    client: Client;
    io: ScriptedIo;
    operatorKubeconfig: string;
  }) {
    const { bed, kube, client, io, operatorKubeconfig } = parts;
    this.bed = bed;
    this.kube = kube;
    this.client = client;
    this.#io = io;
    this.operatorKubeconfig = operatorKubeconfig;
    const agents = new PlayedAgents(client, io);
    this.hosts = new PlayedHosts(client, agents);
    this.nodes = new Reflector({ client, resource: nodes });
    this.nodes.handle({
      added: (node) => this.#note(node),
      updated: (node) => this.#note(node),
      deleted: ({ metadata }) => void this.#ready.delete(metadata.name),
    });
    const { signal } = this.#stop;
    this.#running = Promise.all([agents.run(signal), this.hosts.run(signal), this.nodes.run(signal)]);
  }

  /** Starts all but the operator. `asShipped`: kube-controller-manager with its own limits. */
  static async start(
    processes: Supervisor,
    { asShipped, refreshSeconds }: { readonly asShipped: boolean; readonly refreshSeconds: number },
  ): Promise<FleetStand> {
    const bed = await startControlPlane({
      components: ["controller-manager"],
      processes,
      extraArgs: { "controller-manager": controllerManagerFlags(asShipped) },
    });
    const kube = kubeJson(bed.adminKubeconfig);
    await bed.kubectlOk(["apply", "-f", join(repository, "crds")]);
    await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
    for (const file of ["10-namespace.yaml", "20-rbac.yaml"])
      await bed.kubectlOk(["apply", "-f", join(repository, "manifests/operator", file)]);
    await kube.create("/api/v1/namespaces", {
      apiVersion: "v1",
      kind: "Namespace",
      metadata: { name: namespace },
    });
    await until("the default ServiceAccount", () =>
      kube.get(`/api/v1/namespaces/${namespace}/serviceaccounts/default`),
    );
    const connection = await fromKubeconfig(bed.adminKubeconfig);
    const client = new Client(new Transport({ connection, userAgent: "played-hosts", maxInFlight: 256 }));
    const io = await startScriptedIo();
    const operatorKubeconfig = await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
    const stand = new FleetStand({ bed, kube, client, io, operatorKubeconfig });
    await stand.#network(refreshSeconds);
    return stand;
  }

  async #network(refreshIntervalSeconds: number): Promise<void> {
    const core = `/api/v1/namespaces/${namespace}`;
    await this.kube.create(`${core}/configmaps`, {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: "root" },
      data: { "root.json": this.#authority.rootText },
    });
    await this.kube.create(`${core}/secrets`, {
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "account" },
      stringData: { "account-key": this.accountKey },
    });
    this.#io.root = this.#authority.rootText;
    this.publish("v1");
    await this.kube.create(`${ours}/resultitynetworks`, {
      apiVersion: "resultity.com/v1alpha1",
      kind: "ResultityNetwork",
      metadata: { name: "testnet" },
      spec: {
        environment: "Testnet",
        endpoints: [this.#io.url],
        trust: { rootConfigMap: { name: "root" } },
        account: { id: account, secretName: "account" },
        config: { refreshIntervalSeconds },
        agent: { image: `registry.test/agent@sha256:${"1".repeat(64)}` },
      },
    });
  }

  /** What the pods of the network have in common. */
  get shared(): Pick<NetworkConfig, "root" | "endpoints"> {
    return { root: this.#authority.root, endpoints: [this.#io.url] };
  }

  /** Publishes a config with another engine image; the operator learns of it when it next asks. Returns its digest. */
  publish(version: string): ConfigDigest {
    const imageHex = digestOf(Buffer.from(version)).slice("sha256:".length);
    const snapshot = makeSnapshot("testnet", version, imageHex);
    const bytes = Buffer.from(JSON.stringify(snapshot));
    const digest = digestOf(bytes);
    this.#io.put(digest, bytes);
    this.#io.release = JSON.stringify(this.#authority.release({ snapshot, bytes, digest }));
    return digest;
  }

  /** Makes pool `chat`. @param rollingUpdate of its strategy */
  async createPool(replicas: number, rollingUpdate: object): Promise<void> {
    const template = {
      spec: { networkRef: { name: "testnet" }, gpu: { count: 1 }, runtime: { engine: "openai" } },
    };
    await this.kube.create(`${ours}/resultitynodepools`, {
      apiVersion: "resultity.com/v1alpha1",
      kind: "ResultityNodePool",
      metadata: { name: "chat" },
      spec: { replicas, template, strategy: { rollingUpdate } },
    });
  }

  async scalePool(replicas: number): Promise<void> {
    await this.client.mergePatch(pools, { namespace, name: "chat" }, { spec: { replicas } });
  }

  /** Nodes that are Ready, as everyone can read. */
  get ready(): number {
    return this.#ready.size;
  }

  /** Nodes that are Ready and run a config. */
  at(digest: string): number {
    let count = 0;
    for (const name of this.#ready) if (this.#applied.get(name) === digest) count++;
    return count;
  }

  /** Monotonic time at which the first node was told to run a config, ms; NaN = none was. */
  toldSince(digest: string): number {
    return this.#told.get(digest) ?? Number.NaN;
  }

  #note({ metadata: { name }, status }: ResultityNode): void {
    const isReady = findCondition(status?.conditions, "Ready")?.status === "True";
    if (isReady) this.#ready.add(name);
    else this.#ready.delete(name);
    this.#applied.set(name, status?.config?.applied ?? "");
    const target = status?.config?.target ?? "";
    if (!this.#told.has(target)) this.#told.set(target, performance.now());
  }

  /** Resolves when as many nodes are Ready. */
  async untilReady(count: number, deadlineMs: number, say?: (line: string) => void): Promise<void> {
    let said = performance.now();
    await until(
      `${count} Ready nodes`,
      () => {
        if (this.ready === count) return true;
        if (performance.now() - said > 15_000) {
          said = performance.now();
          say?.(`  ${this.ready} of ${count} nodes are ready`);
        }
        throw new Error(`${this.ready} are`);
      },
      { deadlineMs, giveUp: this.hosts.requireWell },
    );
  }

  /** Starts the operator's bundle as its Deployment does; resolves at once. */
  async startOperator(flags: readonly string[] = []): Promise<OperatorProcess> {
    const name = `operator-${++this.#operators}`;
    const tunnel = await openTunnel(Number(new URL(this.bed.server).port));
    const pod = asInPod(this.bed, name, tunnel.port, this.operatorKubeconfig);
    const listen = `127.0.0.1:${await freePort()}`;
    const logFile = join(this.bed.dir, `${name}.log`);
    const args = ["--metrics-listen", listen, ...pod.after];
    const deployed = asDeployed();
    const child = this.bed.processes.spawn({
      name,
      command: pod.command,
      args: [...pod.before, ...deployed.flags, ...flags, bundle("operator"), ...args],
      env: { ...pod.env, ...deployed.env },
      logFile,
      graceMs: 10_000,
    });
    void child.exited.then(() => tunnel.close());
    return {
      child,
      logFile,
      received: tunnel.received,
      async metric(metric, ...labels) {
        const answer = await fetch(`http://${listen}/metrics`).catch(() => undefined);
        const lines = (await answer?.text())?.split("\n") ?? [];
        return lines
          .filter((line) => line.startsWith(`${metric}{`) || line.startsWith(`${metric} `))
          .filter((line) => labels.every((label) => line.includes(label)))
          .reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
    await this.kube.close();
    await this.#io.stop();
    await this.bed.stop();
  }
}

/** Passes bytes between a port of loopback and another, and counts those that come back. */
async function openTunnel(target: number) {
  let received = 0;
  const server = createServer((near) => {
    const far = connect(target, "127.0.0.1");
    far.on("data", (part: Buffer) => (received += part.length));
    near.pipe(far).pipe(near);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on("error", () => undefined);
      one.once("close", () => other.destroy());
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { port, received: () => received, close: () => server.close() };
}
