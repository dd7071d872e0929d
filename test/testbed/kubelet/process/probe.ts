import type { Probe } from "./types.ts";

export type ProbeKind = "startup" | "readiness" | "liveness";

/** What the kubelet believes about one probe of one run of a container. */
export interface ProbeState {
  /** The verdict so far. Before any: readiness fails, liveness holds, startup is open. */
  readonly verdict: "success" | "failure" | "unknown";
  readonly last?: boolean;
  /** How often in a row `last` was seen. */
  readonly run: number;
}

/** State at the start of a container. */
export function initialProbeState(kind: ProbeKind): ProbeState {
  const verdict = { startup: "unknown", readiness: "failure", liveness: "success" } as const;
  return { verdict: verdict[kind], run: 0 };
}

/** One answer more: the verdict changes when it was seen `successThreshold` or `failureThreshold` times in a row. */
export function observeProbe(state: ProbeState, probe: Probe, passed: boolean): ProbeState {
  const run = state.last === passed ? state.run + 1 : 1;
  const threshold = passed ? (probe.successThreshold ?? 1) : (probe.failureThreshold ?? 3);
  const verdict = run < threshold ? state.verdict : passed ? "success" : "failure";
  return { verdict, last: passed, run };
}
