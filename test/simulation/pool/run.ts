import type { PoolStatus } from "../../../src/api/v1alpha1/pool.ts";
import { canonical } from "../../../src/operator/hash.ts";
import { trialOf } from "../../../src/operator/pool/digest.ts";
import { nextLookMs } from "../../../src/operator/pool/next-look.ts";
import { type PoolAction, planPool } from "../../../src/operator/pool/plan.ts";
import { poolStatus } from "../../../src/operator/pool/status.ts";
import { Dice } from "../random.ts";
import { checkPlan, Violation, wayOf } from "./checks.ts";
import { happen, publish } from "./happenings.ts";
import { PoolWorld } from "./world.ts";

/** How a seed went. */
export interface Outcome {
  readonly seed: number;
  /** Most nodes that the pool had. */
  readonly nodes: number;
  readonly plans: number;
  readonly actions: number;
  readonly simulatedMs: number;
  readonly problem?: { readonly id: string; readonly message: string; readonly trace: readonly string[] };
}

/** Every so many seeds the pool is as large as a pool may be. */
const everyLarge = 200;

/** Runs a pool through a history that follows from the seed. */
export function runPool(seed: number, size?: number): Outcome {
  const dice = new Dice(`pool ${seed}`);
  const nodes = size ?? (seed % everyLarge === 0 ? 10_000 : dice.int(1, 40));
  const canary = dice.chance(0.6)
    ? { replicas: dice.int(1, 3), jobs: dice.pick([0, 20, 200]), soakSeconds: dice.pick([0, 30, 300]) }
    : undefined;
  const large = nodes > 1000;
  const rollingUpdate = {
    maxUnavailable: large ? dice.pick(["5%", "10%", "25%"]) : dice.pick([1, 2, 3, "10%", "25%", "50%"]),
    autoRollback: dice.chance(0.8),
    ...(canary ? { canary } : {}),
  };
  const hosts = Math.max(1, Math.ceil(nodes / dice.int(1, 8)));
  const world = new PoolWorld(dice.fork("world"), { replicas: nodes, strategy: { rollingUpdate } }, hosts);
  const controller = new PoolController(world, dice.fork("writes"));
  const begun = world.fleet.now;
  const outcome = () => ({
    seed,
    nodes: controller.most,
    plans: controller.plans,
    actions: controller.actions,
    simulatedMs: world.fleet.now - begun,
  });
  try {
    publish(world, dice);
    for (let step = large ? 6 : 40; step > 0; step--) {
      // Now and then nothing happens for so long that everything ends; else the next thing comes in the midst of it.
      const wait = dice.chance(0.15) ? 900_000 : dice.gap(large ? 60_000 : 40_000);
      world.runUntil(world.fleet.now + wait, controller.reconcile);
      happen(world, dice);
    }
    controller.settle();
    return outcome();
  } catch (thrown) {
    const problem =
      thrown instanceof Violation
        ? { id: thrown.id, message: thrown.message }
        : {
            id: "error",
            message: thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown),
          };
    return { ...outcome(), problem: { ...problem, trace: world.trace } };
  }
}

/** The pool's controller as `src/operator/pool/controller.ts` wires it, with writes that may fail. */
class PoolController {
  plans = 0;
  actions = 0;
  most = 0;
  readonly #world: PoolWorld;
  readonly #dice: Dice;
  /** What the last look wrote. */
  #wrote = false;

  constructor(world: PoolWorld, dice: Dice) {
    this.#world = world;
    this.#dice = dice;
  }

  #fails(share: number): boolean {
    return !this.#world.calm && this.#dice.chance(share);
  }

  readonly reconcile = (): void => {
    const world = this.#world;
    const seen = world.fleet.observe();
    const trial = trialOf(seen);
    const actions = planPool(seen);
    const status = poolStatus(seen);
    this.plans++;
    this.most = Math.max(this.most, seen.children.length);
    if (actions.length > 0) world.note(brief(actions));
    checkPlan(world, actions, status);
    const failed = this.#carryOut(actions);
    const again = nextLookMs(trial, seen.pool.status?.rollout?.canary, status.rollout?.canary);
    if (again !== undefined) world.reconcileIn(again);
    // Its own writes to children come back as events of the cache.
    if (actions.length > 0) world.reconcileIn(failed ? 1000 : 100);
    this.#writeStatus(status);
    this.#wrote ||= actions.length > 0;
  };

  #carryOut(actions: readonly PoolAction[]): boolean {
    const failed = new Set<string>();
    for (const action of actions) {
      const name = nameOf(action);
      if (failed.has(name) || this.#fails(0.02)) {
        failed.add(name);
        continue;
      }
      this.actions++;
      this.#world.carryOut(action);
    }
    return failed.size > 0;
  }

  #writeStatus(status: PoolStatus): void {
    const world = this.#world;
    const before = world.pool.status;
    if (canonical(status) === canonical(before ?? {})) return;
    this.#wrote = true;
    const { reason, message } = status.conditions?.find(({ type }) => type === "Progressing") ?? {};
    world.note(`  status ${reason}: ${message?.slice(0, 120)}`);
    if (this.#fails(0.02)) {
      world.reconcileIn(1000);
      return;
    }
    // The pool goes another way, for a reason: nodes on their way are told so.
    if (wayOf(status) !== wayOf(before)) world.wish++;
    world.fleet.pool = { ...world.pool, status };
  }

  /** Faults end, and people ask for nothing more: the pool gets to where it is to be, and is left alone there. */
  settle(): void {
    const world = this.#world;
    world.calm = true;
    for (const host of world.lostHosts) world.loseHost(host, false);
    for (const [name, truth] of world.truths) if (truth.failed) world.fail(name, false);
    // Tenants may stay for good, where they may be at all.
    for (const [name, { taken }] of world.truths)
      if (taken && world.pool.spec.capacity === "Guaranteed") world.take(name, false);
    world.fleet.mayRestart = true;
    world.traffic = true;
    world.setPool({ strategy: { ...world.pool.spec.strategy, paused: false } });
    world.setStrategy({ partition: 0 });
    const limit = 8;
    for (let hour = 0; !world.quiet; hour++) {
      if (hour === limit && this.#needsPerson()) return;
      if (hour === limit) throw new Violation("I8", `the pool does not come to rest within ${limit} hours`);
      world.runUntil(world.fleet.now + 3_600_000, this.reconcile);
    }
    this.#checkEnd();
    this.#wrote = false;
    for (let day = 0; day < 3; day++) {
      world.fleet.now += 86_400_000;
      this.reconcile();
    }
    if (this.#wrote) throw new Violation("I8", "the pool was at rest, and something was written");
  }

  /**
   * So many nodes cannot run what the others run that the budget has no room for the trial: one may promote the config, or
   * raise maxUnavailable. A node that is stuck on what is tried is none of these: it ends the trial.
   */
  #needsPerson(): boolean {
    const { pool, fleet } = this.#world;
    const { target, canary } = pool.status?.rollout ?? {};
    const stuck = [...fleet.children.values()].filter(({ status }) =>
      status?.conditions?.some(({ reason }) => reason === "EngineFailed"),
    );
    return (
      canary === "Running" &&
      stuck.length > 0 &&
      stuck.every(({ status }) => status?.config?.target !== target)
    );
  }

  #checkEnd(): void {
    const { pool, fleet, allowed, configs } = this.#world;
    const { autoRollback } = pool.spec.strategy.rollingUpdate;
    const { rejected = [], rollout } = pool.status ?? {};
    if (fleet.children.size !== pool.spec.replicas)
      throw new Violation(
        "I8",
        `${fleet.children.size} nodes are left where ${pool.spec.replicas} are wanted`,
      );
    const asked = pool.spec.template.spec.config?.pin ?? fleet.current;
    const isPromoted = pool.metadata.annotations?.["resultity.com/promote"] === asked;
    const rejection = isPromoted ? undefined : rejected.find(({ digest }) => digest === asked);
    const wanted = rejection ? rejection.instead : asked;
    if (rollout?.canary === "Running") throw new Violation("I8", "a trial goes on, though there is traffic");
    if (rollout?.canary === "Failed") {
      const nothingElse = new Set([...fleet.children.values()].map(({ status }) => status?.config?.applied));
      if (
        autoRollback &&
        [...nothingElse].some((digest) => digest !== undefined && digest !== asked && allowed.has(digest))
      )
        throw new Violation("I8", "a trial has failed, and the pool has not gone back");
      return;
    }
    // A config that does not come up, and that nothing keeps the pool from, is where a person comes in.
    if (wanted === undefined || !allowed.has(wanted)) return;
    if (configs.get(wanted)?.broken === true) return;
    for (const [name, { spec, status }] of fleet.children) {
      if (spec.replicas === 0) continue;
      const { target, applied } = status?.config ?? {};
      if (this.#world.truth(name).taken && spec.capacity === "Opportunistic") {
        if (target === wanted) continue;
        throw new Violation("I8", `${name} waits for GPUs and would come back with ${target?.slice(0, 12)}`);
      }
      if (target !== wanted || applied !== wanted || !this.#world.truth(name).serving)
        throw new Violation(
          "I8",
          `${name} is to run ${wanted.slice(0, 12)}, was told ${target?.slice(0, 12)}, runs ${applied?.slice(0, 12)}`,
        );
    }
  }
}

const nameOf = (action: PoolAction): string =>
  action.type === "budget" ? "" : action.type === "create" ? action.name : action.child.metadata.name;

/** A plan in a line: what is told, and whom. */
function brief(actions: readonly PoolAction[]): string {
  const words = actions.slice(0, 12).map((action) => {
    if (action.type === "budget") return `budget ${action.minAvailable}`;
    return `${action.type} ${nameOf(action)}${action.type === "target" ? ` ${action.digest.slice(7, 11)}` : ""}`;
  });
  return `  ${words.join(", ")}${actions.length > 12 ? ` and ${actions.length - 12} more` : ""}`;
}
