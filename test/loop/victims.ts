import { readdirSync, readFileSync } from "node:fs";
import type { RunningContainer } from "../testbed/kubelet/process/host-pods.ts";
import type { Loop, VirtualHost } from "./loop.ts";
import { containerLines } from "./pod-logs.ts";
import { engineInImage } from "./images.ts";

/** Containers of the loop's pods and processes in them, found as an operator of the machine would: by pid. */

/** The running container of a node's pod. Throws while there is none. */
export function containerOf(loop: Loop, pod: string, container: "agent" | "runtime"): RunningContainer {
  const found = loop.hosts
    .flatMap(({ kubelet }) => kubelet.containers())
    .find((each) => each.pod === pod && each.container === container);
  if (!found) throw new Error(`no container ${container} of pod ${pod} runs`);
  return found;
}

/** Pid of the engine: the launcher's child that runs the engine program. Throws while there is none. */
export function enginePid(loop: Loop, pod: string): number {
  const launcher = containerOf(loop, pod, "runtime").pid;
  const engine = childrenOf(launcher).find((pid) => commandLine(pid).includes(engineInImage));
  if (engine === undefined) throw new Error(`no engine runs in pod ${pod}`);
  return engine;
}

/** The host that a pod runs on. */
export function hostOf(loop: Loop, pod: string): VirtualHost {
  const found = loop.hosts.find(({ kubelet }) => kubelet.containers().some((each) => each.pod === pod));
  if (!found) throw new Error(`pod ${pod} runs on no host`);
  return found;
}

/** Port on which the engine of a pod was last started, by its own log. */
export function enginePort(loop: Loop, pod: string): number {
  const ports = containerLines(loop.hosts, "runtime")
    .filter((entry) => entry.pod === pod && entry.line["event"] === "start")
    .sort((a, b) => Number(a.line["time"]) - Number(b.line["time"]))
    .map(({ line }) => Number(line["port"]));
  const last = ports.at(-1);
  if (last === undefined) throw new Error(`the engine of pod ${pod} has not logged a start`);
  return last;
}

/** A request that an engine has begun and not ended. */
export interface InFlight {
  readonly id: string;
  readonly stream: boolean;
  /** Wall time, ms. */
  readonly begun: number;
}

/** What each pod's engine works on now, by the engines' own logs; one that was killed works on nothing. */
export function inFlight(loop: Loop): Map<string, InFlight[]> {
  const lines = containerLines(loop.hosts, "runtime");
  const started = new Map<string, number>();
  for (const { pod, line } of lines) {
    if (line["event"] === "start") started.set(pod, Math.max(Number(line["time"]), started.get(pod) ?? 0));
  }
  const ended = new Set(
    lines
      .filter(({ line }) => line["event"] === "end")
      .map(({ pod, line }) => `${pod} ${String(line["id"])}`),
  );
  const flights = new Map<string, InFlight[]>();
  for (const { pod, line } of lines) {
    const id = String(line["id"]);
    const begun = Number(line["time"]);
    if (line["event"] !== "begin" || ended.has(`${pod} ${id}`) || begun < (started.get(pod) ?? 0)) continue;
    const flight = { id, stream: line["stream"] === true, begun };
    flights.set(pod, [...(flights.get(pod) ?? []), flight]);
  }
  return flights;
}

/** Wall times, ms, at which engines of a pod were started. */
export function engineStarts(loop: Loop, pod: string): number[] {
  return containerLines(loop.hosts, "runtime")
    .filter((entry) => entry.pod === pod && entry.line["event"] === "start")
    .map(({ line }) => Number(line["time"]));
}

function childrenOf(parent: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => parentOf(pid) === parent);
}

function parentOf(pid: number): number | undefined {
  try {
    // After the command in parentheses, which may hold anything, come state and parent (proc_pid_stat(5)).
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
  } catch {
    return undefined; // it has just ended
  }
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return "";
  }
}
