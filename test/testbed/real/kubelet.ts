/**
 * A real kubelet with containerd, as a host of the test bed's control plane. Pods have addresses on a bridge of this
 * machine only. What a pod runs must be imported first: there is no registry.
 */
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ControlPlane } from "../control-plane.ts";
import { kubeJson, type KubeObject } from "../kube-json.ts";
import { type ImageSource, type WrittenImage, writeOciArchive } from "../oci.ts";
import type { Child } from "../processes.ts";
import { until } from "../until.ts";
import { type Containerd, startContainerd } from "./containerd.ts";
import { ensureRealParts, type RealParts } from "./parts.ts";
import { claimSlot, type Slot } from "./slot.ts";

/** What to start. */
export interface RealKubeletOptions {
  /** The control plane that it joins, and under whose supervisor it runs. */
  readonly bed: ControlPlane;
  /** Name of its Node object. */
  readonly hostName: string;
  /** `nvidia.com/gpu` in the Node's capacity, by status patch. Default 0. */
  readonly gpus?: number;
  /** Labels that the Node registers with. Those of `kubernetes.io/` that a kubelet may not set are refused. */
  readonly labels?: Readonly<Record<string, string>>;
  /** Told how a build goes, where the binaries have to be built. Default: nobody. */
  readonly log?: (line: string) => void;
}

/** A running host. */
export interface RealKubelet {
  readonly hostName: string;
  /** The host's address on the pods' network: what a test serves there, pods reach. */
  readonly hostIP: string;
  /** Folder with `kubelet.log`, `containerd.log` and the containers' output under `pods/`. */
  readonly folder: string;
  /** Writes images and makes them known to this host. */
  importImages(images: readonly ImageSource[]): WrittenImage[];
  /** Makes a written archive known to this host. */
  importArchive(path: string): void;
  /** Kills every process of the host at once and starts it again over the same disk, as a power cut does. */
  reboot(): Promise<void>;
  /** Ends the host with all its pods; the API server is not told. Idempotent. */
  stop(): Promise<void>;
}

/**
 * Starts the host and waits until its Node is ready and has its GPUs. {@link whyNoRealKubelet} tells beforehand
 * whether this machine can.
 *
 * @throws TestbedError `ToolMissing`, `ProcessFailed` with the end of the log, `NotReady` after 60 s
 */
export async function startRealKubelet(options: RealKubeletOptions): Promise<RealKubelet> {
  const { bed, hostName } = options;
  const { processes } = bed;
  const parts = await ensureRealParts(options.log);
  const kubeconfig = bed.kubeconfigForUser(`system:node:${hostName}`, ["system:nodes"]);
  const folder = processes.folder("host");
  // Processes in pods run as other users, and reach hostPath and emptyDir volumes through it.
  chmodSync(folder, 0o755);
  const slot = await claimSlot();
  let running: { containerd: Containerd; kubelet: Child } | undefined;
  let archives = 0;

  const start = async () => {
    const containerd = await startContainerd(processes, parts, slot, folder);
    const kubelet = spawnKubelet({ ...options, kubeconfig, parts, slot, containerd, folder });
    running = { containerd, kubelet };
    await becomeReady(options, kubelet);
  };
  const kill = async () => {
    const { containerd, kubelet } = running ?? {};
    running = undefined;
    await containerd?.kill();
    await kubelet?.stop();
  };
  let stopping: Promise<void> | undefined;
  const stop = () => {
    stopping ??= kill().then(() => slot.release());
    return stopping;
  };
  processes.onClose(stop);
  await start();

  const importArchive = (path: string) => running?.containerd.importImages(path);
  return {
    hostName,
    hostIP: slot.gateway,
    folder,
    importArchive,
    importImages(images) {
      const archive = join(folder, `images-${archives++}.tar`);
      const written = writeOciArchive(archive, images);
      importArchive(archive);
      return written;
    },
    async reboot() {
      await kill();
      await start();
    },
    stop,
  };
}

interface SpawnInput extends RealKubeletOptions {
  readonly kubeconfig: string;
  readonly parts: RealParts;
  readonly slot: Slot;
  readonly containerd: Containerd;
  readonly folder: string;
}

function spawnKubelet(input: SpawnInput): Child {
  const { bed, parts, hostName, kubeconfig, labels = {}, slot, containerd, folder } = input;
  const ca = join(folder, "client-ca.pem");
  writeFileSync(ca, bed.ca);
  for (const each of ["kubelet", "certificates", "pods", "plugins"])
    mkdirSync(join(folder, each), { recursive: true });
  const config = join(folder, "kubelet.json");
  writeFileSync(config, JSON.stringify(kubeletConfig({ slot, containerd, folder, ca }), null, 1));
  const [command = "nsenter", ...enter] = containerd.enter;
  return bed.processes.spawn({
    name: `kubelet ${hostName}`,
    command,
    args: [
      ...enter,
      parts.kubelet,
      `--config=${config}`,
      `--kubeconfig=${kubeconfig}`,
      `--root-dir=${join(folder, "kubelet")}`,
      `--cert-dir=${join(folder, "certificates")}`,
      `--hostname-override=${hostName}`,
      `--node-ip=${slot.gateway}`,
      `--node-labels=${Object.entries(labels)
        .map(([name, value]) => `${name}=${value}`)
        .join(",")}`,
      "--v=2",
    ],
    env: { ...process.env, PATH: `${parts.shimFolder}:${process.env["PATH"] ?? ""}` },
    logFile: join(folder, "kubelet.log"),
    graceMs: 0,
  });
}

interface ConfigInput {
  readonly slot: Slot;
  readonly containerd: Containerd;
  readonly folder: string;
  readonly ca: string;
}

function kubeletConfig({ slot, containerd, folder, ca }: ConfigInput): object {
  return {
    apiVersion: "kubelet.config.k8s.io/v1beta1",
    kind: "KubeletConfiguration",
    containerRuntimeEndpoint: containerd.endpoint,
    address: slot.gateway,
    // The address is the slot's own, so the usual port is free.
    port: 10_250,
    readOnlyPort: 0,
    healthzPort: 0,
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: false },
      x509: { clientCAFile: ca },
    },
    // On a bridge that only this machine reaches, and only with a certificate of the bed's own authority.
    authorization: { mode: "AlwaysAllow" },
    cgroupDriver: "cgroupfs",
    cgroupRoot: slot.cgroup,
    cgroupsPerQOS: true,
    enforceNodeAllocatable: [],
    failCgroupV1: false,
    failSwapOn: false,
    localStorageCapacityIsolation: false,
    makeIPTablesUtilChains: false,
    podLogsDir: join(folder, "pods"),
    volumePluginDir: join(folder, "plugins"),
    resolvConf: "",
    serializeImagePulls: false,
    // The disk and memory of a shared machine say nothing about the tests' pods.
    evictionHard: { "memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%" },
    imageGCHighThresholdPercent: 100,
    nodeStatusUpdateFrequency: "2s",
    maxPods: 100,
  };
}

interface NodeObject extends KubeObject {
  readonly status?: {
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly message?: string;
      readonly lastHeartbeatTime?: string;
    }[];
    readonly allocatable?: Readonly<Record<string, string>>;
  };
}

const gpu = "nvidia.com/gpu";

/** Waits for the Node's Ready condition of this start, and advertises GPUs until they stick. */
async function becomeReady({ bed, hostName, gpus = 0 }: RealKubeletOptions, kubelet: Child): Promise<void> {
  const api = kubeJson(bed.adminKubeconfig);
  const path = `/api/v1/nodes/${hostName}`;
  // What an earlier start left in the status does not count. Its times have whole seconds.
  const started = Math.floor(Date.now() / 1_000) * 1_000;
  try {
    await until(
      `host ${hostName} to be ready`,
      async () => {
        const node = await api.get<NodeObject>(path);
        const ready = node?.status?.conditions?.find((condition) => condition.type === "Ready");
        if (ready?.status !== "True") throw new Error(ready?.message ?? "no Node yet");
        if (Date.parse(ready.lastHeartbeatTime ?? "") < started) return false;
        if (Number(node?.status?.allocatable?.[gpu] ?? 0) === gpus) return true;
        const amounts = { [gpu]: String(gpus) };
        await api.patch(`${path}/status`, "merge", { status: { capacity: amounts, allocatable: amounts } });
        return false;
      },
      { deadlineMs: 60_000, intervalMs: 100, giveUp: kubelet.requireRunning },
    );
  } finally {
    await api.close();
  }
}
