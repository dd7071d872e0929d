import { describe, expect, it } from "vitest";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import { Floor, jobId, nodeId, report } from "./floor.ts";

describe("a job's way", () => {
  it("QUEUED → OFFERED → RUNNING → RESULT_RECEIVED → COMMITTED → CONFIRMED, the ack after the disk", () => {
    const floor = new Floor();
    const job = floor.submit(1);
    expect(floor.dispatch.job(job)?.state).toBe("QUEUED");
    const from = floor.connect("a");
    const offer = floor.offer(job);
    expect(offer).toMatchObject({ to: from, attempt: 1 });
    expect(floor.dispatch.job(job)?.state).toBe("OFFERED");
    expect(floor.chunk(offer, 0, 10)).toEqual([{ do: "relay", job, skip: 0 }]);
    expect(floor.dispatch.job(job)?.state).toBe("RUNNING");
    expect(floor.let({ on: "result", from, lease: offer })).toEqual([{ do: "verify", job, attempt: 1 }]);
    expect(floor.dispatch.job(job)?.state).toBe("RESULT_RECEIVED");
    floor.let({ on: "verified", job, attempt: 1, verdict: { is: "sound" } });
    expect(floor.of("commit")).toEqual([{ do: "commit", job, attempt: 1, node: from.node }]);
    expect(floor.of("ack")).toEqual([]);
    expect(floor.let({ on: "durable", job })).toEqual([
      { do: "ack", to: from, job, attempt: 1, status: "committed" },
    ]);
    expect(floor.dispatch.unfinished).toBe(0);
  });

  it("waits for a node, and ends EXPIRED when none comes", () => {
    const floor = new Floor({ queueMs: 5_000 });
    const job = floor.submit(1);
    floor.pass(4_999);
    expect(floor.of("end")).toEqual([]);
    floor.pass(1);
    expect(floor.of("end", job)).toMatchObject([{ state: "EXPIRED", code: "no_capacity" }]);
    floor.connect("a");
    expect(floor.offers(job)).toEqual([]);
  });

  it("ends EXPIRED at its deadline even while its lease is renewed", () => {
    const floor = new Floor({ jobMs: 60_000 });
    const from = floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    for (let at = 0; at < 6; at++) {
      floor.let({ on: "renew", from, leases: [offer] });
      floor.pass(10_000);
    }
    expect(floor.of("end", job)).toMatchObject([{ state: "EXPIRED", code: "timeout" }]);
    expect(floor.of("cancel", job)).toHaveLength(1);
  });

  it("is cancelled when the client goes; a result that comes after is stale", () => {
    const floor = new Floor();
    floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    floor.let({ on: "abandon", job, reason: "gone" });
    expect(floor.of("end", job)).toMatchObject([{ state: "CANCELLED" }]);
    expect(floor.of("cancel", job)).toMatchObject([{ attempt: 1 }]);
    expect(floor.result(offer)).toMatchObject([{ do: "look-up", job }]);
    expect(floor.of("commit")).toEqual([]);
  });
});

describe("retries", () => {
  it("F35 three failures at 0, +1 s, +5 s, then DEAD with the reasons of all three", () => {
    const floor = new Floor();
    for (const name of ["a", "b", "c"]) floor.connect(name);
    const job = floor.submit(1);
    const at: number[] = [];
    for (let attempt = 1; attempt <= 3; attempt++) {
      while (floor.offers(job).length < attempt) floor.pass(100);
      at.push(floor.clock.monotonic());
      floor.nack(floor.offer(job));
    }
    expect(at.map((ms) => Math.round(ms / 1000))).toEqual([0, 1, 6]);
    const [end] = floor.of("end", job);
    expect(end).toMatchObject({ state: "DEAD", code: "job_failed" });
    for (const attempt of [1, 2, 3]) expect(end?.reason).toContain(`attempt ${attempt} on`);
    expect(new Set(floor.offers(job).map(({ to }) => to.node)).size).toBe(3);
  });

  it("a busy or draining node hands back at once and without harm to the job or itself", () => {
    const floor = new Floor();
    floor.connect("a");
    const job = floor.submit(1);
    const first = floor.offer(job);
    floor.connect("b");
    floor.nack(first, "E_BUSY");
    expect(floor.offer(job)).toMatchObject({ attempt: 2, to: { node: nodeId("b") } });
    expect(floor.dispatch.job(job)?.failures).toBe(0);
    expect(floor.dispatch.node(nodeId("a"))?.standing.at(floor.clock.monotonic())).toBe(0);
  });

  it("a node that said E_BUSY is asked again after a second", () => {
    const floor = new Floor();
    floor.connect("a");
    const job = floor.submit(1);
    floor.nack(floor.offer(job), "E_BUSY");
    expect(floor.offers(job)).toHaveLength(1);
    floor.pass(999);
    expect(floor.offers(job)).toHaveLength(1);
    floor.pass(1);
    expect(floor.offers(job)).toHaveLength(2);
  });

  it("an engine's 5xx goes elsewhere; a result that contradicts what was relayed is refused and punished", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    floor.let({ on: "result", from, lease: offer });
    floor.let({ on: "verified", job, attempt: 1, verdict: { is: "refused", reason: "hash" } });
    expect(floor.of("ack", job)).toMatchObject([{ status: "refused" }]);
    expect(floor.of("commit")).toEqual([]);
    expect(
      floor.dispatch.node(nodeId("a"))?.standing.deprioritisedUntil(floor.clock.monotonic()),
    ).toBeGreaterThan(60_000);
    floor.pass(1_000);
    expect(floor.offers(job)).toHaveLength(2);
  });
});

describe("leases", () => {
  it("run out after 30 s without a word; heartbeats and every message of the job renew them", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    floor.pass(29_000);
    floor.let({ on: "renew", from, leases: [offer] });
    floor.pass(29_000);
    floor.chunk(offer, 0, 1, false);
    floor.pass(29_000);
    floor.let({ on: "accept", from, lease: offer });
    floor.pass(29_999);
    expect(floor.dispatch.job(job)?.leased).toBe(true);
    floor.pass(1);
    expect(floor.dispatch.job(job)).toMatchObject({ leased: false, state: "QUEUED", failures: 1 });
  });

  it("F24 a late result commits as long as the job was not offered again", () => {
    const floor = new Floor();
    floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    floor.pass(30_500);
    expect(floor.dispatch.job(job)?.state).toBe("QUEUED");
    floor.result(offer);
    expect(floor.of("commit", job)).toHaveLength(1);
    floor.pass(60_000);
    expect(floor.offers(job)).toHaveLength(1);
  });

  it("F24 after the next offer the late result is stale, and the old node is told to stop", () => {
    const floor = new Floor();
    const a = floor.connect("a", { slots: 1 });
    const job = floor.submit(1);
    const first = floor.offer(job);
    const b = floor.connect("b");
    floor.pass(29_000);
    floor.let({ on: "report", from: a, report: report({ slots: 1 }) });
    floor.let({ on: "report", from: b, report: report() });
    floor.pass(2_500);
    const second = floor.offer(job);
    expect(second).toMatchObject({ attempt: 2, to: { node: nodeId("b") } });
    expect(floor.of("cancel", job)).toMatchObject([{ to: a, attempt: 1 }]);
    expect(floor.result(first)).toMatchObject([{ do: "ack", status: "stale" }]);
    floor.result(second);
    expect(floor.of("commit", job)).toEqual([{ do: "commit", job, attempt: 2, node: nodeId("b") }]);
  });

  it("are named as lost to a node that still believes in them", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    const ghost = { job: jobId("ghost"), attempt: 1, token: "x" };
    floor.let({ on: "renew", from, leases: [offer, ghost, { ...offer, token: "forged" }] });
    expect(floor.of("lost").at(-1)?.leases).toEqual([
      { job: ghost.job, attempt: 1 },
      { job, attempt: 1 },
    ]);
  });
});

describe("a node that goes", () => {
  it("F38 before the first shown byte its job runs elsewhere after the grace", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    floor.chunk(offer, 0, 5, false);
    floor.let({ on: "close", from, orderly: false });
    floor.connect("b");
    floor.pass(10_900);
    expect(floor.offers(job)).toHaveLength(1);
    floor.pass(200);
    expect(floor.offer(job)).toMatchObject({ attempt: 2, to: { node: nodeId("b") } });
    expect(floor.of("restart", job)).toHaveLength(1);
  });

  it("F39 after it the stream ends INTERRUPTED when the lease is over, and never goes elsewhere", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    floor.chunk(offer, 0, 5);
    floor.let({ on: "close", from, orderly: false });
    floor.connect("b");
    floor.pass(29_999);
    expect(floor.of("end")).toEqual([]);
    floor.pass(1);
    expect(floor.of("end", job)).toMatchObject([{ state: "INTERRUPTED", code: "node_lost" }]);
    floor.pass(120_000);
    expect(floor.offers(job)).toHaveLength(1);
  });

  it("F40 the same process goes on from the offset on a new session", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    floor.chunk(offer, 0, 50);
    floor.let({ on: "close", from, orderly: false });
    floor.pass(5_000);
    const back = floor.open("a");
    const held = { job, attempt: 1, token: offer.token, next_offset: 80, finished: false };
    floor.let({ on: "resume", from: back, jobs: [held], last: true, committed: new Map() });
    expect(floor.of("verdict").at(-1)?.jobs).toEqual([{ job, attempt: 1, action: "keep", offset: 50 }]);
    expect(floor.chunk(offer, 40, 40, true, back)).toEqual([{ do: "relay", job, skip: 10 }]);
    floor.result(offer, back);
    expect(floor.of("commit", job)).toHaveLength(1);
  });

  it("another process of the same node cannot go on with a stream that was shown", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    floor.chunk(offer, 0, 50);
    floor.let({ on: "close", from, orderly: false });
    const back = floor.open("a", "other-process");
    const held = { job, attempt: 1, token: offer.token, next_offset: 80, finished: true };
    floor.let({ on: "resume", from: back, jobs: [held], last: true, committed: new Map() });
    expect(floor.of("verdict").at(-1)?.jobs).toMatchObject([{ action: "cancel" }]);
    expect(floor.of("end", job)).toMatchObject([{ state: "INTERRUPTED" }]);
  });

  it("gets no offers and loses no jobs before its last resume frame; then what it does not name is lost", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const kept = floor.submit(1);
    const lost = floor.submit(2);
    const [keptOffer, lostOffer] = [floor.offer(kept), floor.offer(lost)];
    floor.let({ on: "close", from, orderly: false });
    const back = floor.open("a");
    floor.let({ on: "report", from: back, report: report() });
    const waiting = floor.submit(3);
    floor.pass(60_000 - 1);
    expect(floor.offers(waiting)).toEqual([]);
    expect(floor.dispatch.job(lost)?.leased).toBe(true);
    const held = { job: kept, attempt: 1, token: keptOffer.token, next_offset: 0, finished: false };
    floor.let({ on: "resume", from: back, jobs: [held], last: false, committed: new Map() });
    expect(floor.dispatch.job(lost)?.leased).toBe(true);
    floor.let({ on: "resume", from: back, jobs: [], last: true, committed: new Map() });
    expect(floor.dispatch.job(kept)?.leased).toBe(true);
    expect(floor.dispatch.job(lost)).toMatchObject({ leased: false, state: "QUEUED" });
    expect(floor.result(lostOffer, back)).toMatchObject([{ do: "ack", status: "stale" }]);
  });

  it("F31 frames of a session that was superseded are not heard", () => {
    const floor = new Floor();
    const old = floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    floor.open("a", "second-process");
    expect(floor.chunk(offer, 0, 5, true, old)).toEqual([]);
    expect(floor.result(offer, old)).toEqual([]);
    expect(floor.let({ on: "close", from: old, orderly: false })).toEqual([]);
    expect(floor.dispatch.node(nodeId("a"))?.connected).toBe(true);
  });

  it("leaves in order: its jobs go elsewhere at once", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    const job = floor.submit(1);
    floor.connect("b");
    floor.let({ on: "close", from, orderly: true });
    expect(floor.offer(job)).toMatchObject({ attempt: 2, to: { node: nodeId("b") } });
    expect(floor.dispatch.node(nodeId("a"))?.standing.at(floor.clock.monotonic())).toBe(0);
  });

  it.each([
    { gone: 6, of: 11, punished: 6 },
    { gone: 7, of: 12, punished: 0 },
    { gone: 5, of: 9, punished: 5 },
  ])("F33 $gone of $of nodes gone at once: $punished are punished", ({ gone, of, punished }) => {
    const floor = new Floor();
    const all = Array.from({ length: of }, (_, at) => floor.connect(`n${at}`, { slots: 1 }));
    for (let at = 0; at < of; at++) floor.submit(at);
    for (const from of all.slice(0, gone)) floor.let({ on: "close", from, orderly: false });
    const standings = all.map(
      ({ node }) => floor.dispatch.node(node)?.standing.at(floor.clock.monotonic()) ?? 0,
    );
    expect(standings.filter((penalty) => penalty > 0.01)).toHaveLength(punished);
  });
});

describe("who gets a job", () => {
  const other = `sha256:${"2".repeat(64)}` as ConfigDigest;
  it.each([
    ["is not accepting", { accepting: false }],
    ["has no slot", { slots: 0 }],
    ["serves another model", { models: ["other"] }],
    ["runs a config that is not allowed", { config: other }],
  ])("not a node that %s", (_why, load) => {
    const floor = new Floor();
    floor.connect("a", load);
    expect(floor.offers(floor.submit(1))).toEqual([]);
  });

  it("not a node whose config has expired, or whose report is too old, or that is banned", () => {
    const floor = new Floor();
    const from = floor.connect("a");
    floor.clock.skew(86_400_000);
    const job = floor.submit(1);
    expect(floor.offers(job)).toEqual([]);
    floor.clock.skew(-86_400_000);
    floor.pass(30_001);
    const second = floor.submit(2);
    expect(floor.offers(second)).toEqual([]);
    floor.let({ on: "ban", node: from.node, banned: true });
    floor.let({ on: "report", from, report: report() });
    expect(floor.offers(second)).toEqual([]);
    floor.let({ on: "ban", node: from.node, banned: false });
    floor.let({ on: "report", from, report: report() });
    expect(floor.offers(second)).toHaveLength(1);
  });

  it("spreads over nodes by load", () => {
    const floor = new Floor();
    floor.connect("a", { slots: 4 });
    floor.connect("b", { slots: 4 });
    const nodes = [1, 2, 3, 4].map((at) => floor.offer(floor.submit(at)).to.node);
    expect(nodes.filter((node) => node === nodeId("a"))).toHaveLength(2);
  });

  it("F34 a slow node goes behind, and comes back after a while", () => {
    let order = 0;
    const floor = new Floor({}, () => order);
    floor.connect("fast", { slots: 1 });
    const slow = floor.connect("slow", { slots: 1 });
    const [one, two] = [floor.offer(floor.submit(1)), floor.offer(floor.submit(2))];
    const [quick, tardy] = one.to.node === slow.node ? [two, one] : [one, two];
    floor.pass(100);
    floor.result(quick);
    floor.pass(9_900);
    floor.result(tardy);
    for (let at = 3; at < 10; at++) {
      const offer = floor.offer(floor.submit(at));
      expect(offer.to.node).toBe(nodeId("fast"));
      floor.pass(100);
      floor.result(offer);
    }
    floor.pass(300_000);
    for (const name of ["fast", "slow"])
      floor.let({ on: "report", from: { node: nodeId(name), epoch: 1 }, report: report({ slots: 1 }) });
    const chosen = [0, 0.5].map((start, at) => {
      order = start;
      const offer = floor.offer(floor.submit(`again${at}`));
      floor.result(offer);
      return offer.to.node;
    });
    expect(chosen).toContain(slow.node);
  });

  it("takes turns between consumers, however many jobs one has waiting", () => {
    const floor = new Floor();
    for (let at = 0; at < 6; at++) floor.submit(`a${at}`, { consumer: "greedy" });
    floor.submit("b0", { consumer: "modest" });
    floor.connect("n", { slots: 3 });
    expect(floor.of("offer").map(({ job }) => job)).toEqual([jobId("a0"), jobId("b0"), jobId("a1")]);
  });

  it("has room for so many waiting jobs and no more", () => {
    const floor = new Floor({ maxQueued: 3, maxQueuedPerConsumer: 2 });
    floor.submit(1, { consumer: "a" });
    floor.submit(2, { consumer: "a" });
    expect(floor.dispatch.hasRoom("a", "m")).toBe(false);
    expect(floor.dispatch.hasRoom("b", "m")).toBe(true);
    floor.submit(3, { consumer: "b" });
    expect(floor.dispatch.hasRoom("c", "m")).toBe(false);
  });
});

describe("B23 bad messages of a job", () => {
  it.each([
    ["another node's", { node: nodeId("b"), epoch: 1 }, {}],
    ["a wrong token", { node: nodeId("a"), epoch: 1 }, { token: "forged" }],
    ["another attempt", { node: nodeId("a"), epoch: 1 }, { attempt: 2 }],
  ])("a result with %s commits nothing", (_what, from, change) => {
    const floor = new Floor();
    floor.connect("a", { slots: 1 });
    const job = floor.submit(1);
    floor.connect("b");
    const offer = floor.offer(job);
    floor.let({ on: "result", from, lease: { ...offer, ...change } });
    expect(floor.of("verify")).toEqual([]);
    expect(floor.of("ack", job)).toMatchObject([{ status: "stale" }]);
    floor.result(offer);
    expect(floor.of("commit")).toHaveLength(1);
  });

  it("a gap in the output loses the attempt", () => {
    const floor = new Floor();
    floor.connect("a");
    const job = floor.submit(1);
    const offer = floor.offer(job);
    floor.chunk(offer, 0, 5, false);
    expect(floor.chunk(offer, 6, 5, false)).toContainEqual(expect.objectContaining({ do: "cancel" }));
    expect(floor.dispatch.job(job)?.token).toBe("");
  });

  it("output without end is cut", () => {
    const floor = new Floor({ maxOutputBytes: 100 });
    floor.connect("a");
    const job = floor.submit(1);
    floor.chunk(floor.offer(job), 0, 101);
    expect(floor.of("end", job)).toMatchObject([{ state: "DEAD", code: "output_too_large" }]);
  });
});
