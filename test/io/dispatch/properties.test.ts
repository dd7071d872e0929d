import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { DispatchAction, From } from "../../../src/io/dispatch/types.ts";
import type { JobId } from "../../../src/protocol/fields.ts";
import { Floor, nodeId, report } from "./floor.ts";

/** One thing that a fleet under faults does; numbers pick nodes, jobs and offers among those that there are. */
type Step =
  | { readonly step: "submit"; readonly stream: boolean; readonly durable: boolean }
  | { readonly step: "connect" | "vanish" | "leave" | "restart" | "ban"; readonly node: number }
  | { readonly step: "chunk" | "result" | "refuse" | "engine-error" | "busy"; readonly offer: number }
  | { readonly step: "abandon"; readonly offer: number }
  | { readonly step: "durable" }
  | { readonly step: "pass"; readonly ms: number };

const nodes = 4;
const node = fc.nat(nodes - 1);
const offer = fc.nat(50);
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      step: fc.constant("submit" as const),
      stream: fc.boolean(),
      durable: fc.boolean(),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      step: fc.constantFrom(
        "connect" as const,
        "connect" as const,
        "vanish" as const,
        "leave" as const,
        "restart" as const,
        "ban" as const,
      ),
      node,
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      step: fc.constantFrom(
        "chunk" as const,
        "result" as const,
        "result" as const,
        "refuse" as const,
        "engine-error" as const,
        "busy" as const,
        "abandon" as const,
      ),
      offer,
    }),
  },
  { weight: 1, arbitrary: fc.record({ step: fc.constant("durable" as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      step: fc.constant("pass" as const),
      ms: fc.constantFrom(10, 900, 6_000, 15_000, 31_000),
    }),
  },
);

type Offer = Extract<DispatchAction, { do: "offer" }>;

/** A fleet of agents that do what the steps say, honest about what they hold. */
class Fleet {
  readonly floor = new Floor({ queueMs: 300_000, jobMs: 3_600_000, asyncJobMs: 3_600_000 }, () => 0.3);
  readonly sessions = new Map<number, From>();
  readonly instances = new Map<number, number>();
  readonly banned = new Set<number>();
  readonly sent = new Map<string, number>();
  readonly jobs: JobId[] = [];
  readonly durable = new Set<JobId>();

  get offers(): readonly Offer[] {
    return this.floor.of("offer");
  }

  /** Whether a client sees the job's output as it comes. */
  isShown(job: JobId): boolean {
    return this.jobs.indexOf(job) % 2 === 0 && !this.durable.has(job);
  }

  pick(index: number): Offer | undefined {
    return this.offers.length === 0 ? undefined : this.offers[index % this.offers.length];
  }

  /** The open session that would speak about an offer now, even if the offer is long stale. */
  speaker({ to }: Offer): From {
    for (const from of this.sessions.values()) if (from.node === to.node) return from;
    return to;
  }

  connect(at: number): void {
    const name = `n${at}`;
    const from = this.floor.open(name, `${name}-${this.instances.get(at) ?? 0}`);
    this.sessions.set(at, from);
    // Every second offer to it is still held, as far as the agent believes.
    const held = this.offers
      .filter(({ to }, index) => to.node === from.node && index % 2 === 0)
      .map(({ job, attempt, token }) => ({ job, attempt, token, next_offset: 0, finished: false }))
      .slice(-20);
    this.floor.let({ on: "resume", from, jobs: held, last: true, committed: new Map() });
    this.floor.let({ on: "report", from, report: report() });
  }

  submit(stream: boolean, durable: boolean): void {
    const job = this.floor.submit(this.jobs.length, { stream: stream && !durable, durable });
    this.jobs.push(job);
    if (durable) this.durable.add(job);
  }

  take(step: Step): void {
    const { floor } = this;
    switch (step.step) {
      case "submit":
        this.submit(step.stream, step.durable);
        return;
      case "connect":
        this.connect(step.node);
        return;
      case "restart":
        this.instances.set(step.node, (this.instances.get(step.node) ?? 0) + 1);
        this.connect(step.node);
        return;
      case "vanish":
      case "leave": {
        const from = this.sessions.get(step.node);
        if (from) floor.let({ on: "close", from, orderly: step.step === "leave" });
        this.sessions.delete(step.node);
        return;
      }
      case "ban": {
        const banned = !this.banned.has(step.node);
        if (banned) this.banned.add(step.node);
        else this.banned.delete(step.node);
        floor.let({ on: "ban", node: nodeId(`n${step.node}`), banned });
        return;
      }
      case "pass":
        floor.pass(step.ms);
        for (const from of this.sessions.values()) floor.let({ on: "report", from, report: report() });
        return;
      case "durable":
        for (const { job } of floor.of("commit")) floor.let({ on: "durable", job });
        floor.keepAttempts();
        return;
      default:
        this.say(step);
    }
  }

  say({ step, offer: index }: Extract<Step, { offer: number }>): void {
    const { floor } = this;
    const chosen = this.pick(index);
    if (!chosen) return;
    const from = this.speaker(chosen);
    if (step === "abandon") {
      floor.let({ on: "abandon", job: chosen.job, reason: "gone" });
    } else if (step === "chunk") {
      const offset = floor.dispatch.job(chosen.job)?.received ?? 0;
      floor.chunk(chosen, offset, 10, this.isShown(chosen.job), from);
    } else if (step === "result") {
      const committed = floor.result(chosen, from).some((action) => action.do === "commit");
      // The fence: only the newest attempt's own token commits.
      if (committed) expect(chosen.attempt).toBe(floor.offer(chosen.job).attempt);
    } else if (step === "refuse") {
      floor.let({ on: "result", from, lease: chosen });
      const verdict = { is: "refused", reason: "hash" } as const;
      floor.let({ on: "verified", job: chosen.job, attempt: chosen.attempt, verdict });
    } else {
      const code = step === "busy" ? "E_BUSY" : "E_ENGINE";
      floor.let({ on: "nack", from, lease: chosen, code, reason: "because" });
    }
  }
}

function checkInvariants(fleet: Fleet): void {
  const { floor, jobs, durable } = fleet;
  const commits = new Map<JobId, number>();
  const ended = new Map<JobId, number>();
  const attempts = new Map<JobId, number>();
  const pinned = new Set<JobId>();
  for (const action of floor.actions) {
    if (action.do === "commit") {
      commits.set(action.job, (commits.get(action.job) ?? 0) + 1);
      // I4: the committed attempt is the newest that was offered.
      expect(action.attempt).toBe(attempts.get(action.job));
    } else if (action.do === "end") {
      ended.set(action.job, (ended.get(action.job) ?? 0) + 1);
    } else if (action.do === "keep-attempt") {
      expect(action.attempt).toBe((attempts.get(action.job) ?? 0) + 1);
      expect(commits.has(action.job) || ended.has(action.job)).toBe(false);
      attempts.set(action.job, action.attempt);
    } else if (action.do === "offer") {
      const kept = durable.has(action.job) ? 0 : 1;
      expect(action.attempt).toBe((attempts.get(action.job) ?? 0) + kept);
      expect(commits.has(action.job) || ended.has(action.job)).toBe(false);
      expect(pinned.has(action.job)).toBe(false);
      attempts.set(action.job, action.attempt);
    } else if (action.do === "relay") {
      expect(commits.has(action.job) || ended.has(action.job)).toBe(false);
      if (fleet.isShown(action.job)) pinned.add(action.job);
    }
  }
  let queued = 0;
  for (const job of jobs) {
    const over = (commits.get(job) ?? 0) + (ended.get(job) ?? 0);
    expect(over).toBeLessThanOrEqual(1);
    const held = floor.dispatch.job(job);
    expect(held === undefined || held.state === "COMMITTED").toBe(over === 1);
    if (held?.state === "QUEUED") queued++;
    const holders = [0, 1, 2, 3, 9].filter((at) => floor.dispatch.node(nodeId(`n${at}`))?.leases.has(job));
    expect(holders.length).toBe(held?.leased ? 1 : 0);
  }
  expect(floor.dispatch.queued + floor.dispatch.asyncQueued).toBe(queued);
}

describe("dispatch under faults", () => {
  it("commits a job at most once, ends it exactly once, gives one lease at a time and loses nothing", () => {
    fc.assert(
      fc.property(fc.array(anyStep, { minLength: 1, maxLength: 60, size: "max" }), (steps) => {
        const fleet = new Fleet();
        for (const step of steps) {
          fleet.take(step);
          checkInvariants(fleet);
        }
        // When the faults stop, an honest node with room brings every job to an end.
        for (const at of fleet.sessions.keys()) fleet.take({ step: "leave", node: at });
        const { floor } = fleet;
        const from = floor.connect("n9", { slots: 100 });
        for (let round = 0; round < 100; round++) {
          floor.keepAttempts();
          for (const given of fleet.offers) if (given.to.node === from.node) floor.result(given, from);
          floor.pass(5_000);
          floor.let({ on: "report", from, report: report({ slots: 100 }) });
        }
        fleet.take({ step: "durable" });
        checkInvariants(fleet);
        expect(floor.dispatch.unfinished).toBe(0);
      }),
      { numRuns: 400 },
    );
  });
});
