import type { Condition } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import {
  budgetSize,
  childLabels,
  childSpec,
  hasSpec,
  isLeaving,
  isMoving,
  isParked,
  isReady,
  minAvailableOf,
  type PoolAction,
  type PoolObservation,
  planPool,
  removingAnnotation,
} from "../../operator/pool/plan.ts";

/** What is done to one node, in one go. */
export interface ForecastStep {
  readonly node: string;
  readonly does: readonly PoolAction["type"][];
  readonly reason: string;
  /** Nodes that are surely in service while it is done. A node that stages serves on, so it may be one more. */
  readonly inService: number;
}

/** How a pool's plan goes on, if each node that is told to move or to leave does so. */
export interface Forecast {
  /** In order. Those that are under way already are in {@link underWay}. */
  readonly steps: readonly ForecastStep[];
  /** Nodes that were told before now and have not arrived. */
  readonly underWay: readonly string[];
  /** Nodes that would have to move and never get room, because others are out of service for another reason. */
  readonly held: readonly string[];
  /** Out of service and not told to move: nothing in the plan brings them back. */
  readonly unwell: readonly string[];
  readonly inServiceNow: number;
  /** Fewest that are in service at any step. */
  readonly lowest: number;
  /** Nodes that the budget is about, and the fewest of them that the operator keeps in service. */
  readonly size: number;
  readonly minAvailable: number;
  /** True if there are more steps than were asked for, or than can be worked out in good time. */
  readonly cut: boolean;
}

/** A pool on paper: what the planner says is done at once, and told nodes arrive one after the other. */
interface Paper {
  readonly seen: PoolObservation;
  readonly children: Map<string, ResultityNode>;
  /** Names of those with a pod. */
  readonly pods: Set<string>;
  /** Told and not arrived, the longest told first. */
  readonly told: Set<string>;
  budget: PoolObservation["budget"];
}

/** Carries the plan forward for at most `limit` steps. Nothing of it is written anywhere. */
export function forecast(seen: PoolObservation, limit: number): Forecast {
  const paper = paperOf(seen);
  const underWay = [...paper.told];
  const inServiceNow = inService(paper);
  const steps: ForecastStep[] = [];
  const open = new Map<string, number>();
  let lowest = inServiceNow;
  let cut = false;
  for (let rounds = roundsFor(seen); !cut; rounds--) {
    if (rounds === 0) {
      cut = true;
      break;
    }
    const groups = byNode(planPool(observation(paper)), paper);
    if (groups.size === 0) {
      const [next] = paper.told;
      if (next === undefined) break;
      arrive(paper, next);
      open.delete(next);
      continue;
    }
    for (const actions of groups.values()) for (const action of actions) apply(paper, action);
    const serving = inService(paper);
    lowest = Math.min(lowest, serving);
    for (const [node, actions] of groups) {
      const does = actions.map(({ type }) => type);
      const at = open.get(node);
      const before = at === undefined ? undefined : steps[at];
      if (at !== undefined && before) {
        steps[at] = { ...before, does: [...before.does, ...does], inService: serving };
        continue;
      }
      if (steps.length === limit) {
        cut = true;
        break;
      }
      open.set(node, steps.length);
      steps.push({ node, does, reason: actions[0]?.reason ?? "", inService: serving });
    }
  }
  const size = budgetSize(seen.pool, seen.children);
  const held = cut ? [] : heldBack(paper);
  return {
    steps,
    underWay,
    held,
    unwell: unwellOf(seen).filter((name) => !steps.some(({ node }) => node === name)),
    inServiceNow,
    lowest,
    size,
    minAvailable: minAvailableOf(seen.pool, size),
    cut,
  };
}

/** Each round plans anew over all children: fewer rounds for many, so that an answer takes seconds at most. */
function roundsFor({ children }: PoolObservation): number {
  return Math.max(20, Math.floor(200_000 / Math.max(1, children.length)));
}

function paperOf(seen: PoolObservation): Paper {
  const children = new Map(seen.children.map((child) => [child.metadata.name, child]));
  const told = seen.children
    .filter((child) => isLeaving(child) || (!isParked(child) && isMoving(child)))
    .map(({ metadata }) => metadata.name);
  return {
    seen,
    children,
    pods: new Set(seen.children.filter(seen.hasPod).map(({ metadata }) => metadata.name)),
    told: new Set(told),
    budget: seen.budget,
  };
}

function observation({ seen, children, pods, budget }: Paper): PoolObservation {
  return {
    ...seen,
    children: [...children.values()],
    isTaken: (name) => children.has(name) || (seen.isTaken(name) && !isChild(seen, name)),
    hasPod: ({ metadata }) => pods.has(metadata.name),
    budget,
  };
}

const isChild = ({ children }: PoolObservation, name: string): boolean =>
  children.some(({ metadata }) => metadata.name === name);

function inService({ children }: Paper): number {
  return [...children.values()].filter(serves).length;
}

const serves = (child: ResultityNode): boolean =>
  !isLeaving(child) && !isParked(child) && isReady(child) && !isMoving(child);

/** Actions on nodes, by node. The budget is done on the way: it moves nobody. */
function byNode(actions: readonly PoolAction[], paper: Paper): Map<string, PoolAction[]> {
  const groups = new Map<string, PoolAction[]>();
  for (const action of actions) {
    if (action.type === "budget") {
      paper.budget = { ours: true, intact: true, minAvailable: action.minAvailable };
      continue;
    }
    const name = action.type === "create" ? action.name : action.child.metadata.name;
    groups.set(name, [...(groups.get(name) ?? []), action]);
  }
  return groups;
}

function apply(paper: Paper, action: PoolAction): void {
  const { seen, children, pods, told } = paper;
  const { pool } = seen;
  switch (action.type) {
    case "budget":
      return;
    case "create":
      children.set(action.name, newChild(pool, action.name));
      pods.delete(action.name);
      told.add(action.name);
      return;
    case "delete":
      children.delete(action.child.metadata.name);
      told.delete(action.child.metadata.name);
      return;
    case "retire":
    case "revive":
    case "update":
    case "target": {
      const { name } = action.child.metadata;
      const child = children.get(name);
      if (!child) return;
      const next = changed(pool, child, action);
      children.set(name, next);
      if (action.type === "retire" && child.status?.replicas !== 0) pods.add(name);
      if (isLeaving(next) || (!isParked(next) && isMoving(next))) told.add(name);
      return;
    }
  }
}

function changed(
  pool: ResultityNodePool,
  child: ResultityNode,
  action: PoolAction & { readonly type: "retire" | "revive" | "update" | "target" },
): ResultityNode {
  const { metadata, spec, status } = child;
  const generation = metadata.generation + 1;
  switch (action.type) {
    case "target":
      return { ...child, status: { ...status, config: { ...status?.config, target: action.digest } } };
    case "retire":
    case "revive": {
      const { [removingAnnotation]: _, ...annotations } = metadata.annotations ?? {};
      const leaving = action.type === "retire";
      return {
        ...child,
        metadata: {
          ...metadata,
          generation,
          annotations: leaving ? { ...annotations, [removingAnnotation]: "true" } : annotations,
        },
        spec: { ...spec, replicas: leaving ? 0 : 1 },
      };
    }
    case "update": {
      const { metadata: meta = {} } = pool.spec.template;
      return {
        ...child,
        metadata: {
          ...metadata,
          // Labels and annotations alone leave the generation, and the running pod, as they are.
          generation: hasSpec(pool, child) ? metadata.generation : generation,
          labels: { ...metadata.labels, ...childLabels(pool) },
          annotations: { ...metadata.annotations, ...meta.annotations },
        },
        spec: {
          ...childSpec(pool.spec),
          replicas: spec.replicas,
          ...(spec.identity ? { identity: spec.identity } : {}),
        },
      };
    }
  }
}

function newChild(pool: ResultityNodePool, name: string): ResultityNode {
  const { namespace } = pool.metadata;
  const { metadata } = pool.spec.template;
  return {
    apiVersion: pool.apiVersion,
    kind: "ResultityNode",
    metadata: {
      name,
      namespace,
      uid: `forecast-${name}`,
      resourceVersion: "0",
      generation: 1,
      creationTimestamp: pool.metadata.creationTimestamp,
      labels: childLabels(pool),
      ...(metadata?.annotations ? { annotations: metadata.annotations } : {}),
    },
    spec: { ...childSpec(pool.spec), replicas: 1 },
  };
}

function arrive({ seen, children, pods, told }: Paper, name: string): void {
  told.delete(name);
  const child = children.get(name);
  if (!child) return;
  if (isLeaving(child)) {
    pods.delete(name);
    // What is being deleted already goes with its pod.
    if (child.metadata.deletionTimestamp !== undefined) children.delete(name);
    return;
  }
  const target = child.status?.config?.target;
  // Without a config there is nothing to serve, and no plan brings one.
  if (target === undefined) return;
  const { generation } = child.metadata;
  const ready: Condition<"Ready"> = {
    type: "Ready",
    status: "True",
    observedGeneration: generation,
    lastTransitionTime: new Date(seen.now).toISOString(),
    reason: "AllWell",
    message: "",
  };
  children.set(name, {
    ...child,
    status: {
      ...child.status,
      observedGeneration: generation,
      config: { ...child.status?.config, applied: target },
      conditions: [...(child.status?.conditions ?? []).filter(({ type }) => type !== "Ready"), ready],
    },
  });
}

/** Nodes that the plan would move if there were no budget and no pause, and does not. */
function heldBack(paper: Paper): string[] {
  const seen = observation(paper);
  const { pool } = seen;
  const { canary: _, ...update } = pool.spec.strategy.rollingUpdate;
  const strategy = { rollingUpdate: { ...update, maxUnavailable: "100%" }, paused: false };
  const free = planPool({ ...seen, mayRestart: true, pool: { ...pool, spec: { ...pool.spec, strategy } } });
  return [...byNode(free, paper).keys()];
}

function unwellOf({ children }: PoolObservation): string[] {
  return children
    .filter((child) => !isLeaving(child) && !isParked(child) && !isReady(child) && !isMoving(child))
    .map(({ metadata }) => metadata.name);
}
