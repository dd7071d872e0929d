import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, join } from "node:path";

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
