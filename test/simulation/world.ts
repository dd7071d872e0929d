import { createHash } from "node:crypto";
import { Plan } from "./plan.ts";
import { Dice } from "./random.ts";

/** Something that must never happen has happened. `id`: the invariant. */
export class Violation extends Error {
  readonly id: string;

  constructor(id: string, what: string) {
    super(`${id}: ${what}`);
    this.id = id;
  }
}

/** Something planned; `cancel` takes it back. */
export interface Planned {
  cancel(): void;
}

interface Step {
  readonly label: string;
  readonly run: () => void | Promise<void>;
  readonly paused: (() => number) | undefined;
  off: boolean;
}

/** Steps that a report of a failure shows, where nobody says how many. */
const keptTrace = 60;
/** Steps that tell a reader nothing. */
const dull = /^\S+ timer$|^sync$|^store read$/;
/** Turns of the event loop in which what a step has set off comes to rest: fastify reads and answers in turns of its own. */
const turnsOfHttp = 6;

/**
 * Simulated time and the order of everything that happens in it. One step at a time: a step runs, all promises and
 * in-process requests that it has set off come to rest, the invariants are checked, and only then time goes on.
 */
export class World {
  readonly dice: Dice;
  /** Milliseconds since the world began. */
  now = 0;
  steps = 0;
  /** Called after every step. */
  check: () => void = () => {};
  readonly #plan = new Plan<Step>();
  readonly #hash = createHash("sha1");
  readonly #trace: string[] = [];
  /** Turns of the event loop that the current step still needs. */
  #turns = 1;
  readonly #held: Promise<unknown>[] = [];
  #problem: unknown;

  readonly #kept: number;

  constructor(seed: number, kept = keptTrace) {
    this.#kept = kept;
    this.dice = new Dice(`seed ${seed}`);
  }

  /** Plans a step `ms` from now. `paused`: until when (world time) its process stands still; it then waits. */
  plan(ms: number, label: string, run: Step["run"], paused?: () => number): Planned {
    const step: Step = { label, run, paused, off: false };
    this.#plan.add(this.now + Math.max(0, ms), step);
    return { cancel: () => (step.off = true) };
  }

  /** Something in the current step has gone into in-process HTTP. */
  usesHttp(): void {
    this.#turns = turnsOfHttp;
  }

  /** The current step is not over before this is. */
  hold(until: Promise<unknown>): void {
    this.#held.push(until);
  }

  /** Notes what a step has done: part of the trace and of its hash. */
  note(text: string): void {
    this.#hash.update(text);
    if (dull.test(text)) return;
    this.#trace.push(`${(this.now / 1000).toFixed(3)} #${this.steps} ${text.slice(0, 300)}`);
    if (this.#trace.length > 2 * this.#kept) this.#trace.splice(0, this.#kept);
  }

  /** Something has gone wrong where nobody can be told by a throw. The first one counts. */
  fail(problem: unknown): void {
    this.#problem ??= problem;
  }

  get trace(): readonly string[] {
    return this.#trace.slice(-this.#kept);
  }

  /** The same for two runs of one seed. */
  get hash(): string {
    return this.#hash.copy().digest("hex");
  }

  /** Steps until `until` (world time), or until `done` says so. */
  async run(until: number, done: () => boolean = () => false): Promise<void> {
    while (!done()) {
      const next = this.#plan.next;
      if (next === undefined || next > until) {
        this.now = until;
        return;
      }
      const step = this.#plan.take();
      if (!step || step.off) continue;
      this.now = Math.max(this.now, next);
      const paused = step.paused?.() ?? 0;
      if (paused > this.now) {
        this.#plan.add(paused, step);
        continue;
      }
      await this.#take(step);
    }
  }

  async #take(step: Step): Promise<void> {
    this.steps++;
    this.#turns = 1;
    if (step.label !== "") this.note(step.label);
    await step.run();
    for (let turn = 0; turn < this.#turns; turn++) await new Promise((resolve) => void setImmediate(resolve));
    for (let held = this.#held.shift(); held; held = this.#held.shift()) await held;
    if (this.#problem !== undefined) throw this.#problem;
    this.check();
  }
}
