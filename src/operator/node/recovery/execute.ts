import { isKubeError } from "../../../kube/errors.ts";
import { hostNodes } from "../../../kube/resources.ts";
import { messageOf } from "../../../lib/errors.ts";
import type { Metrics } from "../../../lib/metrics.ts";
import type { Hands } from "../execute.ts";
import type { Action } from "../plan.ts";
import { type HostState, hostStateOf } from "./lost-host.ts";

/** Counts a step of recovery. */
export function countStep(metrics: Metrics, { step, cause }: Action & { type: "recover" }): void {
  const name = "resultity_operator_recovery_steps_total";
  metrics
    .counter(name, "Steps of recovery that cost a pod, by step and cause.", ["step", "cause"])
    .inc({ step, cause });
}

/** Reads a host's Node object and remembers what it says. What cannot be read is remembered too: nothing is decided by it. */
export async function lookAtHost(
  { context, memories }: Pick<Hands, "context" | "memories">,
  host: string,
  signal: AbortSignal,
): Promise<void> {
  let state: HostState;
  try {
    state = hostStateOf(await context.client.get(hostNodes, { name: host }, { signal }));
  } catch (error) {
    if (isKubeError(error, "NotFound")) state = { is: "gone" };
    else if (isKubeError(error, "Forbidden")) state = { is: "unknown", why: messageOf(error) };
    else throw error;
  }
  memories.recovery.hostSeen(host, state);
}
