/** The host's Node object and its Lease. */
import { arch, cpus, release, totalmem } from "node:os";
import { sleep } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import { isStatus } from "./api.ts";
import { gpuResource } from "./gpus.ts";
import type { Host } from "./host.ts";
import { wireTime } from "./types.ts";

/** What a host offers. */
export interface HostShape {
  readonly gpus: { readonly count: number; readonly product: string } | undefined;
  /** Beside those that every host has. */
  readonly labels: Readonly<Record<string, string>>;
  /** Beside GPUs; defaults to this machine's CPUs and memory and 110 pods. */
  readonly capacity: Readonly<Record<string, string>>;
}

const leaseSeconds = 40;
const renewMs = 10_000;
const statusMs = 60_000;
const retryMs = 1_000;

/** Registers the Node; resolves when the API server has it. Retries until `signal` aborts. */
export async function registerNode(host: Host, shape: HostShape, signal: AbortSignal): Promise<void> {
  const node = {
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name: host.name,
      labels: {
        "kubernetes.io/hostname": host.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch() === "x64" ? "amd64" : arch(),
        ...(shape.gpus
          ? { "nvidia.com/gpu.product": shape.gpus.product, "nvidia.com/gpu.present": "true" }
          : {}),
        ...shape.labels,
      },
    },
  };
  while (!signal.aborted) {
    try {
      await host.api.create("/api/v1/nodes", node, { signal }).catch(async (thrown: unknown) => {
        if (!isStatus(thrown, 409)) throw thrown;
        const labels = { metadata: { labels: node.metadata.labels } };
        await host.api.patch(`/api/v1/nodes/${host.name}`, labels, { signal });
      });
      await writeNodeStatus(host, shape, signal);
      await renewLease(host, signal);
      return;
    } catch (thrown) {
      if (isStatus(thrown, 403) || isStatus(thrown, 401) || isStatus(thrown, 422)) throw thrown;
      host.log.warn({ host: host.name, why: messageOf(thrown) }, "node not registered, trying again");
      await sleep(host.clock, retryMs, signal);
    }
  }
}

/** Keeps Lease and status of a registered Node fresh until `signal` aborts; the Lease is renewed every `leaseMs`. */
export async function keepNode(
  host: Host,
  shape: HostShape,
  signal: AbortSignal,
  leaseMs = renewMs,
): Promise<void> {
  let statusAt = host.clock.monotonic() + statusMs;
  let pause = leaseMs;
  for (;;) {
    await sleep(host.clock, pause, signal);
    if (signal.aborted) return;
    try {
      await renewLease(host, signal);
      if (host.clock.monotonic() >= statusAt || !(await isReady(host, signal))) {
        await writeNodeStatus(host, shape, signal);
        statusAt = host.clock.monotonic() + statusMs;
      }
      pause = leaseMs;
    } catch (thrown) {
      host.log.debug({ host: host.name, why: messageOf(thrown) }, "node lease not renewed, trying again");
      pause = retryMs;
    }
  }
}

interface NodeObject {
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

/** False when the control plane has missed the host meanwhile: a kubelet that lives says so at its next beat, not in a minute. */
async function isReady(host: Host, signal: AbortSignal): Promise<boolean> {
  const node = await host.api.get<NodeObject>(`/api/v1/nodes/${host.name}?resourceVersion=0`, { signal });
  return node.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") === true;
}

async function writeNodeStatus(host: Host, shape: HostShape, signal: AbortSignal): Promise<void> {
  const now = wireTime(host.clock.now());
  const capacity = {
    cpu: String(cpus().length),
    memory: `${Math.floor(totalmem() / 1024)}Ki`,
    pods: "110",
    "ephemeral-storage": "100Gi",
    ...(shape.gpus ? { [gpuResource]: String(shape.gpus.count) } : {}),
    ...shape.capacity,
  };
  const condition = (type: string, status: string, reason: string, message: string) => ({
    type,
    status,
    reason,
    message,
    lastHeartbeatTime: now,
    lastTransitionTime: now,
  });
  const status = {
    capacity,
    allocatable: capacity,
    addresses: [
      { type: "InternalIP", address: host.addresses.hostIP },
      { type: "Hostname", address: host.name },
    ],
    conditions: [
      condition(
        "MemoryPressure",
        "False",
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
      ),
      condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
      condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
      condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ],
    nodeInfo: {
      machineID: "",
      systemUUID: "",
      bootID: "",
      kernelVersion: release(),
      osImage: "process kubelet",
      containerRuntimeVersion: "process://1",
      kubeletVersion: "v1.37.0-process",
      kubeProxyVersion: "",
      operatingSystem: "linux",
      architecture: arch() === "x64" ? "amd64" : arch(),
    },
  };
  // `addresses` merges by type: after a restart on another address the old one must go.
  const patch = { status: { ...status, addresses: [...status.addresses, { $patch: "replace" }] } };
  await host.api.patch(`/api/v1/nodes/${host.name}/status`, patch, { signal });
}

async function renewLease(host: Host, signal: AbortSignal): Promise<void> {
  const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
  const spec = {
    holderIdentity: host.name,
    leaseDurationSeconds: leaseSeconds,
    renewTime: new Date(host.clock.now()).toISOString().replace("Z", "000Z"),
  };
  const body = { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata: { name: host.name }, spec };
  try {
    await host.api.patch(`${leases}/${host.name}`, { spec }, { signal });
  } catch (thrown) {
    if (!isStatus(thrown, 404)) throw thrown;
    await host.api.create(leases, body, { signal });
  }
}
