import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/**
 * Which process a PID means. PIDs are reused, so a process is named by PID and start time; only both together may
 * be killed. Linux reads /proc; other systems ask `ps`.
 */
export interface ProcessIdentity {
  readonly pid: number;
  /** Opaque: equal strings mean the same process. */
  readonly startTime: string;
}

const hasProc = process.platform === "linux";

/** Start time of the live process `pid`, or undefined when there is none. A zombie is not alive. */
export function startTimeOf(pid: number): string | undefined {
  try {
    if (hasProc) {
      const fields = statFields(pid);
      // proc_pid_stat(5): field 3 is the state, field 22 the start time in clock ticks since boot.
      return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
    }
    const out = execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8" }).trim();
    return out === "" ? undefined : out;
  } catch {
    return undefined;
  }
}

/** Whether the very process that was recorded still runs. */
export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  return startTimeOf(pid) === startTime;
}

/** Identity of a live process, or undefined when it is gone. */
export function identify(pid: number): ProcessIdentity | undefined {
  const startTime = startTimeOf(pid);
  return startTime === undefined ? undefined : { pid, startTime };
}

/**
 * Live processes whose environment holds `name=value`. Descendants inherit their environment, so this finds also
 * what left the process group of the child that was recorded. Empty where there is no /proc.
 */
export function processesWithEnv(name: string, value: string): ProcessIdentity[] {
  if (!hasProc) return [];
  const wanted = `${name}=${value}`;
  const found: ProcessIdentity[] = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const identity = identify(Number(entry));
    if (identity && environmentOf(entry).includes(wanted)) found.push(identity);
  }
  return found;
}

/**
 * Names this boot and PID namespace: identities recorded in another one (an earlier boot, a container that shares
 * the temporary folder) say nothing here.
 */
export function bootAndNamespace(): { readonly boot: string; readonly namespace: string } {
  if (!hasProc) return { boot: "", namespace: "" };
  try {
    return {
      boot: readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
      namespace: readlinkSync("/proc/self/ns/pid"),
    };
  } catch {
    return { boot: "", namespace: "" };
  }
}

/** Fields of /proc/PID/stat from the third on: the second, the command, may itself hold blanks and parentheses. */
function statFields(pid: number): string[] {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

function environmentOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
  } catch {
    return [];
  }
}
