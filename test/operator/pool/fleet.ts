import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import {
  type NewResultityNodePool,
  poolSpec,
  type ResultityNodePool,
} from "../../../src/api/v1alpha1/pool.ts";
import type { Work } from "../../../src/operator/pool/canary.ts";
import { childLabels, childSpec, hasSpec, removingAnnotation } from "../../../src/operator/pool/child.ts";
import { type PoolAction, type PoolObservation, planPool } from "../../../src/operator/pool/plan.ts";

export const digest = (letter: string): string => `sha256:${letter.repeat(64)}`;
const now = Date.UTC(2026, 0, 1);
const time = new Date(now).toISOString();

/** A pool as the API server answers it, defaults filled in. */
export function makePool(spec: Partial<NewResultityNodePool["spec"]> = {}, name = "chat"): ResultityNodePool {
  const template = { spec: { networkRef: { name: "testnet" }, runtime: { engine: "openai" as const } } };
  return {
    apiVersion: "resultity.com/v1alpha1",
    kind: "ResultityNodePool",
    metadata: {
      name,
      namespace: "inference",
      uid: `pool-${name}`,
      resourceVersion: "1",
      generation: 1,
      creationTimestamp: time,
    },
    spec: poolSpec.parse({ template, ...spec }),
  };
}

/**
 * A pool with its children in memory: applies a plan as the API server would, and plays the node controller in steps that the
 * test chooses.
 */
export class Fleet {
  pool: ResultityNodePool;
  current: string | undefined = digest("a");
  readonly children = new Map<string, ResultityNode>();
  /** Names of children that have a pod. */
  readonly pods = new Set<string>();
  budget: PoolObservation["budget"];
  allows: PoolObservation["allows"] = () => true;
  mayRestart = true;
  restartsUntil: number | undefined;
  interrupts: PoolObservation["interrupts"] = () => true;
  /** By name. */
  readonly work = new Map<string, Work>();
  observeWork: PoolObservation["work"] = (child) => this.work.get(child.metadata.name);
  now = now;
  #uid = 0;

  constructor(pool: ResultityNodePool) {
    this.pool = pool;
  }

  observe(): PoolObservation {
    return {
      pool: this.pool,
      children: [...this.children.values()],
      isTaken: (name) => this.children.has(name),
      hasPod: (child) => this.pods.has(child.metadata.name),
      networkKnown: true,
      current: this.current,
      allows: this.allows,
      mayRestart: this.mayRestart,
      restartsUntil: this.restartsUntil,
      interrupts: this.interrupts,
      work: this.observeWork,
      budget: this.budget,
      now: this.now,
    };
  }

  /** Plans once and does all of it; returns what was done. */
  reconcile(): readonly PoolAction[] {
    const actions = planPool(this.observe());
    for (const action of actions) this.apply(action);
    return actions;
  }

  /** Does one action, as the API server would. */
  apply(action: PoolAction): void {
    switch (action.type) {
      case "create":
        this.children.set(action.name, this.#newChild(action.name));
        break;
      case "update":
        this.change(action.child.metadata.name, (child) => ({
          ...child,
          metadata: {
            ...child.metadata,
            // Labels and annotations alone leave the generation as it is.
            generation: child.metadata.generation + (hasSpec(this.pool, child) ? 0 : 1),
            labels: { ...child.metadata.labels, ...childLabels(this.pool) },
          },
          spec: { ...structuredClone(childSpec(this.pool.spec)), replicas: child.spec.replicas },
        }));
        break;
      case "retire":
      case "revive":
        this.change(action.child.metadata.name, (child) => {
          const { [removingAnnotation]: _, ...annotations } = child.metadata.annotations ?? {};
          const leaving = action.type === "retire";
          return {
            ...child,
            metadata: {
              ...child.metadata,
              generation: child.metadata.generation + 1,
              annotations: leaving ? { ...annotations, [removingAnnotation]: "true" } : annotations,
            },
            spec: { ...child.spec, replicas: leaving ? 0 : 1 },
          };
        });
        break;
      case "delete":
        this.children.delete(action.child.metadata.name);
        break;
      case "target":
        this.change(action.child.metadata.name, ({ status, ...child }) => {
          const { next: _, ...config } = status?.config ?? {};
          return { ...child, status: { ...status, config: { ...config, target: action.digest } } };
        });
        break;
      case "prepare":
        this.change(action.child.metadata.name, ({ status, ...child }) => {
          const { next: _, ...config } = status?.config ?? {};
          const next = action.digest === undefined ? {} : { next: action.digest };
          return { ...child, status: { ...status, config: { ...config, ...next } } };
        });
        break;
      case "budget":
        this.budget = { ours: true, intact: true, minAvailable: action.minAvailable };
        break;
    }
  }

  #newChild(name: string): ResultityNode {
    return {
      apiVersion: "resultity.com/v1alpha1",
      kind: "ResultityNode",
      metadata: {
        name,
        namespace: "inference",
        uid: `node-${++this.#uid}`,
        resourceVersion: "1",
        generation: 1,
        creationTimestamp: time,
        labels: childLabels(this.pool),
      },
      spec: { ...structuredClone(childSpec(this.pool.spec)), replicas: 1 },
    };
  }

  change(name: string, to: (child: ResultityNode) => ResultityNode): void {
    const child = this.children.get(name);
    if (!child) throw new Error(`no child ${name}`);
    this.children.set(name, to(child));
  }

  /** The node controller lets the child arrive: newest spec seen, target applied, in service unless parked. */
  arrive(name: string): void {
    const child = this.children.get(name);
    if (!child) return;
    const parked = child.spec.replicas === 0;
    if (parked) this.pods.delete(name);
    else this.pods.add(name);
    const target = child.status?.config?.target;
    this.#status(name, !parked && target !== undefined, target);
  }

  /** The child falls out of service where it stands. */
  fail(name: string): void {
    this.#status(name, false, this.children.get(name)?.status?.config?.applied);
  }

  /** Others take the child's GPUs, and no host has any to lend it. */
  park(name: string): void {
    this.fail(name);
    this.#scheduled(name, "NoCapacity");
  }

  /** A host lends the child GPUs again; it starts. */
  schedule(name: string): void {
    this.#scheduled(name, "PodScheduled");
  }

  #scheduled(name: string, reason: "NoCapacity" | "PodScheduled"): void {
    this.change(name, (child) => {
      const scheduled = {
        type: "Scheduled" as const,
        status: reason === "PodScheduled" ? ("True" as const) : ("False" as const),
        observedGeneration: child.metadata.generation,
        lastTransitionTime: new Date(this.now).toISOString(),
        reason,
        message: "",
      };
      const others = (child.status?.conditions ?? []).filter(({ type }) => type !== "Scheduled");
      return { ...child, status: { ...child.status, conditions: [scheduled, ...others] } };
    });
  }

  /** The child cannot go on, for this reason. */
  stick(name: string, reason: string): void {
    this.fail(name);
    this.change(name, (child) => {
      const conditions = (child.status?.conditions ?? []).map((each) =>
        each.type === "RuntimeReady" ? { ...each, reason, message: "it ended" } : each,
      );
      return { ...child, status: { ...child.status, conditions } };
    });
  }

  #status(name: string, ready: boolean, applied: string | undefined): void {
    this.change(name, (child) => {
      const config = { ...child.status?.config, ...(applied === undefined ? {} : { applied }) };
      const condition = (type: "Ready" | "RuntimeReady") => ({
        type,
        status: ready ? ("True" as const) : ("False" as const),
        observedGeneration: child.metadata.generation,
        lastTransitionTime: new Date(this.now).toISOString(),
        reason: ready ? "AllWell" : "PodNotReady",
        message: "",
      });
      const conditions = [condition("RuntimeReady"), condition("Ready")];
      return {
        ...child,
        status: { ...child.status, observedGeneration: child.metadata.generation, config, conditions },
      };
    });
  }

  /** Reconciles and lets everything arrive until there is nothing left to do; fails if that does not end. */
  settle(limit = 5000): void {
    for (let step = 0; step < limit; step++) {
      const actions = this.reconcile();
      for (const name of this.children.keys()) this.arrive(name);
      if (actions.length === 0 && planPool(this.observe()).length === 0) return;
    }
    throw new Error(`did not settle within ${limit} steps`);
  }
}
