import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { binary, type BinaryName, ensureBinaries, whyUnavailable } from "../binaries.ts";
import { TestbedError } from "../errors.ts";

/** What a real kubelet is made of: paths on this machine. */
export interface RealParts {
  readonly kubelet: string;
  readonly containerd: string;
  readonly ctr: string;
  /** Folder with `containerd-shim-runc-v2`. */
  readonly shimFolder: string;
  readonly runc: string;
  /** Folder with the CNI plugins `bridge`, `host-local` and `loopback`. */
  readonly cniPlugins: string;
}

/** What the operating system brings, or why it does not, in one line. */
export type SystemParts =
  | { readonly missing?: undefined; readonly runc: string; readonly cniPlugins: string }
  | { readonly missing: string };

const binaryNames = [
  "kubelet",
  "containerd",
  "containerd-shim-runc-v2",
  "ctr",
] as const satisfies BinaryName[];

/** Why this machine cannot run a real kubelet, in one line, or undefined if it can. Builds nothing. */
export async function whyNoRealKubelet(): Promise<string | undefined> {
  return findSystemParts(process.env["PATH"] ?? "").missing ?? (await whyUnavailable(binaryNames));
}

/**
 * Finds every part, and builds what is missing from Go modules.
 *
 * @throws TestbedError `ToolMissing` when the system lacks something; `BinaryMissing`, `BuildFailed`
 */
export async function ensureRealParts(log?: (line: string) => void): Promise<RealParts> {
  const system = findSystemParts(process.env["PATH"] ?? "");
  if (system.missing !== undefined) throw new TestbedError("ToolMissing", system.missing);
  const binaries = await ensureBinaries(binaryNames, log ? { log } : {});
  return {
    kubelet: binary(binaries, "kubelet"),
    containerd: binary(binaries, "containerd"),
    ctr: binary(binaries, "ctr"),
    shimFolder: dirname(binary(binaries, "containerd-shim-runc-v2")),
    runc: system.runc,
    cniPlugins: system.cniPlugins,
  };
}

const cniFolders = ["/usr/lib/cni", "/opt/cni/bin"];
const programs = ["unshare", "nsenter", "ip", "mount"];

/** Looks for what the distribution packages as `runc`, `containernetworking-plugins`, `iproute2` and `util-linux`. */
export function findSystemParts(path: string): SystemParts {
  if (process.platform !== "linux") return { missing: "a kubelet runs on Linux only" };
  if (process.getuid?.() !== 0) return { missing: "a kubelet needs root" };
  const onPath = (program: string) =>
    [...path.split(delimiter), "/usr/sbin", "/sbin"]
      .map((folder) => join(folder, program))
      .find(isExecutable);
  const runc = onPath("runc");
  const cniPlugins = cniFolders.find((folder) => existsSync(join(folder, "bridge")));
  const absent = programs.filter((program) => onPath(program) === undefined);
  if (!runc) absent.push("runc");
  if (!cniPlugins) absent.push("containernetworking-plugins");
  if (runc && cniPlugins && absent.length === 0) return { runc, cniPlugins };
  return { missing: `not installed: ${absent.join(", ")}` };
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
