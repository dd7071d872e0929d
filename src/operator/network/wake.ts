import { isTrue } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { exceptStatus, mapped, own, type Source } from "../../kube/sources.ts";
import type { Change } from "../../kube/store.ts";
import type { Clock, Timer } from "../../lib/clock.ts";
import { type Caches, networkKeyOf } from "../context.ts";

/** Least time between two wakes of a network by its nodes, ms: their churn becomes one status write of it a second at most. */
export const nodeBatchMs = 1_000;

/** What wakes the controller of a network: its spec, and what its status counts or its ConfigMap holds of its nodes. */
export function networkSources(caches: Pick<Caches, "networks" | "nodes">, clock: Clock): readonly Source[] {
  const nodes = mapped(caches.nodes, (node) => [networkKeyOf(node)], concernsNetwork);
  return [own(caches.networks, exceptStatus), batched(nodes, clock, nodeBatchMs)];
}

/** True for a change of a node that its network's status or ConfigMap depends on. */
export function concernsNetwork(change: Change<ResultityNode>): boolean {
  if (change.type !== "update") return true;
  const { object, old } = change;
  return facts(object) !== facts(old);
}

function facts(node: ResultityNode): string {
  const { status } = node;
  return JSON.stringify([
    networkKeyOf(node),
    status?.config?.target,
    status?.config?.applied,
    isTrue(status?.conditions, "Ready"),
    status?.session?.connected === true,
  ]);
}

/** `source` with at most one key of a kind per `ms`: the first is told at once, what follows is told when the time is over. */
export function batched(source: Source, clock: Clock, ms: number): Source {
  return {
    name: source.name,
    synced: () => source.synced(),
    attach(add) {
      const timers = new Map<string, { readonly timer: Timer; reason: string | undefined }>();
      const rest = (key: string) => {
        const timer = clock.setTimer(() => {
          const waiting = timers.get(key)?.reason;
          timers.delete(key);
          if (waiting === undefined) return;
          add(key, waiting);
          rest(key);
        }, ms);
        timers.set(key, { timer, reason: undefined });
      };
      const detach = source.attach((key, reason) => {
        const waiting = timers.get(key);
        if (waiting) waiting.reason ??= reason;
        else {
          add(key, reason);
          rest(key);
        }
      });
      return () => {
        detach();
        for (const { timer } of timers.values()) timer.cancel();
        timers.clear();
      };
    },
  };
}
