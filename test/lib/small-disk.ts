import { spawnSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Supervisor } from "../testbed/processes.ts";

const { getuid, getgid } = process;

/** Runs a command as root, or through sudo where that asks for no password. Gives why it failed. */
function asRoot(...command: readonly string[]): string | undefined {
  const [name = "", ...args] = getuid?.() === 0 ? command : ["sudo", "-n", ...command];
  const { status, error, stderr } = spawnSync(name, args, { encoding: "utf8" });
  return status === 0 ? undefined : (error?.message ?? stderr.trim());
}

/** Why no file system can be mounted on this machine, in one line; undefined when one can. */
export function whyNoSmallDisk(): string | undefined {
  // In a namespace that ends with the command.
  const why = asRoot("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt");
  return why === undefined ? undefined : `no tmpfs can be mounted (as root, or with sudo): ${why}`;
}

/** A file system of a few megabytes, which a test can fill. */
export interface SmallDisk {
  readonly folder: string;
  /** Until there is no room for a byte more. */
  readonly fill: () => void;
  /** Takes away what `fill` has written. */
  readonly free: () => void;
  /** Nothing can be written any more, for root either. */
  readonly seal: () => void;
}

/** Mounts a tmpfs of its own; it goes when the supervisor closes. @throws Error that says why it cannot */
export function smallDisk(processes: Supervisor, mib: number): SmallDisk {
  const folder = processes.folder("disk");
  const options = `size=${mib}m,mode=700,uid=${getuid?.() ?? 0},gid=${getgid?.() ?? 0}`;
  const why = asRoot("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder);
  if (why !== undefined) throw new Error(`cannot mount ${folder}: ${why}`);
  // Lazily: a process that was killed may hold it for a moment.
  processes.onClose(() => void asRoot("umount", "--lazy", folder));
  const filler = join(folder, "filler");
  return {
    folder,
    fill: () => {
      for (let bytes = 1024 * 1024; bytes >= 1; bytes = Math.floor(bytes / 2)) appendUntilFull(filler, bytes);
    },
    free: () => rmSync(filler),
    seal: () => {
      const refused = asRoot("mount", "-o", "remount,ro", folder);
      if (refused !== undefined) throw new Error(`cannot make ${folder} read-only: ${refused}`);
    },
  };
}

function appendUntilFull(path: string, bytes: number): void {
  try {
    for (;;) writeFileSync(path, Buffer.alloc(bytes), { flag: "a" });
  } catch (thrown) {
    if (!(thrown instanceof Error && "code" in thrown && thrown.code === "ENOSPC")) throw thrown;
  }
}
