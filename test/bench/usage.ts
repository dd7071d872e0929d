import { readdirSync, readFileSync } from "node:fs";

/** What a process holds and has used, as Linux tells it in /proc. */
export interface Usage {
  /** Resident memory, MiB. */
  readonly rss: number;
  /** The most that it has been since the process began, MiB. */
  readonly peak: number;
  /** The part of it that no other process could share, MiB. */
  readonly anonymous: number;
}

/** Clock ticks a second in /proc: USER_HZ, 100 on every Linux that Node runs on. */
const ticksPerSecond = 100;

/** Memory of a process. */
export function memoryOf(pid: number): Usage {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const mib = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1]) / 1024;
  return { rss: mib("VmRSS"), peak: mib("VmHWM"), anonymous: mib("RssAnon") };
}

/** Process group and CPU time of a process with its threads; undefined when it has ended. */
function statOf(pid: number): { readonly group: number; readonly seconds: number } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold spaces; what follows it does not. pgrp is field 5, utime and stime are 14 and 15.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { group: Number(fields[2]), seconds: (Number(fields[11]) + Number(fields[12])) / ticksPerSecond };
  } catch {
    return undefined;
  }
}

/** CPU time that a process, with its threads, has used, in seconds. */
export function cpuSeconds(pid: number): number {
  return statOf(pid)?.seconds ?? Number.NaN;
}

/** The same of all processes of a group; a child of the supervisor leads one. */
export function groupCpuSeconds(leader: number): number {
  const all = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return all.reduce((sum, name) => {
    const stat = statOf(Number(name));
    return stat?.group === leader ? sum + stat.seconds : sum;
  }, 0);
}
