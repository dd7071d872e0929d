import { spawnSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Supervisor } from "../testbed/processes.ts";

/** Why no file system can be mounted on this machine, in one line; undefined when one can. */
export function whyNoSmallDisk(): string | undefined {
  // In a namespace that ends with the command.
  const run = spawnSync("unshare", ["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], {
    encoding: "utf8",
  });
  if (run.status === 0) return undefined;
  return run.error?.message ?? run.stderr.trim().split("\n")[0] ?? "mount failed";
}

/** A file system that a test can fill up. */
export interface SmallDisk {
  readonly folder: string;
  readonly fill: () => void;
  readonly free: () => void;
}

/** Mounts a file system of `mib` MiB; it goes when the supervisor closes. @throws Error that says why it cannot */
export function smallDisk(processes: Supervisor, mib: number): SmallDisk {
  const folder = processes.folder("disk");
  const options = `size=${mib}m,mode=700`;
  const { status, stderr } = spawnSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", folder], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`cannot mount ${folder}: ${stderr}`);
  processes.onClose(() => void spawnSync("umount", ["--lazy", folder]));
  const filler = join(folder, "filler");
  return {
    folder,
    fill: () => {
      try {
        writeFileSync(filler, Buffer.alloc((mib + 1) * 1024 * 1024));
      } catch (thrown) {
        if (thrown instanceof Error && "code" in thrown && thrown.code === "ENOSPC") return;
        throw thrown;
      }
      throw new Error(`${folder} has taken more than its ${mib} MiB`);
    },
    free: () => rmSync(filler),
  };
}
