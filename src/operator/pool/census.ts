import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { isLeaving, isParked, ordinalOf } from "./child.ts";
import type { PoolObservation } from "./observation.ts";
import { once } from "../once.ts";
import { minAvailableOf } from "./window.ts";

/** A pool's children, counted and put in order. */
export interface Census {
  /** Those that nobody has taken away, by number; one that was adopted under another name comes last. */
  readonly staying: readonly ResultityNode[];
  /** Those on their way out, likewise. */
  readonly leaving: readonly ResultityNode[];
  /** Nodes that the budget is about. */
  readonly size: number;
  /** Fewest of them that the operator keeps in service. */
  readonly minAvailable: number;
}

/** Counts the children of one look. */
export const censusOf = once(({ pool, children }: PoolObservation): Census => {
  const inOrder = byOrdinal(pool, children);
  const staying = inOrder.filter((child) => !isLeaving(child));
  const size = sizeOf(pool, staying);
  return { staying, leaving: inOrder.filter(isLeaving), size, minAvailable: minAvailableOf(pool, size) };
});

/** Nodes that the budget is about: those wanted, less those that are parked. */
export function budgetSize(pool: ResultityNodePool, children: readonly ResultityNode[]): number {
  return sizeOf(
    pool,
    children.filter((child) => !isLeaving(child)),
  );
}

/** As {@link budgetSize}, of children that all stay. */
export function sizeOf(pool: ResultityNodePool, staying: readonly ResultityNode[]): number {
  const parked = staying.filter(isParked).length;
  return Math.max(0, pool.spec.replicas - parked);
}

function byOrdinal(pool: ResultityNodePool, children: readonly ResultityNode[]): readonly ResultityNode[] {
  const numbered = children.map((child) => {
    const ordinal = ordinalOf(pool, child);
    return { child, ordinal: Number.isNaN(ordinal) ? Number.MAX_SAFE_INTEGER : ordinal };
  });
  numbered.sort((a, b) => a.ordinal - b.ordinal || (a.child.metadata.name < b.child.metadata.name ? -1 : 1));
  return numbered.map(({ child }) => child);
}

/**
 * Which host a child is on. One that is on none has a place of its own, which no host is named like.
 */
export function hostOf({ metadata, status }: ResultityNode): string {
  return status?.hostName ?? `/${metadata.name}`;
}
