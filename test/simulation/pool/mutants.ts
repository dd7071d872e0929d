import type { Mutant } from "../mutants.ts";

/** A bug of the planner. */
interface PoolMutant extends Mutant {
  /** It shows in one history of a hundred. */
  readonly rare?: boolean;
}

/** Bugs in the planner that a careful person could make. Each is planted to see that the simulator finds it. */
export const poolMutants: readonly PoolMutant[] = [
  {
    name: "budget off by one",
    file: "src/operator/pool/plan.ts",
    from: "(room <= 0 ||",
    to: "(room < 0 ||",
  },
  {
    name: "parked nodes counted",
    file: "src/operator/pool/census.ts",
    from: "return Math.max(0, pool.spec.replicas - parked);",
    to: "return Math.max(0, pool.spec.replicas - 0 * parked);",
  },
  {
    name: "moving nodes not counted",
    file: "src/operator/pool/plan.ts",
    from: "if (!isMoving(child)) return true;",
    to: "if (isReady(child)) return true;",
  },
  {
    name: "moves that interrupt nothing counted as out of service",
    file: "src/operator/pool/plan.ts",
    from: "    !seen.interrupts(child, target)\n",
    to: "    !seen.interrupts(child, target) && target === undefined\n",
  },
  {
    name: "canary members ignored",
    file: "src/operator/pool/plan.ts",
    from: 'if (trial.state === "running") return trial.members.has(metadata.name);',
    to: 'if (trial.state === "running") return metadata.name !== "";',
  },
  {
    name: "rollback forgotten",
    file: "src/operator/pool/digest.ts",
    from: "if (!rejection) return askedDigest(seen);",
    to: "if (!rejection || rejection) return askedDigest(seen);",
  },
  {
    name: "a failed trial not kept",
    file: "src/operator/pool/status.ts",
    from: "if (instead === undefined) return before;",
    to: "if (instead !== seen) return before;",
  },
  {
    name: "parked nodes that retire leave the budget too low",
    file: "src/operator/pool/plan.ts",
    from: "sizeOf(seen.pool, staying)",
    to: "censusOf(seen).size",
  },
  {
    name: "a new node given what is being tried",
    file: "src/operator/pool/plan.ts",
    from: "return commonDigest(seen, tried) ??",
    to: "return commonDigest(seen) ??",
  },
  {
    name: "withdrawn configs told",
    rare: true,
    file: "src/operator/pool/digest.ts",
    from: "([digest]) => allows(digest)",
    to: '([digest]) => allows(digest) || digest !== ""',
  },
  {
    name: "maintenance window ignored",
    file: "src/operator/pool/plan.ts",
    from: "!(edited || seen.mayRestart)",
    to: "!(edited || seen.mayRestart || restarted)",
  },
  {
    name: "nodes without capacity counted",
    file: "src/operator/pool/child.ts",
    from: "child.spec.replicas === 0 || hasNoCapacity(child)",
    to: "child.spec.replicas === 0",
  },
  {
    name: "partition ignored",
    file: "src/operator/pool/digest.ts",
    from: "ordinalOf(pool, child) < partition",
    to: "ordinalOf(pool, child) < partition - 1",
  },
];
