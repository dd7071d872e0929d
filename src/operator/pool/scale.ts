import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { maxPoolReplicas } from "../../api/v1alpha1/names.ts";
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
  for (const child of surplus(staying, -missing, seen.load))
    actions.push({ type: "retire", child, reason: why });
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

/** Most nodes of which it is asked how busy they are, before some of them go. */
const mostAsked = 64;

/**
 * Children of which it matters how busy they are: they serve, and some of them go and others stay. Of many those that would go
 * first; empty where none goes, and where as many go as would be asked: those go, whatever they answer.
 */
export function candidatesOf(seen: PoolObservation): readonly ResultityNode[] {
  const { staying } = censusOf(seen);
  const serving = staying.filter(isReady);
  const count = staying.length - seen.pool.spec.replicas - (staying.length - serving.length);
  if (count <= 0 || count >= Math.min(serving.length, mostAsked)) return [];
  return emptyingHosts(serving, serving, () => 0).slice(0, mostAsked);
}

/**
 * Which children go: those that serve nobody, those that have no jobs, then those that leave whole hosts empty. Of equals the
 * least busy, then the highest ordinals.
 */
function surplus(
  staying: readonly ResultityNode[],
  count: number,
  load: PoolObservation["load"] = () => undefined,
): readonly ResultityNode[] {
  if (count <= 0) return [];
  const busy = (child: ResultityNode) => load(child) ?? Number.POSITIVE_INFINITY;
  const serving = staying.filter(isReady);
  const away = staying.filter((child) => !isReady(child));
  const idle = serving.filter((child) => load(child) === 0);
  const others = serving.filter((child) => load(child) !== 0);
  return [
    ...emptyingHosts(away, staying, () => 0),
    ...emptyingHosts(idle, serving, () => 0),
    ...emptyingHosts(others, serving, busy),
  ].slice(0, count);
}

/** `children` in the order in which they go: hosts with the fewest of `there` first, and a host's together; each by load, then by ordinal. */
function emptyingHosts(
  children: readonly ResultityNode[],
  there: readonly ResultityNode[],
  load: (child: ResultityNode) => number,
): readonly ResultityNode[] {
  const counts = new Map<string, number>();
  for (const child of there) counts.set(hostOf(child), (counts.get(hostOf(child)) ?? 0) + 1);
  const groups = new Map<string, ResultityNode[]>();
  for (const child of children.toReversed()) {
    const group = groups.get(hostOf(child));
    if (group) group.push(child);
    else groups.set(hostOf(child), [child]);
  }
  const loads = new Map(
    [...groups].map(([host, group]) => [host, group.reduce((sum, child) => sum + load(child), 0)] as const),
  );
  // Sorts are stable: among equals the highest ordinal, and the host of the highest one, comes first.
  return [...groups]
    .sort(
      ([a], [b]) =>
        (counts.get(a) ?? 0) - (counts.get(b) ?? 0) || compare(loads.get(a) ?? 0, loads.get(b) ?? 0),
    )
    .flatMap(([, group]) => group.toSorted((a, b) => compare(load(a), load(b))));
}

/** Of two that are both infinite neither comes first. */
const compare = (a: number, b: number): number => (a === b ? 0 : a < b ? -1 : 1);
