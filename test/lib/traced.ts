import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Supervisor } from "../testbed/processes.ts";
import { executableOnPath } from "../testbed/search.ts";
import { type Call, parseTrace, straceArgs } from "./strace.ts";

/** Why processes cannot be traced on this machine, in one line; undefined when they can. */
export function whyNoStrace(): string | undefined {
  const strace = executableOnPath("strace", process.env);
  if (strace === undefined) return "strace is not installed (apt-get install strace)";
  const run = spawnSync(strace, [...straceArgs("/dev/null"), "true"], { encoding: "utf8" });
  if (run.status === 0) return undefined;
  return `strace cannot trace here: ${run.stderr.trim().split("\n")[0] ?? `it ended with ${run.status}`}`;
}

/** Processes of a supervisor of which some are traced. */
export interface Traced {
  /** Starts what the other one starts, those of the given name under strace. Closed with the other one. */
  readonly processes: Supervisor;
  /** System calls so far of the one that was started last. */
  readonly calls: () => readonly Call[];
}

/** @param env of the traced processes, instead of what they are given */
export function traced(processes: Supervisor, name: string, env?: NodeJS.ProcessEnv): Traced {
  const strace = executableOnPath("strace", process.env) ?? "strace";
  const folder = processes.folder("trace");
  let started = 0;
  const output = () => join(folder, String(started));
  const spawn: Supervisor["spawn"] = (spec) => {
    if (spec.name !== name) return processes.spawn(spec);
    started++;
    return processes.spawn({
      ...spec,
      command: strace,
      args: [...straceArgs(output()), spec.command, ...spec.args],
      ...(env === undefined ? {} : { env }),
    });
  };
  return { processes: { ...processes, spawn }, calls: () => parseTrace(readFileSync(output(), "latin1")) };
}
