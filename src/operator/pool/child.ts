import { findCondition, isTrue } from "../../api/v1alpha1/conditions.ts";
import { keyPrefix } from "../../api/v1alpha1/meta.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { hasNoCapacity } from "../capacity.ts";
import { canonical } from "../hash.ts";
import { poolLabel } from "../names.ts";
import { sameJson } from "../same.ts";
import { once } from "../once.ts";

/** Annotation of a child that the pool takes away: it is parked first, and deleted when its pod is gone. */
export const removingAnnotation = `${keyPrefix}removing`;

/** Questions about one child of a pool. All are answered from the object, none from memory. */

export function childName(pool: ResultityNodePool, ordinal: number): string {
  return `${pool.metadata.name}-${ordinal}`;
}

/** n of `<pool>-<n>`; NaN for a child that was adopted under another name. */
export function ordinalOf(pool: ResultityNodePool, child: ResultityNode): number {
  const prefix = `${pool.metadata.name}-`;
  const rest = child.metadata.name.slice(prefix.length);
  return child.metadata.name.startsWith(prefix) && /^(0|[1-9]\d*)$/.test(rest) ? Number(rest) : Number.NaN;
}

/** On its way out: deleted, or marked by the pool. */
export function isLeaving(child: ResultityNode): boolean {
  return (
    child.metadata.deletionTimestamp !== undefined ||
    child.metadata.annotations?.[removingAnnotation] !== undefined
  );
}

/** Parked by a person, or for want of capacity: it stays so, and counts neither for nor against the budget. */
export function isParked(child: ResultityNode): boolean {
  return child.spec.replicas === 0 || hasNoCapacity(child);
}

/** In service: serves models and is connected, as far as its controller has seen the newest spec. */
export function isReady(child: ResultityNode): boolean {
  return isTrue(child.status?.conditions, "Ready");
}

/** Labels that a child must have. */
export function childLabels(pool: ResultityNodePool): Record<string, string> {
  return { ...pool.spec.template.metadata?.labels, [poolLabel]: pool.metadata.name };
}

/** The spec of a child, as the pool has it. `replicas` is left out: who parks a child owns that field. */
export const childSpec = once(({ template, capacity }: ResultityNodePool["spec"]) => ({
  ...template.spec,
  capacity,
}));

const textOf = once((spec: ResultityNodePool["spec"]): string => canonical(childSpec(spec)));

/** What a child's spec was last compared with, and whether it was the same: specs of 10,000 children are long to compare. */
const compared = new WeakMap<ResultityNode["spec"], { readonly template: string; readonly same: boolean }>();

/** True when the child's spec is the template's; what each child has of its own is left out. */
export function hasSpec(pool: ResultityNodePool, child: ResultityNode): boolean {
  const template = textOf(pool.spec);
  const before = compared.get(child.spec);
  if (before?.template === template) return before.same;
  const { replicas: _replicas, identity: _identity, ...own } = child.spec;
  const spec = { ...own, capacity: own.capacity ?? "Guaranteed" };
  const same = sameJson(spec, childSpec(pool.spec));
  compared.set(child.spec, { template, same });
  return same;
}

const wantedMetadata = once((pool: ResultityNodePool) => ({
  labels: Object.entries(childLabels(pool)),
  annotations: Object.entries(pool.spec.template.metadata?.annotations ?? {}),
}));

/** True when nothing is missing of the template's labels and annotations; more may be there. */
export function hasMetadata(pool: ResultityNodePool, child: ResultityNode): boolean {
  const { labels = {}, annotations = {} } = child.metadata;
  const wanted = wantedMetadata(pool);
  return (
    wanted.labels.every(([key, value]) => labels[key] === value) &&
    wanted.annotations.every(([key, value]) => annotations[key] === value)
  );
}

/** Told to move, or given a new spec, and not there yet. Its controller has yet to look, or it is on its way. */
export function isMoving(child: ResultityNode): boolean {
  const { config, observedGeneration } = child.status ?? {};
  if (config?.target !== undefined && config.applied !== config.target) return true;
  return observedGeneration !== child.metadata.generation;
}

/** Reasons of a node's ConfigApplied and RuntimeReady that do not pass by themselves. */
export const stuckReasons: ReadonlySet<string> = new Set([
  "NoRuntimeForEngine",
  "ImageNotInConfig",
  "ImageNotAllowed",
  "ModelNotAllowed",
  "DigestNotAllowed",
  "StageFailed",
  "PrefetchFailed",
  "HostDiskFull",
  "ImagePullFailed",
  "AgentFailed",
  "EngineFailed",
]);

/** Why a node cannot go on, and since when (wall time, ms); undefined while it may yet arrive. */
export function stuckReason({
  status,
}: ResultityNode): { readonly text: string; readonly since: number } | undefined {
  for (const type of ["RuntimeReady", "ConfigApplied"] as const) {
    const found = findCondition(status?.conditions, type);
    if (found && found.status !== "True" && stuckReasons.has(found.reason))
      return { text: `${found.reason}: ${found.message}`, since: Date.parse(found.lastTransitionTime) };
  }
  return undefined;
}
