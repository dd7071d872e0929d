import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { DispatchAction, From, RestoredAttempt } from "../../../src/io/dispatch/types.ts";
import type { JobId } from "../../../src/protocol/fields.ts";
import { Floor, jobId, report } from "./floor.ts";

/** What a disk has of an asynchronous job. */
interface OnDisk {
  readonly deadline: number;
  attempt: RestoredAttempt | null;
  state: "open" | "committed" | "ended";
}

/** A write on its way to the disk. */
type Write =
  | { readonly put: "attempt"; readonly job: JobId; readonly attempt: RestoredAttempt }
  | { readonly put: "commit"; readonly job: JobId }
  | { readonly put: "end"; readonly job: JobId };

/** A job as an agent holds it: what it was offered, and whether its result is on the agent's disk. */
interface Held {
  readonly job: JobId;
  readonly attempt: number;
  readonly token: string;
  finished: boolean;
}

/** An honest agent: believes what its session says, forgets what it is told to, keeps finished results over a restart. */
class Agent {
  readonly name: string;
  readonly held = new Map<JobId, Held>();
  process = 0;
  from: From | undefined;

  constructor(name: string) {
    this.name = name;
  }

  hears(to: From): boolean {
    return this.from?.node === to.node && this.from.epoch === to.epoch;
  }

  forget(job: JobId, attempt: number): void {
    if (this.held.get(job)?.attempt === attempt) this.held.delete(job);
  }
}

const jobMs = 7_200_000;

/** Dispatch with a disk that may lose what was not synced, and agents that may lose what they have not finished. */
class World {
  readonly floor = new Floor({ asyncJobMs: jobMs }, () => 0.3);
  readonly agents = ["n0", "n1", "n2"].map((name) => new Agent(name));
  readonly disk = new Map<JobId, OnDisk>();
  /** Every attempt that was ever offered, with its token. */
  readonly offered = new Map<string, string>();
  pending: Write[] = [];

  submit(): void {
    const number = this.disk.size;
    // The disk has it before anyone is told.
    const deadline = this.floor.clock.now() + jobMs;
    this.disk.set(jobId(number), { deadline, attempt: null, state: "open" });
    this.see(() => void this.floor.submit(number, { durable: true, stream: false }));
  }

  /** Lets something happen, and the world react to what dispatch wants of it. */
  see(happen: () => void): void {
    const from = this.floor.actions.length;
    happen();
    for (const action of this.floor.actions.slice(from)) this.react(action);
  }

  react(action: DispatchAction): void {
    switch (action.do) {
      case "keep-attempt": {
        const { job, ...attempt } = action;
        this.pending.push({ put: "attempt", job, attempt: { ...attempt, account: "acme" } });
        return;
      }
      case "offer": {
        // On the disk first, and never two attempts of one number.
        expect(this.disk.get(action.job)).toMatchObject({
          state: "open",
          attempt: { attempt: action.attempt, token: action.token, node: action.to.node },
        });
        const name = `${action.job} ${action.attempt}`;
        expect(this.offered.has(name)).toBe(false);
        this.offered.set(name, action.token);
        const { job, attempt, token } = action;
        this.hearer(action.to)?.held.set(job, { job, attempt, token, finished: false });
        return;
      }
      case "verify":
        this.see(() => {
          const { job, attempt } = action;
          this.floor.let({ on: "verified", job, attempt, verdict: { is: "sound" } });
        });
        return;
      case "commit":
        this.pending.push({ put: "commit", job: action.job });
        return;
      case "end":
        this.pending.push({ put: "end", job: action.job });
        return;
      case "ack":
        if (action.status === "committed") expect(this.isCommitOf(action.job, action)).toBe(true);
        this.hearer(action.to)?.forget(action.job, action.attempt);
        return;
      case "look-up":
        // The store answers: committed or stale, in both cases the agent forgets it.
        this.hearer(action.to)?.forget(action.job, action.attempt);
        return;
      case "cancel":
        this.hearer(action.to)?.forget(action.job, action.attempt);
        return;
      case "lost":
        for (const { job, attempt } of action.leases) this.hearer(action.to)?.forget(job, attempt);
        return;
      case "verdict":
        for (const { job, attempt, action: what } of action.jobs) {
          if (what === "committed") expect(this.isCommitOf(job, { to: action.to, attempt })).toBe(true);
          if (what !== "keep") this.hearer(action.to)?.forget(job, attempt);
        }
        return;
      default:
    }
  }

  isCommitOf(job: JobId, { to, attempt }: { readonly to: From; readonly attempt: number }): boolean {
    const kept = this.disk.get(job);
    return kept?.state === "committed" && kept.attempt?.attempt === attempt && kept.attempt.node === to.node;
  }

  hearer(to: From): Agent | undefined {
    return this.agents.find((agent) => agent.hears(to));
  }

  connect(agent: Agent): void {
    this.see(() => {
      agent.from = this.floor.open(agent.name, `${agent.name}-${agent.process}`);
    });
    const { from } = agent;
    if (!from) return;
    const jobs = [...agent.held.values()].map(({ finished, ...lease }) => ({
      ...lease,
      next_offset: 0,
      finished,
    }));
    const committed = new Map(
      jobs.flatMap(({ job, attempt }) =>
        this.isCommitOf(job, { to: from, attempt }) ? [[job, "receipt"] as const] : [],
      ),
    );
    this.see(() => void this.floor.let({ on: "resume", from, jobs, last: true, committed }));
    this.report(agent);
    // Results that wait go out as the verdict said.
    for (const held of agent.held.values()) if (held.finished) this.send(agent, held);
  }

  report(agent: Agent): void {
    const { from } = agent;
    if (from) this.see(() => void this.floor.let({ on: "report", from, report: report() }));
  }

  send(agent: Agent, held: Held): void {
    const { from } = agent;
    if (from) this.see(() => void this.floor.let({ on: "result", from, lease: held }));
  }

  drop(agent: Agent, orderly: boolean): void {
    const { from } = agent;
    agent.from = undefined;
    if (from) this.see(() => void this.floor.let({ on: "close", from, orderly }));
  }

  /** The disk takes the first `count` writes; `told` unless the service dies meanwhile. */
  sync(count: number, told = true): void {
    for (const write of this.pending.splice(0, count)) {
      const kept = this.disk.get(write.job);
      if (!kept) throw new Error("a write of a job that was never submitted");
      // I2: exactly one end, at most one commit.
      expect(kept.state).toBe("open");
      if (write.put === "attempt") {
        expect(write.attempt.attempt).toBeGreaterThan(kept.attempt?.attempt ?? 0);
        kept.attempt = write.attempt;
      } else {
        kept.state = write.put === "commit" ? "committed" : "ended";
      }
      if (!told) continue;
      const { job } = write;
      if (write.put === "attempt") {
        const { attempt } = write.attempt;
        this.see(() => void this.floor.let({ on: "attempt-kept", job, attempt }));
      } else if (write.put === "commit") {
        this.see(() => void this.floor.let({ on: "durable", job }));
      }
    }
  }

  /** kill -9 of the service: of what was being written, the disk has the first `survive` writes. */
  crash(survive: number): void {
    this.sync(survive, false);
    this.pending = [];
    for (const agent of this.agents) agent.from = undefined;
    this.floor.reboot();
    for (const [id, { state, deadline, attempt }] of this.disk) {
      if (state !== "open") continue;
      const job = { id, consumer: "someone", model: "m", stream: false, durable: true };
      const lifeMs = deadline - this.floor.clock.now();
      this.see(() => void this.floor.let({ on: "restore", job, lifeMs, attempt }));
    }
  }

  pass(ms: number): void {
    this.see(() => void this.floor.pass(ms));
    for (const agent of this.agents) this.report(agent);
  }

  take(step: Step): void {
    const agent = this.agents["agent" in step ? step.agent : 0];
    if (!agent) return;
    const held = [...agent.held.values()];
    const chosen = "pick" in step ? held[step.pick % Math.max(1, held.length)] : undefined;
    switch (step.step) {
      case "submit":
        return this.submit();
      case "connect":
        return this.connect(agent);
      case "vanish":
      case "leave":
        return this.drop(agent, step.step === "leave");
      case "kill":
        for (const each of held) if (!each.finished) agent.held.delete(each.job);
        agent.process++;
        return this.drop(agent, false);
      case "finish":
        if (!chosen) return;
        chosen.finished = true;
        return this.send(agent, chosen);
      case "hand-back": {
        const { from } = agent;
        if (!chosen || chosen.finished || !from) return;
        agent.held.delete(chosen.job);
        const nack = { code: step.code, reason: "because" } as const;
        return this.see(() => void this.floor.let({ on: "nack", from, lease: chosen, ...nack }));
      }
      case "cancel": {
        const job = [...this.disk.keys()][step.pick % Math.max(1, this.disk.size)];
        if (job) this.see(() => void this.floor.let({ on: "abandon", job, reason: "cancelled" }));
        return;
      }
      case "sync":
        return this.sync(step.count);
      case "crash":
        return this.crash(step.count);
      case "pass":
        return this.pass(step.ms);
      default:
        step satisfies never;
    }
  }
}

type Step =
  | { readonly step: "submit" }
  | { readonly step: "connect" | "vanish" | "leave" | "kill"; readonly agent: number }
  | { readonly step: "finish"; readonly agent: number; readonly pick: number }
  | {
      readonly step: "hand-back";
      readonly agent: number;
      readonly pick: number;
      readonly code: "E_BUSY" | "E_ENGINE";
    }
  | { readonly step: "cancel"; readonly pick: number }
  | { readonly step: "sync" | "crash"; readonly count: number }
  | { readonly step: "pass"; readonly ms: number };

const agent = fc.nat(2);
const pick = fc.nat(20);
const count = fc.nat(4);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ step: fc.constant("submit" as const) }) },
  {
    weight: 6,
    arbitrary: fc.record({
      step: fc.constantFrom("connect" as const, "connect" as const, "vanish" as const, "kill" as const),
      agent,
    }),
  },
  { weight: 1, arbitrary: fc.record({ step: fc.constant("leave" as const), agent }) },
  { weight: 6, arbitrary: fc.record({ step: fc.constant("finish" as const), agent, pick }) },
  {
    weight: 1,
    arbitrary: fc.record({
      step: fc.constant("hand-back" as const),
      agent,
      pick,
      code: fc.constantFrom("E_BUSY" as const, "E_ENGINE" as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ step: fc.constant("cancel" as const), pick }) },
  { weight: 8, arbitrary: fc.record({ step: fc.constant("sync" as const), count: fc.nat(6) }) },
  { weight: 3, arbitrary: fc.record({ step: fc.constant("crash" as const), count }) },
  {
    weight: 3,
    arbitrary: fc.record({
      step: fc.constant("pass" as const),
      ms: fc.constantFrom(10, 1_100, 6_000, 31_000, 46_000),
    }),
  },
);

describe("asynchronous jobs, the service killed at any moment", () => {
  it("F45 an attempt is on the disk before its offer, a commit before its ack; none is lost, none ends twice", () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 80, size: "max" }), (steps) => {
        const world = new World();
        for (const each of steps) world.take(each);
        // When the faults stop, honest agents bring every job to an end.
        for (const each of world.agents) world.connect(each);
        for (let round = 0; round < 60; round++) {
          world.sync(world.pending.length);
          for (const each of world.agents) {
            for (const held of each.held.values()) {
              held.finished = true;
              world.send(each, held);
            }
          }
          world.sync(world.pending.length);
          world.pass(5_000);
        }
        world.sync(world.pending.length);
        expect([...world.disk.values()].filter(({ state }) => state === "open")).toEqual([]);
        expect(world.floor.dispatch.unfinished).toBe(0);
        expect(world.agents.flatMap(({ held }) => [...held.values()])).toEqual([]);
      }),
      { numRuns: 400 },
    );
  });
});
