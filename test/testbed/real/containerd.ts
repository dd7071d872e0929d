/**
 * containerd, and the namespaces in which it and all that it starts live: a PID and a mount namespace of their own.
 * When the first process of a PID namespace dies the kernel kills the rest, and a mount namespace takes its mounts
 * along: so nothing of a pod outlives its kubelet, whatever happens to the test. That is also how a host is rebooted.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { TestbedError } from "../errors.ts";
import { writeOciArchive } from "../oci.ts";
import type { Child, Supervisor } from "../processes.ts";
import { signalQuietly } from "../runs.ts";
import { until } from "../until.ts";
import type { RealParts } from "./parts.ts";
import type { Slot } from "./slot.ts";

/** A running containerd. */
export interface Containerd {
  /** CRI endpoint, `unix:///…`. */
  readonly endpoint: string;
  /** Command line that runs something in its namespaces: put the command behind it. */
  readonly enter: readonly string[];
  readonly requireRunning: () => void;
  /** Imports an archive of {@link writeOciArchive}. */
  importImages(archive: string): void;
  /** Ends it and every process and mount in its namespaces. */
  kill(): Promise<void>;
}

const pauseReference = "testbed.resultity.test/pause:v1";

/** Starts containerd over `folder`, whose content (images, containers) outlives a reboot. */
export async function startContainerd(
  processes: Supervisor,
  parts: RealParts,
  slot: Slot,
  folder: string,
): Promise<Containerd> {
  const socket = join(folder, "containerd.sock");
  const cni = join(folder, "cni");
  mkdirSync(cni, { recursive: true });
  mkdirSync(join(folder, "bin"), { recursive: true });
  writeFileSync(join(cni, "10-testbed.conflist"), JSON.stringify(networkConfig(slot, folder)));
  const config = join(folder, "containerd.toml");
  writeFileSync(
    config,
    containerdConfig({ folder, socket, cni, cniPlugins: parts.cniPlugins, runc: parts.runc }),
  );

  const child = processes.spawn({
    name: "containerd",
    command: "unshare",
    args: [...namespaces, "sh", "-c", inNamespaces, "sh", parts.containerd, "--config", config],
    // The shim is found next to containerd on the PATH.
    env: { ...process.env, PATH: `${parts.shimFolder}:${process.env["PATH"] ?? ""}` },
    logFile: join(folder, "containerd.log"),
    graceMs: 0,
  });
  const first = await until("the namespaces of containerd", () => firstProcess(child), {
    giveUp: child.requireRunning,
  });
  const ctr = (...args: string[]) =>
    execFileSync(parts.ctr, ["--address", socket, "--namespace", "k8s.io", ...args], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
  const containerd: Containerd = {
    endpoint: `unix://${socket}`,
    enter: ["nsenter", "--target", String(first), "--mount", "--pid", "--"],
    requireRunning: child.requireRunning,
    importImages(archive) {
      try {
        ctr("images", "import", archive);
      } catch (cause) {
        const why = cause instanceof Error && "stderr" in cause ? String(cause.stderr).trim() : String(cause);
        throw new TestbedError("CommandFailed", `ctr images import ${archive}: ${why}`, { cause });
      }
    },
    async kill() {
      // The first process of a PID namespace is not gone before every other is: what waits for it waits for all.
      if (child.running()) signalQuietly(first, "SIGKILL");
      await child.exited;
    },
  };
  await until("containerd", () => ctr("version"), { giveUp: child.requireRunning });
  if (!ctr("images", "list", "--quiet").includes(pauseReference)) importPause(containerd, folder);
  return containerd;
}

const namespaces = ["--pid", "--mount", "--propagation", "private", "--fork", "--kill-child", "--mount-proc"];

/**
 * First process of the namespaces: hides the host's /run and /var/log behind empty ones, since containerd, CNI and the
 * kubelet have paths there that cannot be set, and reaps what is orphaned (`wait` of a shell takes every child).
 */
const inNamespaces = `
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log || exit 70
"$@" &
wait $!`;

/** PID of the first process in the namespaces that \`child\` (unshare) made, as the host counts. */
function firstProcess(child: Child): number | undefined {
  const children = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").trim();
  return children === "" ? undefined : Number(children.split(" ")[0]);
}

/** The image that holds a pod's namespaces: a shell that waits for a signal. */
function importPause(containerd: Containerd, folder: string): void {
  const archive = join(folder, "pause.tar");
  const wait = 'trap "exit 0" TERM INT; sleep infinity & wait';
  writeOciArchive(archive, [{ reference: pauseReference, entrypoint: ["/bin/sh", "-c", wait] }], {
    "/bin/sh": "/bin/sh",
    "/bin/sleep": "/bin/sleep",
  });
  containerd.importImages(archive);
}

/** A bridge on the slot's range, without a way out of the machine. */
function networkConfig(slot: Slot, folder: string): object {
  return {
    cniVersion: "1.0.0",
    name: "testbed",
    plugins: [
      {
        type: "bridge",
        bridge: slot.bridge,
        isGateway: true,
        ipMasq: false,
        ipam: {
          type: "host-local",
          ranges: [[{ subnet: slot.subnet }]],
          routes: [{ dst: "0.0.0.0/0" }],
          dataDir: join(folder, "addresses"),
        },
      },
    ],
  };
}

interface ConfigPaths {
  readonly folder: string;
  readonly socket: string;
  readonly cni: string;
  readonly cniPlugins: string;
  readonly runc: string;
}

/**
 * `restrict_oom_score_adj`: without CAP_SYS_RESOURCE (containers, small virtual machines) runc may not lower a
 * sandbox's score and the sandbox dies at birth.
 */
function containerdConfig({ folder, socket, cni, cniPlugins, runc }: ConfigPaths): string {
  const text = (value: string) => JSON.stringify(value);
  return `version = 3
root = ${text(join(folder, "root"))}
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = ${text(socket)}
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = ${text(runc)}
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [${text(cniPlugins)}]
    conf_dir = ${text(cni)}
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = ${text(pauseReference)}
[plugins."io.containerd.internal.v1.opt"]
  path = ${text(join(folder, "bin"))}
`;
}
