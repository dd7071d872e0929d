import type { Condition } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import {
  childLabels,
  childSpec,
  hasSpec,
  isInService,
  isLeaving,
  isMoving,
  isParked,
  type PoolAction,
  type PoolObservation,
  removingAnnotation,
} from "../../operator/pool/plan.ts";

/** A pool on paper: what the planner says is done to it, and what is told arrives, all without writing anything. */
export class Paper {
  readonly #seen: PoolObservation;
  readonly #refuses: (child: ResultityNode) => boolean;
  readonly #before: ReadonlySet<string>;
  readonly #children: Map<string, ResultityNode>;
  /** Names of those with a pod. */
  readonly #pods: Set<string>;
  readonly #told: Set<string>;
  #budget: PoolObservation["budget"];
  #pool: ResultityNodePool;
  #serving: number;
  #look: PoolObservation | undefined;

  /** @param refuses whether a node never arrives at what it is told */
  constructor(seen: PoolObservation, refuses: (child: ResultityNode) => boolean) {
    this.#seen = seen;
    this.#refuses = refuses;
    this.#pool = seen.pool;
    this.#budget = seen.budget;
    this.#before = new Set(seen.children.map(({ metadata }) => metadata.name));
    this.#children = new Map(seen.children.map((child) => [child.metadata.name, child]));
    this.#pods = new Set(seen.children.filter(seen.hasPod).map(({ metadata }) => metadata.name));
    this.#told = new Set(seen.children.filter(isTold).map(({ metadata }) => metadata.name));
    this.#serving = seen.children.filter((child) => this.#serves(child)).length;
  }

  /** The pool as it stands on paper. */
  look(): PoolObservation {
    this.#look ??= {
      ...this.#seen,
      pool: this.#pool,
      children: [...this.#children.values()],
      isTaken: (name) => this.#children.has(name) || (!this.#before.has(name) && this.#seen.isTaken(name)),
      hasPod: ({ metadata }) => this.#pods.has(metadata.name),
      budget: this.#budget,
    };
    return this.#look;
  }

  /** Nodes that were told to move, to come or to leave, and have not done so; the longest told first. */
  get told(): ReadonlySet<string> {
    return this.#told;
  }

  /** How many nodes are in service. */
  get serving(): number {
    return this.#serving;
  }

  isLeaving(name: string): boolean {
    const child = this.#children.get(name);
    return child !== undefined && isLeaving(child);
  }

  /** The trial of the config that the pool moves to has been passed. */
  passTrial(target: string): void {
    const { status } = this.#pool;
    const rollout = { updated: 0, total: 0, ...status?.rollout, target, canary: "Passed" as const };
    this.#pool = { ...this.#pool, status: { ...status, rollout } };
    this.#look = undefined;
  }

  #serves(child: ResultityNode | undefined): boolean {
    return child !== undefined && !isLeaving(child) && isInService(this.#seen, child);
  }

  #put(name: string, next: ResultityNode | undefined): void {
    this.#serving -= Number(this.#serves(this.#children.get(name)));
    if (next) this.#children.set(name, next);
    else this.#children.delete(name);
    this.#serving += Number(this.#serves(next));
    this.#look = undefined;
  }

  /** Does what the operator would do. What is prepared, and the budget, move nobody. */
  apply(action: PoolAction): void {
    switch (action.type) {
      case "budget":
        this.#budget = { ours: true, intact: true, minAvailable: action.minAvailable };
        this.#look = undefined;
        return;
      case "prepare": {
        const { name } = action.child.metadata;
        const child = this.#children.get(name);
        if (!child) return;
        const { next: _, ...config } = child.status?.config ?? {};
        const next = action.digest === undefined ? {} : { next: action.digest };
        this.#put(name, { ...child, status: { ...child.status, config: { ...config, ...next } } });
        return;
      }
      case "create":
        this.#pods.delete(action.name);
        this.#put(action.name, newChild(this.#pool, action.name));
        this.#told.add(action.name);
        return;
      case "delete":
        this.#put(action.child.metadata.name, undefined);
        this.#told.delete(action.child.metadata.name);
        return;
      case "retire":
      case "revive":
      case "update":
      case "target": {
        const { name } = action.child.metadata;
        const child = this.#children.get(name);
        if (!child) return;
        const next = changed(this.#pool, child, action);
        if (action.type === "retire" && child.status?.replicas !== 0) this.#pods.add(name);
        this.#put(name, next);
        if (isTold(next)) this.#told.add(name);
        return;
      }
    }
  }

  /** A node that was told arrives: it serves what it was told, or is gone. One that refuses stays where it is. */
  arrive(name: string): void {
    this.#told.delete(name);
    const child = this.#children.get(name);
    if (!child) return;
    if (isLeaving(child)) {
      this.#pods.delete(name);
      // What is being deleted already goes with its pod.
      this.#put(name, child.metadata.deletionTimestamp === undefined ? child : undefined);
      return;
    }
    const target = child.status?.config?.target;
    // Without a config there is nothing to serve, and no plan brings one.
    if (target === undefined || this.#refuses(child)) return;
    this.#put(name, arrived(child, target, this.#seen.now));
  }
}

const isTold = (child: ResultityNode): boolean => isLeaving(child) || (!isParked(child) && isMoving(child));

function arrived(child: ResultityNode, target: string, now: number): ResultityNode {
  const { generation } = child.metadata;
  const ready: Condition<"Ready"> = {
    type: "Ready",
    status: "True",
    observedGeneration: generation,
    lastTransitionTime: new Date(now).toISOString(),
    reason: "AllWell",
    message: "",
  };
  return {
    ...child,
    status: {
      ...child.status,
      observedGeneration: generation,
      config: { ...child.status?.config, applied: target },
      conditions: [...(child.status?.conditions ?? []).filter(({ type }) => type !== "Ready"), ready],
    },
  };
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
