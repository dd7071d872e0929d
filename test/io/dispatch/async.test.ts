import { describe, expect, it } from "vitest";
import type { From, JobSpec, RestoredAttempt } from "../../../src/io/dispatch/types.ts";
import type { JobId } from "../../../src/protocol/fields.ts";
import { Floor, jobId, nodeId, report } from "./floor.ts";

const hour = 3_600_000;

function submit(floor: Floor, name: number, change: Partial<JobSpec> = {}): JobId {
  return floor.submit(name, { durable: true, stream: false, ...change });
}

/** A job that is offered, its attempt on the disk. */
function offered(floor: Floor, name = 1): JobId {
  const job = submit(floor, name);
  floor.keepAttempts();
  return job;
}

/** The service is killed; what it finds is one job with its newest attempt. */
function restored(floor: Floor, job: JobId, attempt: Partial<RestoredAttempt> | null, lifeMs = hour): void {
  floor.reboot();
  const whole = { attempt: 1, node: nodeId("a"), account: "acme", token: "old", failures: 0, reasons: [] };
  floor.let({
    on: "restore",
    job: { id: job, consumer: "someone", model: "m", stream: false, durable: true },
    lifeMs,
    attempt: attempt && { ...whole, ...attempt },
  });
}

const held = (job: JobId, token: string, attempt = 1, finished = true) => [
  { job, attempt, token, next_offset: 9, finished },
];

function resume(floor: Floor, from: From, jobs: ReturnType<typeof held> = []) {
  floor.let({ on: "resume", from, jobs, last: true, committed: new Map() });
}

describe("an asynchronous job's attempt", () => {
  it("is offered when it is on the disk, and not before; its lease begins then", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = submit(floor, 1);
    const kept = { do: "keep-attempt", job, attempt: 1, node: from.node, token: "token-1" };
    expect(floor.of("keep-attempt")).toEqual([{ ...kept, failures: 0, reasons: [] }]);
    floor.pass(40_000);
    expect(floor.offers(job)).toEqual([]);
    floor.let({ on: "renew", from, leases: [] });
    floor.keepAttempts();
    expect(floor.offer(job)).toMatchObject({ to: from, attempt: 1, token: "token-1" });
    floor.pass(29_999);
    expect(floor.dispatch.job(job)?.leased).toBe(true);
    floor.pass(1);
    expect(floor.dispatch.job(job)).toMatchObject({ leased: false, failures: 1 });
  });

  it("is given up, and is nobody's failure, if its node went meanwhile", () => {
    const floor = new Floor();
    const from = floor.connect("a", { slots: 1 });
    const job = submit(floor, 1);
    floor.let({ on: "close", from, orderly: false });
    floor.connect("b");
    floor.keepAttempts();
    expect(floor.offers(job)).toEqual([]);
    expect(floor.of("keep-attempt").at(-1)).toMatchObject({ attempt: 2, node: nodeId("b") });
    floor.keepAttempts();
    expect(floor.offer(job)).toMatchObject({ attempt: 2, to: { node: nodeId("b") } });
    expect(floor.dispatch.job(job)?.failures).toBe(0);
  });

  it("is not offered when the job was cancelled or given up meanwhile, also not on a word from the disk that comes late", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const cancelled = submit(floor, 1);
    floor.let({ on: "abandon", job: cancelled, reason: "cancelled" });
    const lost = submit(floor, 2);
    const back = floor.open("a");
    resume(floor, back);
    floor.keepAttempts();
    expect(floor.of("offer")).toMatchObject([{ job: lost, attempt: 2, to: back }]);
    expect(floor.dispatch.job(lost)).toMatchObject({ failures: 0 });
    expect(floor.of("end", cancelled)).toMatchObject([{ state: "CANCELLED" }]);
    expect(from.epoch).toBe(1);
  });

  it("waits for its node with the whole lease when the session breaks: nobody waits on a connection", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = offered(floor);
    floor.let({ on: "close", from, orderly: false });
    floor.connect("b");
    floor.pass(29_000);
    expect(floor.of("keep-attempt")).toHaveLength(1);
    const { token } = floor.offer(job);
    const back = floor.open("a");
    resume(floor, back, held(job, token));
    expect(floor.of("verdict").at(-1)?.jobs).toEqual([{ job, attempt: 1, action: "keep", offset: 0 }]);
    floor.result(floor.offer(job), back);
    expect(floor.of("commit", job)).toHaveLength(1);
  });

  it("F28 whose commit is on the way to the disk is to be kept by its node; the ack follows the disk", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = offered(floor);
    floor.result(floor.offer(job));
    floor.let({ on: "close", from, orderly: false });
    const back = floor.open("a");
    resume(floor, back, held(job, floor.offer(job).token));
    expect(floor.of("verdict").at(-1)?.jobs).toMatchObject([{ job, action: "keep" }]);
    expect(floor.result(floor.offer(job), back)).toEqual([]);
    expect(floor.let({ on: "durable", job })).toMatchObject([{ do: "ack", to: back, status: "committed" }]);
  });
});

describe("an asynchronous job that waits", () => {
  it("waits for hours, goes after every job that somebody waits for, and takes turns between consumers", () => {
    const floor = new Floor();
    const many = [1, 2, 3].map((at) => submit(floor, at, { consumer: "busy" }));
    const other = submit(floor, 4, { consumer: "other" });
    floor.pass(20 * hour);
    const someone = floor.submit(5);
    const from = floor.connect("a", { slots: 1 });
    const order = [];
    for (let at = 0; at < 5; at++) {
      floor.keepAttempts();
      const offer = floor.of("offer").at(-1);
      if (!offer) break;
      order.push(offer.job);
      floor.result(offer, from);
      floor.let({ on: "durable", job: offer.job });
      floor.let({ on: "report", from, report: report({ slots: 1 }) });
    }
    expect(order).toEqual([someone, many[0], other, many[1], many[2]]);
  });

  it("does not take room from synchronous ones", () => {
    const floor = new Floor({ maxQueued: 2, maxQueuedPerConsumer: 2 });
    for (let at = 0; at < 5; at++) submit(floor, at);
    expect(floor.dispatch.hasRoom("someone", "m")).toBe(true);
    expect(floor.dispatch).toMatchObject({ queued: 0, asyncQueued: 5 });
  });

  it("ends EXPIRED after its own life, waiting or running", () => {
    const floor = new Floor({ asyncJobMs: hour });
    const waiting = submit(floor, 1, { model: "other" });
    const from = floor.connect("a");
    const running = offered(floor, 2);
    while (floor.clock.monotonic() < hour + 1_000) {
      floor.pass(20_000);
      floor.let({ on: "renew", from, leases: [floor.offer(running)] });
    }
    expect(floor.of("end", waiting)).toMatchObject([{ state: "EXPIRED", code: "no_capacity" }]);
    expect(floor.of("end", running)).toMatchObject([{ state: "EXPIRED", code: "timeout" }]);
  });

  it("F35 is DEAD after three failures, with the reasons of all three", () => {
    const floor = new Floor();
    for (const name of ["a", "b", "c"]) floor.connect(name);
    const job = offered(floor);
    for (let attempt = 1; attempt <= 3; attempt++) {
      while (floor.offers(job).length < attempt) {
        floor.pass(100);
        floor.keepAttempts();
      }
      floor.nack(floor.offer(job));
    }
    const [end] = floor.of("end", job);
    expect(end).toMatchObject({ state: "DEAD", code: "job_failed" });
    for (const attempt of [1, 2, 3]) expect(end?.reason).toContain(`attempt ${attempt} on`);
  });

  it("F21 is not held for its whole life by an engine that hangs: an attempt has an hour, at the node and here", () => {
    const floor = new Floor({ asyncAttemptMs: hour });
    const from = floor.connect("a");
    const job = offered(floor);
    const first = floor.offer(job);
    expect(first.deadlineMs).toBe(hour);
    const renewUntil = (end: number) => {
      while (floor.clock.monotonic() < end) {
        floor.let({ on: "renew", from, leases: [first] });
        floor.let({ on: "report", from, report: report() });
        floor.pass(Math.min(10_000, end - floor.clock.monotonic()));
      }
    };
    renewUntil(hour + 29_999);
    expect(floor.dispatch.job(job)).toMatchObject({ attempt: 1, leased: true });
    renewUntil(hour + 35_000);
    expect(floor.of("cancel", job)).toMatchObject([{ attempt: 1 }]);
    floor.keepAttempts();
    expect(floor.offer(job)).toMatchObject({ attempt: 2 });
    expect(floor.dispatch.job(job)?.failures).toBe(1);
  });

  it("F26 survives nodes that refuse it for a day, since their disks are full", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = offered(floor);
    while (floor.clock.monotonic() < 23 * hour) {
      const { attempt } = floor.offer(job);
      floor.nack(floor.offer(job), "E_BUSY");
      for (let at = 0; floor.offer(job).attempt === attempt && at < 100; at++) {
        floor.pass(2_000);
        floor.let({ on: "report", from, report: report() });
        floor.keepAttempts();
      }
    }
    expect(floor.of("end")).toEqual([]);
    expect(floor.offer(job).attempt).toBeLessThan(900);
    floor.result(floor.offer(job));
    expect(floor.of("commit", job)).toHaveLength(1);
  });

  it("ends when its input can no longer be had", () => {
    const floor = new Floor();
    floor.connect("a");
    const job = submit(floor, 1);
    floor.let({ on: "spoiled", job, reason: "its input is gone" });
    expect(floor.of("end", job)).toMatchObject([{ state: "DEAD", code: "job_failed" }]);
    floor.keepAttempts();
    expect(floor.offers(job)).toEqual([]);
  });
});

describe("a job that a restarted service finds", () => {
  it("waits 45 s for the node that has it, which resumes it and commits", () => {
    const floor = new Floor();
    const job = jobId(1);
    restored(floor, job, {});
    floor.connect("b");
    floor.pass(44_000);
    expect(floor.of("keep-attempt")).toEqual([]);
    const back = floor.open("a");
    resume(floor, back, held(job, "old"));
    expect(floor.of("verdict").at(-1)?.jobs).toEqual([{ job, attempt: 1, action: "keep", offset: 0 }]);
    floor.let({
      on: "chunk",
      from: back,
      lease: { job, attempt: 1, token: "old" },
      offset: 0,
      bytes: 9,
      visible: false,
    });
    floor.let({ on: "result", from: back, lease: { job, attempt: 1, token: "old" } });
    floor.let({ on: "verified", job, attempt: 1, verdict: { is: "sound" } });
    expect(floor.of("commit", job)).toMatchObject([{ attempt: 1, node: nodeId("a") }]);
  });

  it("goes elsewhere after that, as nobody's failure; a late result commits until the next offer, and not after", () => {
    for (const late of [true, false]) {
      const floor = new Floor();
      const job = jobId(1);
      restored(floor, job, { failures: 2, reasons: ["attempt 0 on x: y"] });
      floor.pass(45_000);
      expect(floor.dispatch.job(job)).toMatchObject({ state: "QUEUED", failures: 2 });
      if (!late) {
        floor.connect("b");
        floor.keepAttempts();
        expect(floor.offer(job)).toMatchObject({ attempt: 2, to: { node: nodeId("b") } });
      }
      const back = floor.open("a");
      resume(floor, back, held(job, "old"));
      expect(floor.of("verdict").at(-1)?.jobs[0]?.action).toBe(late ? "keep" : "cancel");
    }
  });

  it("is lost at once, and counts no failure, if its node comes back without it", () => {
    const floor = new Floor();
    const job = jobId(1);
    restored(floor, job, {});
    floor.connect("a");
    floor.keepAttempts();
    expect(floor.offer(job)).toMatchObject({ attempt: 2 });
    expect(floor.dispatch.job(job)?.failures).toBe(0);
  });

  it("does not lose its grace to a session that breaks before the node has said what it holds", () => {
    const floor = new Floor();
    const job = jobId(1);
    restored(floor, job, {});
    floor.let({ on: "close", from: floor.open("a"), orderly: false });
    floor.pass(44_000);
    expect(floor.dispatch.job(job)?.leased).toBe(true);
  });

  it("commits nothing with another token, attempt or node", () => {
    const floor = new Floor();
    const job = jobId(1);
    restored(floor, job, { attempt: 2 });
    const a = floor.connect("other");
    for (const lease of [
      { job, attempt: 2, token: "forged" },
      { job, attempt: 1, token: "old" },
      { job, attempt: 2, token: "old" },
    ])
      floor.let({ on: "result", from: a, lease });
    expect(floor.of("verify")).toEqual([]);
  });

  it("was never offered: it is queued at once; past its deadline it ends", () => {
    const floor = new Floor();
    restored(floor, jobId(1), null);
    floor.connect("a");
    expect(floor.of("keep-attempt")).toMatchObject([{ attempt: 1 }]);
    restored(floor, jobId(2), null, -5);
    floor.pass(1);
    expect(floor.of("end", jobId(2))).toMatchObject([{ state: "EXPIRED" }]);
  });

  it("keeps the slot of its node taken, and has time to be resumed also past its deadline", () => {
    const floor = new Floor();
    restored(floor, jobId(1), {}, -5);
    floor.pass(1);
    const back = floor.open("a");
    resume(floor, back, held(jobId(1), "old", 1, false));
    floor.let({ on: "report", from: back, report: report({ slots: 1 }) });
    expect(floor.offers(floor.submit(2))).toEqual([]);
  });
});
