import { killRun } from "./container-kill.ts";
import type { Run } from "./container-record.ts";
import type { Host } from "./host.ts";
import { isSidecar, type Pod } from "./types.ts";

/** Which pod ends, and how soon. */
export interface PodEnd {
  readonly host: Host;
  readonly pod: Pod;
  readonly podIP: string;
  /** Runs under way, in the order of the spec. */
  readonly runs: readonly Run[];
  /** Milliseconds to SIGKILL, hooks included. */
  readonly graceMs: number;
  /** Gives up, because the pod is to be ended sooner. */
  readonly signal: AbortSignal;
}

/**
 * Ends every container of a pod. All hooks are called at once; regular containers get SIGTERM after theirs, sidecars
 * when all that started after them are gone (KEP-753). Resolves when nothing runs, or the signal aborted.
 */
export async function endPod({ host, pod, podIP, runs, graceMs, signal }: PodEnd): Promise<void> {
  const sidecars = new Set((pod.spec.initContainers ?? []).filter(isSidecar).map(({ name }) => name));
  const isLate = (run: Run) => sidecars.has(run.container.name);
  const inOrder = [...runs.filter((run) => !isLate(run)), ...runs.filter(isLate).toReversed()];
  await Promise.all(
    inOrder.map((run, index) => {
      run.prober.stop("startup");
      run.prober.stop("liveness");
      const earlier = isLate(run) ? inOrder.slice(0, index) : [];
      return killRun({
        host,
        pod,
        podIP,
        run,
        graceMs,
        message: `Stopping container ${run.container.name}`,
        ...(earlier.length > 0 ? { turn: Promise.all(earlier.map(({ ended }) => ended)) } : {}),
        signal,
      });
    }),
  );
}
