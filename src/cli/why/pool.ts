import { poolConditionTypes } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { planView } from "../plan/view.ts";
import { soon } from "../plan/render.ts";
import type { MaybeRead, PoolReading } from "../read.ts";
import type { AnyEvent } from "../resources.ts";
import { verdictOf } from "../verdict.ts";
import { adviceOf, poolAdvice } from "./advice.ts";
import { conditionViews, eventViews, type WhyView } from "./view.ts";

/** Why a pool is as it is: its conditions, and the operator's own plan for it. */
export function whyPool(
  pool: ResultityNodePool,
  { seen, around }: PoolReading,
  events: MaybeRead<readonly AnyEvent[]>,
): WhyView {
  const { namespace, name } = pool.metadata;
  const plan = planView(seen, { around });
  const { rollout } = pool.status ?? {};
  const next = plan.next.map(({ action, object, reason }) => ({ what: `${action} ${object}`, why: reason }));
  return {
    kind: pool.kind,
    namespace,
    name,
    ready: verdictOf(pool),
    conditions: conditionViews(pool.status?.conditions, poolConditionTypes, [], ({ reason }) =>
      adviceOf(poolAdvice, reason, { namespace, name }),
    ),
    facts: [
      ["network", plan.network],
      [
        "nodes",
        `${plan.wanted} wanted, ${plan.children} there, ${pool.status?.updatedReplicas ?? 0} updated`,
      ],
      ["in service", `${plan.inServiceNow} of ${plan.size}; at least ${plan.minAvailable} stay so`],
      ["moves to", plan.target ?? "no config yet"],
      ...(rollout?.startedAt === undefined ? [] : [["since", rollout.startedAt] as const]),
    ],
    next,
    waits:
      next.length + plan.waits.length === 0
        ? ["nothing: every node has the newest template and config"]
        : plan.waits,
    notes: [...(next.length > 0 ? [soon] : []), ...notesOf(events)],
    events: eventViews(events.value ?? [], [pool.kind]),
  };
}

/** What a reading that was not allowed leaves out. */
export function notesOf(events: MaybeRead<readonly AnyEvent[]>): readonly string[] {
  return events.denied === undefined ? [] : [`events are not shown: ${events.denied}`];
}
