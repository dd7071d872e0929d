import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { maxPoolReplicas } from "../../api/v1alpha1/pool.ts";
import { censusOf, hostOf } from "./census.ts";
import { childName, isReady } from "./child.ts";
import type { PoolAction, PoolObservation } from "./observation.ts";

/** Brings the pool to the number of nodes that is wanted. A child that goes is parked first, and deleted when its pod is gone. */
export function planScale(seen: PoolObservation): PoolAction[] {
  const wanted = seen.pool.spec.replicas;
  const { staying, leaving } = censusOf(seen);
  const gone = leaving.filter(({ metadata }) => metadata.deletionTimestamp === undefined);
  const missing = wanted - staying.length;
  const why = `pool wants ${wanted} nodes and has ${staying.length}`;
  const actions: PoolAction[] = [];
  const revived = new Set(missing > 0 ? gone.slice(0, missing) : []);
  for (const child of revived)
    actions.push({ type: "revive", child, reason: `pool wants ${wanted} nodes again` });
  for (const child of gone) {
    if (revived.has(child) || seen.hasPod(child)) continue;
    actions.push({ type: "delete", child, reason: "it is drained and its pod is gone" });
  }
  for (const name of freeNames(seen, missing - revived.size))
    actions.push({ type: "create", name, reason: why });
  for (const child of surplus(staying, -missing)) actions.push({ type: "retire", child, reason: why });
  return actions;
}

/** Lowest free ordinals first, so that an identity, and its reputation, come back. */
function freeNames({ pool, isTaken }: PoolObservation, count: number): string[] {
  const names: string[] = [];
  for (let ordinal = 0; names.length < count && ordinal < maxPoolReplicas; ordinal++) {
    const name = childName(pool, ordinal);
    if (!isTaken(name)) names.push(name);
  }
  return names;
}

/** Which children go: those that serve nobody, then those that leave whole hosts empty, then the highest ordinals. */
function surplus(staying: readonly ResultityNode[], count: number): readonly ResultityNode[] {
  if (count <= 0) return [];
  const serving = staying.filter(isReady);
  const idle = staying.filter((child) => !isReady(child));
  return [...emptyingHosts(idle, staying), ...emptyingHosts(serving, serving)].slice(0, count);
}

/** `children` in the order in which they go: hosts with the fewest of `there` first, and a host's together. Both by ordinal. */
function emptyingHosts(
  children: readonly ResultityNode[],
  there: readonly ResultityNode[],
): readonly ResultityNode[] {
  const counts = new Map<string, number>();
  for (const child of there) counts.set(hostOf(child), (counts.get(hostOf(child)) ?? 0) + 1);
  const groups = new Map<string, ResultityNode[]>();
  for (const child of children.toReversed()) {
    const group = groups.get(hostOf(child));
    if (group) group.push(child);
    else groups.set(hostOf(child), [child]);
  }
  // The sort is stable: among equals the host of the highest ordinal comes first.
  return [...groups]
    .sort(([a], [b]) => (counts.get(a) ?? 0) - (counts.get(b) ?? 0))
    .flatMap(([, group]) => group);
}
