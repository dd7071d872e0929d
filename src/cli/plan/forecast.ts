import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import {
  admit,
  budgetSize,
  isInService,
  isLeaving,
  isMoving,
  isParked,
  isReady,
  minAvailableOf,
  type PoolAction,
  type PoolObservation,
  planPool,
  trialOf,
  updateOf,
  wantedDigest,
} from "../../operator/pool/plan.ts";
import { Paper } from "./paper.ts";

/** What is done to one node, in one go. */
export interface ForecastStep {
  readonly node: string;
  readonly does: readonly PoolAction["type"][];
  readonly reason: string;
  /** Nodes that are in service while it is done. */
  readonly inService: number;
  /** When it begins, in restarts one after the other from now on. */
  readonly at: number;
}

/** A moment from which on so many nodes are in service. */
export interface CurvePoint {
  /** In restarts one after the other from now on. */
  readonly at: number;
  readonly inService: number;
}

/** How a pool's plan goes on, if each node that is told to move or to leave does so. */
export interface Forecast {
  /** In order. Those that are under way already are in {@link underWay}. */
  readonly steps: readonly ForecastStep[];
  /** Nodes that were told before now and have not arrived. */
  readonly underWay: readonly string[];
  /** Nodes that would have to move and never get room, because others are out of service for another reason, or time. */
  readonly held: readonly string[];
  /** Out of service and not told to move: nothing in the plan brings them back. */
  readonly unwell: readonly string[];
  readonly inServiceNow: number;
  /** Fewest that are in service at any step. */
  readonly lowest: number;
  /** How many are in service from when on. */
  readonly curve: readonly CurvePoint[];
  /** When all is done, in restarts one after the other from now on. */
  readonly length: number;
  /** Nodes that try the config first; taken to pass. */
  readonly trial: readonly string[];
  /** Nodes that the budget is about, and the fewest of them that the operator keeps in service. */
  readonly size: number;
  readonly minAvailable: number;
}

/** Plans of a whole pool that are worked out at most: a few suffice, whatever happens, and a fault must not hang the command. */
const mostPlans = 200;

/**
 * Carries the plan forward on paper, to its end. The whole pool is planned anew whenever something else than a node's arrival
 * decides what comes next; between that, nodes are let go one by one, as room comes free, by the planner's own
 * admission. So an answer for 10,000 nodes takes a handful of plans.
 *
 * @param refuses whether a node never arrives at what it is told
 */
export function forecast(
  seen: PoolObservation,
  refuses: (child: ResultityNode) => boolean = () => false,
): Forecast {
  const run = new Run(seen, refuses);
  run.go();
  const size = budgetSize(seen.pool, seen.children);
  const stepped = new Set(run.steps.map(({ node }) => node));
  return {
    steps: run.steps,
    underWay: run.underWay,
    held: heldBack(run.paper),
    unwell: unwellOf(seen).filter((name) => !stepped.has(name)),
    inServiceNow: run.inServiceNow,
    lowest: run.lowest,
    curve: run.curve,
    length: run.clock,
    trial: run.trial,
    size,
    minAvailable: minAvailableOf(seen.pool, size),
  };
}

class Run {
  readonly paper: Paper;
  readonly steps: ForecastStep[] = [];
  readonly underWay: readonly string[];
  readonly inServiceNow: number;
  readonly curve: CurvePoint[] = [];
  trial: readonly string[] = [];
  lowest: number;
  clock = 0;
  /** Which step of {@link steps} a node that has not arrived is in. */
  readonly #open = new Map<string, number>();
  /** When those that were told arrive. */
  readonly #due = new Map<string, number>();

  constructor(seen: PoolObservation, refuses: (child: ResultityNode) => boolean) {
    this.paper = new Paper(seen, refuses);
    this.underWay = [...this.paper.told];
    this.inServiceNow = this.paper.serving;
    this.lowest = this.inServiceNow;
    for (const name of this.underWay) this.#due.set(name, 1);
  }

  go(): void {
    for (let plans = 0; plans < mostPlans; plans++) {
      if (this.#perform(planPool(this.paper.look()))) {
        this.#letGo();
        continue;
      }
      if (this.paper.told.size > 0) {
        for (const name of this.paper.told) this.#arrive(name);
        continue;
      }
      if (!this.#passTrial()) break;
    }
    this.#note();
  }

  /** Has the nodes that wait for room go as others arrive, until there is nobody left who could go or arrive. */
  #letGo(): void {
    const look = this.paper.look();
    const { due, serving, minAvailable } = updateOf(look);
    let room = serving - minAvailable;
    for (const each of due) {
      // For a window no arrival makes room.
      if (each.restarted && !each.edited && !look.mayRestart) continue;
      for (;;) {
        const { actions, takes } = admit(look, each, room);
        if (takes > 0 || !(each.edited || each.restarted)) {
          room -= takes;
          this.#perform(actions);
          break;
        }
        const [next] = this.paper.told;
        if (next === undefined || this.paper.isLeaving(next)) return;
        const before = this.paper.serving;
        this.#arrive(next);
        room += this.paper.serving - before;
      }
    }
  }

  /** Does what is planned; false where that moves nobody, as the budget does, and what is prepared for later. */
  #perform(actions: readonly PoolAction[]): boolean {
    const groups = new Map<string, PoolAction[]>();
    for (const action of actions) {
      this.paper.apply(action);
      if (action.type === "budget" || action.type === "prepare") continue;
      const name = action.type === "create" ? action.name : action.child.metadata.name;
      const group = groups.get(name);
      if (group) group.push(action);
      else groups.set(name, [action]);
    }
    const inService = this.paper.serving;
    this.lowest = Math.min(this.lowest, inService);
    for (const [node, group] of groups) {
      const does = group.map(({ type }) => type);
      const open = this.#open.get(node);
      const before = open === undefined ? undefined : this.steps[open];
      if (open !== undefined && before) {
        this.steps[open] = { ...before, does: [...before.does, ...does], inService };
      } else {
        this.#open.set(node, this.steps.length);
        this.steps.push({ node, does, reason: group[0]?.reason ?? "", inService, at: this.clock });
      }
      if (this.paper.told.has(node) && !this.#due.has(node)) this.#due.set(node, this.clock + 1);
    }
    return groups.size > 0;
  }

  #arrive(name: string): void {
    const at = Math.max(this.clock, this.#due.get(name) ?? this.clock);
    if (at > this.clock) this.#note();
    this.clock = at;
    this.paper.arrive(name);
    this.#due.delete(name);
    this.#open.delete(name);
  }

  /** What is in service from the clock's time on, once all that happens at that time has. */
  #note(): void {
    const inService = this.paper.serving;
    if (this.curve.at(-1)?.inService !== inService) this.curve.push({ at: this.clock, inService });
  }

  /** Nobody knows how a trial will end: what comes after one that is passed is what is asked for. */
  #passTrial(): boolean {
    const look = this.paper.look();
    const target = wantedDigest(look);
    const trial = trialOf(look);
    if (trial.state !== "running" || target === undefined) return false;
    const names = [...trial.members];
    const there = look.children.filter(({ metadata }) => trial.members.has(metadata.name));
    if (there.some((child) => !isInService(look, child))) return false;
    this.trial = names;
    this.paper.passTrial(target);
    return true;
  }
}

/** Nodes that the plan would move if there were no budget, no window and no pause, and does not. */
function heldBack(paper: Paper): string[] {
  const seen = paper.look();
  const { pool } = seen;
  const { canary: _, ...update } = pool.spec.strategy.rollingUpdate;
  const strategy = { rollingUpdate: { ...update, maxUnavailable: "100%" }, paused: false };
  const free = planPool({ ...seen, mayRestart: true, pool: { ...pool, spec: { ...pool.spec, strategy } } });
  const names = free.flatMap((action) =>
    action.type === "budget" || action.type === "prepare"
      ? []
      : [action.type === "create" ? action.name : action.child.metadata.name],
  );
  return [...new Set(names)];
}

function unwellOf({ children }: PoolObservation): string[] {
  return children
    .filter((child) => !isLeaving(child) && !isParked(child) && !isReady(child) && !isMoving(child))
    .map(({ metadata }) => metadata.name);
}
