/**
 * The kubelet's second backend: hosts whose containers live in this process, for hundreds and thousands of our pods
 * before a real API server. It is the process kubelet in all that is a kubelet's business (`../process`: pod plan, probes, hooks,
 * back-offs, status, GPUs, volumes' content); only what a container is made of differs. Agents are the real ones of `src/agent`
 * and listen on their pod's address, so an operator and an IO service in other processes meet them as they would real ones.
 *
 * ```ts
 * const bed = await startControlPlane({ components: ["scheduler", "controller-manager"] });
 * const engine = engineProgram({ version: "v1", behaviour: (pod) => ({ startMs: 2_000, tokenDelayMs: 20 }) });
 * const agents = agentProgram();                                    // real agents; one shared program for all pods
 * const fleet = await startMemoryFleet({
 *   kubeconfig: bed.adminKubeconfig,                                // one client for all hosts, of cluster-admin's rights
 *   hosts: hostNames("gpu-host", 200),
 *   gpus: { count: 1, product: "NVIDIA-H100-80GB-HBM3" },
 *   images: (reference) => (isAgent(reference) ? { program: agents } : isEngine(reference) ? { program: engine } : undefined),
 * });                                                               // an image that resolves to undefined cannot be pulled
 * fleet.container("inference", "chat-7", "agent")?.kill();          // SIGKILL; the kubelet starts it again
 * await fleet.host("gpu-host-3").crash();                           // power cut: nothing written, Lease not renewed
 * await fleet.host("gpu-host-3").boot();                            // its pods run again, or are cleaned up
 * await fleet.stop();
 * ```
 *
 * Start-up is quick: 200 pods need about as many Secret GETs and five status writes each. With "controller-manager" a host
 * that crashed becomes NotReady after its grace period (`extraArgs: {"controller-manager": ["--node-monitor-grace-period=…"]}`)
 * and loses its pods after 300 s more, as anywhere. Not like the real one: no commands in containers (exec probes fail),
 * no CPU or memory limits, no users, no weights of models; engines are on no network but their own pod's.
 */
import type { Random } from "../../../../src/lib/backoff.ts";
import { type Clock, systemClock } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import { type Logger, silentLogger } from "../../../../src/lib/logger.ts";
import { Api } from "../process/api.ts";
import type { CrashLoopOptions } from "../process/crash-loop.ts";
import { boundPods, watchPods } from "../process/pod-watch.ts";
import type { Pod } from "../process/types.ts";
import { FleetAddresses } from "./addresses.ts";
import { type FleetShared, type KillableContainer, MemoryHost, type MemoryImageResolver } from "./host.ts";

/** How to start a fleet of hosts. */
export interface MemoryFleetOptions {
  /** Path of a kubeconfig that may read pods, Secrets and ConfigMaps everywhere, and write Nodes, Leases, Events and pods' status. */
  readonly kubeconfig: string;
  /** Names of the Node objects. */
  readonly hosts: readonly string[];
  /** What image references stand for. */
  readonly images: MemoryImageResolver;
  /** GPUs that each Node advertises. Default none. */
  readonly gpus?: { readonly count: number; readonly product: string };
  /** Labels and capacity of the Nodes beside the usual. Default capacity: 64 CPUs, 512 GiB, 110 pods. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly capacity?: Readonly<Record<string, string>>;
  /** Waits of CrashLoopBackOff and ImagePullBackOff. Default 10 s to 300 s. */
  readonly crashLoop?: CrashLoopOptions;
  /** Milliseconds between two looks at ConfigMaps and Secrets of a pod that nobody touched. Default 60,000. */
  readonly syncPeriodMs?: number;
  /** Milliseconds between two renewals of a host's Lease. Default 10,000. */
  readonly leaseMs?: number;
  /** Which events are written. Default warnings. */
  readonly events?: "all" | "warnings";
  readonly clock?: Clock;
  readonly random?: Random;
  readonly log?: Logger;
}

/** Running hosts. */
export interface MemoryFleet extends AsyncDisposable {
  readonly hosts: readonly MemoryHost[];
  /** @throws Error when the fleet has no host of that name */
  host(name: string): MemoryHost;
  /** Containers that run now. */
  containers(): KillableContainer[];
  /** A running container of a pod; undefined while there is none. */
  container(namespace: string, pod: string, container: string): KillableContainer | undefined;
  /** Ends everything in this process. Objects in the API server stay as they are. Idempotent. */
  stop(): Promise<void>;
}

/** `<prefix>-1` to `<prefix>-<count>`. */
export function hostNames(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, at) => `${prefix}-${at + 1}`);
}

const atOnce = 16;
const maxConnections = 16;

/**
 * Starts the hosts; resolves when their Nodes are registered.
 *
 * @throws ApiError when the API server refuses a Node
 */
export async function startMemoryFleet(options: MemoryFleetOptions): Promise<MemoryFleet> {
  const { clock = systemClock, random = Math.random, log = silentLogger } = options;
  const api = new Api(options.kubeconfig, { maxConnections });
  const pods = new Map<string, Map<string, Pod>>(options.hosts.map((name) => [name, new Map()]));
  const addresses = new FleetAddresses(random);
  const shared: FleetShared = {
    api,
    clock,
    random,
    log,
    images: options.images,
    crashLoop: options.crashLoop ?? {},
    syncPeriodMs: options.syncPeriodMs ?? 60_000,
    leaseMs: options.leaseMs ?? 10_000,
    events: options.events ?? "warnings",
    shape: {
      gpus: options.gpus,
      labels: options.labels ?? {},
      capacity: { cpu: "64", memory: "512Gi", ...options.capacity },
    },
    podsOf: (name) => [...(pods.get(name)?.values() ?? [])],
  };
  const hosts = options.hosts.map((name) => new MemoryHost(name, addresses.host(), shared));
  const byName = new Map(hosts.map((host) => [host.name, host]));
  const closed = new AbortController();
  /** One watch for all hosts: each hears of its own pods. */
  const handler = {
    all(listed: readonly Pod[]) {
      for (const own of pods.values()) own.clear();
      for (const pod of listed) pods.get(pod.spec.nodeName ?? "")?.set(pod.metadata.uid, pod);
      for (const host of hosts) host.all(shared.podsOf(host.name));
    },
    changed(pod: Pod) {
      const name = pod.spec.nodeName ?? "";
      pods.get(name)?.set(pod.metadata.uid, pod);
      byName.get(name)?.changed(pod);
    },
    deleted(pod: Pod) {
      const name = pod.spec.nodeName ?? "";
      pods.get(name)?.delete(pod.metadata.uid);
      byName.get(name)?.deleted(pod);
    },
  };
  let watching: Promise<void> = Promise.resolve();
  let ending: Promise<void> | undefined;
  const stop = () => {
    ending ??= (async () => {
      closed.abort();
      await Promise.all(hosts.map((host) => host.crash()));
      await watching;
      api.close();
    })();
    return ending;
  };
  try {
    const queue = [...hosts];
    const boot = async () => {
      for (let host = queue.shift(); host; host = queue.shift()) await host.boot();
    };
    await Promise.all(Array.from({ length: atOnce }, boot));
  } catch (thrown) {
    await stop();
    throw thrown;
  }
  watching = watchPods(api, boundPods(), handler, { clock, log }, closed.signal).catch((thrown: unknown) =>
    log.error({ why: messageOf(thrown) }, "pod watch ended"),
  );
  const containers = () => hosts.flatMap((host) => host.containers());
  return {
    hosts,
    host(name) {
      const host = byName.get(name);
      if (!host) throw new Error(`the fleet has no host ${name}`);
      return host;
    },
    containers,
    container: (namespace, pod, name) =>
      containers().find(
        (each) => each.namespace === namespace && each.pod === pod && each.container === name,
      ),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}
