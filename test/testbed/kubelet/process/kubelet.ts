/**
 * A process kubelet: a virtual host that runs the pods bound to it as local processes, each container in mount, pid
 * and UTS namespaces of its own, on an address of its own in 127/8. For machines without a container engine. It does
 * what the real kubelet was seen to do (the suite beside this folder runs on both).
 *
 * Several hosts live in one Node process; their containers die with it, also when it gets SIGKILL. Needs Linux with
 * util-linux, and root or user namespaces (then every container runs as its root, and `runAsUser` is passed over).
 *
 * Not like the real one: all pods share the machine's network (127.0.0.1 is common to them, so engines need ports of
 * their own; Services get no endpoints, for these are refused in 127/8), CPU and memory limits are not enforced, the
 * programs of an image are this machine's, `emptyDir` with medium Memory lies on disk until the host goes down, and
 * there is no `kubectl logs` or `exec` (see `logs()`).
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Random } from "../../../../src/lib/backoff.ts";
import { type Clock, systemClock } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import { type Logger, silentLogger } from "../../../../src/lib/logger.ts";
import { HostAddresses } from "./addresses.ts";
import { Api } from "./api.ts";
import type { CrashLoopOptions } from "./crash-loop.ts";
import { PodEvents } from "./events.ts";
import { GpuSlots } from "./gpus.ts";
import type { Host } from "./host.ts";
import { HostPods, type RunningContainer } from "./host-pods.ts";
import { type ImageResolver, ImageStore } from "./images.ts";
import { isolation } from "./isolation.ts";
import { type ContainerLog, containerLogs, type PodIdentity } from "./logs.ts";
import { keepNode, registerNode } from "./node.ts";
import { boundPods, watchPods } from "./pod-watch.ts";
import { ProcessBackend } from "./process-backend.ts";

/** How to start a virtual host. */
export interface ProcessKubeletOptions {
  /** Path of a kubeconfig of user `system:node:<hostName>` in group `system:nodes`. */
  readonly kubeconfig: string;
  /** Name of the Node object. */
  readonly hostName: string;
  /** Folder of its own. Started again on the same folder, the host has been rebooted. */
  readonly dir: string;
  /** What image references stand for. */
  readonly images: ImageResolver;
  /** GPUs that the Node advertises. Default none. */
  readonly gpus?: { readonly count: number; readonly product: string };
  /** Labels and capacity of the Node beside the usual. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly capacity?: Readonly<Record<string, string>>;
  /** Waits of CrashLoopBackOff and ImagePullBackOff. Default 10 s to 300 s. */
  readonly crashLoop?: CrashLoopOptions;
  /** Milliseconds between two looks at ConfigMaps and Secrets of a pod that nobody touched. Default 60,000. */
  readonly syncPeriodMs?: number;
  /** PATH in which util-linux is looked for. Default: the usual folders alone. */
  readonly searchPath?: string;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly log?: Logger;
}

/** A running virtual host. */
export interface ProcessKubelet {
  readonly hostName: string;
  readonly hostIP: string;
  /** Containers that run now. */
  containers(): RunningContainer[];
  /** Logs of a pod that is or was on this host, oldest run first. */
  logs(pod: PodIdentity): ContainerLog[];
  /** Ends a pod for want of resources of the host: phase Failed, reason Evicted. */
  evict(pod: PodIdentity, message: string): void;
  /**
   * The host loses its power: every process gets SIGKILL at once and the API server hears nothing. Start a kubelet
   * on the same folder to boot it again.
   */
  crash(): Promise<void>;
  /** Ends everything on this machine. Objects in the API server stay as they are. Idempotent. */
  stop(): Promise<void>;
}

/**
 * Starts a virtual host; resolves when its Node is registered.
 *
 * @throws Error that says what to do when this machine cannot run one, or the API server refuses the Node
 */
export async function startProcessKubelet(options: ProcessKubeletOptions): Promise<ProcessKubelet> {
  const { hostName, dir, clock = systemClock, random = Math.random, log = silentLogger } = options;
  const ways = isolation(options.searchPath ?? "");
  for (const folder of ["run", "memory"]) rmSync(join(dir, folder), { recursive: true, force: true });
  for (const folder of ["pods", "run", "memory", "volumes"]) {
    mkdirSync(join(dir, folder), { recursive: true, mode: 0o700 });
  }
  const api = new Api(options.kubeconfig);
  const events = new PodEvents(api, hostName, clock, log);
  const addresses = new HostAddresses(dir, random);
  const host: Host = {
    name: hostName,
    api,
    clock,
    random,
    log,
    events,
    addresses,
    images: new ImageStore(options.images, clock, join(dir, "images.json")),
    gpus: new GpuSlots(options.gpus?.count ?? 0),
    backend: new ProcessBackend(dir, ways, log),
    crashLoop: options.crashLoop ?? {},
    syncPeriodMs: options.syncPeriodMs ?? 60_000,
  };
  const shape = { gpus: options.gpus, labels: options.labels ?? {}, capacity: options.capacity ?? {} };
  const closed = new AbortController();
  const pods = new HostPods(host);
  const loops: Promise<void>[] = [];

  let ending: Promise<void> | undefined;
  const end = () => {
    ending ??= (async () => {
      closed.abort();
      events.close();
      await pods.crash();
      await Promise.all(loops);
      api.close();
      addresses.release();
      for (const folder of ["run", "memory"]) rmSync(join(dir, folder), { recursive: true, force: true });
    })();
    return ending;
  };

  try {
    await registerNode(host, shape, closed.signal);
  } catch (thrown) {
    await end();
    throw new Error(
      `host ${hostName}: the API server refused its Node; is ${options.kubeconfig} of user system:node:${hostName}?`,
      { cause: thrown },
    );
  }
  const keep = (what: string, loop: Promise<void>) =>
    loops.push(
      loop.catch((thrown: unknown) => log.error({ host: hostName, why: messageOf(thrown) }, `${what} ended`)),
    );
  keep("node lease", keepNode(host, shape, closed.signal));
  keep("pod watch", watchPods(api, boundPods(hostName), pods, { clock, log }, closed.signal));

  return {
    hostName,
    hostIP: addresses.hostIP,
    containers: () => pods.containers(),
    logs: (pod) => containerLogs(dir, pod),
    evict: (pod, message) => pods.evict(pod, message),
    crash: end,
    stop: end,
  };
}
