import { beforeEach, describe, expect, it } from "vitest";
import { trustRoot } from "../../../src/protocol/config/root.ts";
import { jobIdField } from "../../../src/protocol/fields.ts";
import type { AgentKind, Body, Payload, ServiceKind } from "../../../src/protocol/messages.ts";
import { openReceipt } from "../../../src/protocol/receipt.ts";
import { NodeKeys } from "../../../src/agent/node-keys.ts";
import type { Offer } from "../../../src/agent/jobs/job.ts";
import { type Capacity, Jobs, type JobsChange, refusal } from "../../../src/agent/jobs/jobs.ts";
import { Results } from "../../../src/agent/jobs/results.ts";
import { type Lease, TransferError, type Transfers } from "../../../src/agent/jobs/transfers.ts";
import type { JobFrame } from "../../../src/agent/session/terms.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";
import { testIdentity, TestNetwork } from "../fixture/network.ts";
import { sha256 } from "../fixture/service.ts";

const network = new TestNetwork();
const identity = testIdentity(network);
const { digest } = network.config();
const id = jobIdField.parse("job-00000001");
const token = Buffer.alloc(16, 1).toString("base64url");
const sid = Buffer.alloc(16, 2).toString("base64url");
const events = { "content-type": "text/event-stream" };
const delta = (content: string) => `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`;
const done = "data: [DONE]\n\n";

/** A way to the service that remembers what went out. */
class FakeOutbox {
  open = true;
  writable = true;
  sent: { kind: AgentKind; body: unknown }[] = [];

  send<K extends AgentKind>(kind: K, body: Body<K>): boolean {
    if (this.open) this.sent.push({ kind, body });
    return this.open;
  }

  of<K extends AgentKind>(kind: K): Body<K>[] {
    return this.sent.filter((message) => message.kind === kind).map(({ body }) => body as Body<K>);
  }

  get output(): string {
    return this.of("chunk")
      .map(({ data }) => data)
      .join("");
  }
}

/** Transfers that a test ends by hand. */
class FakeTransfers implements Transfers {
  readonly begun: {
    readonly what: "fetch" | "upload";
    readonly bytes: Uint8Array | undefined;
    readonly signal: AbortSignal;
    readonly done: (bytes: Uint8Array) => void;
    readonly failed: (error: Error) => void;
  }[] = [];

  fetch(_lease: Lease, _input: unknown, signal: AbortSignal): Promise<Uint8Array> {
    return this.#begin("fetch", undefined, signal);
  }

  async upload(_lease: Lease, bytes: Uint8Array, _sha256: string, signal: AbortSignal): Promise<void> {
    await this.#begin("upload", bytes, signal);
  }

  get last() {
    const transfer = this.begun.at(-1);
    if (!transfer) throw new Error("nothing was transferred");
    return transfer;
  }

  #begin(what: "fetch" | "upload", bytes: Uint8Array | undefined, signal: AbortSignal): Promise<Uint8Array> {
    return new Promise((done, failed) => {
      this.begun.push({ what, bytes, signal, done, failed });
      signal.addEventListener("abort", () => failed(new Error("aborted")));
    });
  }
}

const frame = <K extends Exclude<ServiceKind, "heartbeat-ack">>(kind: K, body: Body<K>): JobFrame =>
  ({
    kind,
    kid: network.service.kid,
    verified: true,
    payload: { sid, seq: 1, ...body } as unknown as Payload<K>,
  }) as unknown as JobFrame;

const offer = (over: Partial<Offer> = {}): Offer => ({
  job: id,
  attempt: 1,
  token,
  model: "m1",
  endpoint: "/v1/chat/completions",
  stream: true,
  durable: false,
  body: '{"model":"m1"}',
  consumer: "someone",
  deadline_ms: 60_000,
  ...over,
});

let ports: FakePorts;
let outbox: FakeOutbox;
let capacity: Capacity;
let changes: JobsChange[];
let receipts: string[];
let transfers: FakeTransfers;
let results: Results;
let jobs: Jobs;
const limits = { count: 2, bytes: 200_000, each: 100_000 };

/** Jobs as a process has them that begins now: on the same disk. */
function newJobs(): Jobs {
  results = new Results(ports, "/state/results", limits, () => {});
  return new Jobs(ports, {
    identity: {
      network: network.name,
      nodeId: identity.nodeId,
      key: identity.key,
      keys: NodeKeys.of(identity.nodeId, identity.key),
      binding: identity.binding,
      root: trustRoot(network.rootStatement),
    },
    outbox,
    transfers,
    results,
    capacity: () => capacity,
    changed: (what) => changes.push(what),
    receipts: { delegated: () => {}, keep: (countersign) => receipts.push(countersign) },
  });
}

beforeEach(() => {
  ports = fakePorts();
  outbox = new FakeOutbox();
  changes = [];
  receipts = [];
  capacity = {
    accepting: true,
    slots: 2,
    config: digest,
    activeModels: ["m1"],
    enginePort: 20_000,
    tellJobId: true,
    maxOutputBytes: 100_000,
  };
  transfers = new FakeTransfers();
  jobs = newJobs();
});

const begin = (over: Partial<Offer> = {}) => jobs.frame(frame("offer", offer(over)));
const data = (text: string) => ports.http.last.handlers.data(Buffer.from(text));
const head = (status = 200) => ports.http.last.handlers.head({ status, headers: events });
const verdict = (action: "keep" | "cancel" | "committed", offset = 0) =>
  jobs.frame(frame("verdict", { jobs: [{ job: id, attempt: 1, action, offset }], last: true }));
const ack = (status: "committed" | "stale" | "refused") =>
  jobs.frame(frame("ack", { upto: 9, results: [{ job: id, attempt: 1, status }] }));

it("keeps the receipt of every committed result, also of a job that an earlier process has done", () => {
  const results = [{ job: id, attempt: 1, status: "committed" as const, receipt: "r" }];
  jobs.frame(frame("ack", { upto: 9, results }));
  ack("stale");
  expect(receipts).toEqual(["r"]);
});

describe("a streamed job", () => {
  it("asks the engine with the job's id, relays the first event at once and the next ones together", () => {
    begin();
    expect(ports.http.last.request).toMatchObject({
      method: "POST",
      url: "http://127.0.0.1:20000/v1/chat/completions",
      body: '{"model":"m1"}',
      headers: { "x-request-id": id },
    });
    head();
    data(delta("a"));
    expect(outbox.output).toBe(delta("a"));
    data(delta("b"));
    data(delta("c"));
    expect(outbox.of("chunk")).toHaveLength(1);
    ports.clock.advance(50);
    expect(outbox.of("chunk").map(({ offset, data: text }) => [offset, text])).toEqual([
      [0, delta("a")],
      [delta("a").length, delta("b") + delta("c")],
    ]);
  });

  it("ends with a result over all that was relayed, and a receipt that the node signed", () => {
    begin();
    ports.clock.advance(120);
    ports.http.last.answer(200, delta("a") + delta("b") + done, events);
    const [result] = outbox.of("result");
    expect(result).toMatchObject({
      outcome: "completed",
      status: 200,
      output_sha256: sha256(outbox.output),
      output_bytes: outbox.output.length,
      usage: { prompt_tokens: 0, completion_tokens: 2 },
      duration_ms: 120,
    });
    expect(openReceipt(result?.receipt ?? "", identity.key)).toMatchObject({
      config_digest: digest,
      input_sha256: sha256('{"model":"m1"}'),
      output_sha256: sha256(outbox.output),
      account: "acme",
      consumer: "someone",
    });
    expect(outbox.sent.map(({ kind }) => kind)).toEqual(["chunk", "result"]);
    expect([jobs.running, jobs.size]).toEqual([0, 1]);
    ack("committed");
    expect(jobs.size).toBe(0);
  });

  it("asks for its lease to be renewed until its result is on its way", () => {
    begin();
    expect(jobs.leases()).toEqual([{ job: id, attempt: 1, token }]);
    ports.http.last.answer(200, delta("a") + done, events);
    expect(jobs.leases()).toEqual([]);
    jobs.sessionEnded();
    expect(jobs.leases()).toHaveLength(1);
  });

  it("is accepted only after half a second of silence, and only once", () => {
    begin();
    ports.clock.advance(499);
    expect(outbox.of("accept")).toEqual([]);
    ports.clock.advance(1);
    expect(outbox.of("accept")).toEqual([{ job: id, attempt: 1, token }]);
    ports.clock.advance(5_000);
    expect(outbox.of("accept")).toHaveLength(1);
  });

  it("is not accepted apart when output came first", () => {
    begin();
    head();
    data(delta("a"));
    ports.clock.advance(1_000);
    expect(outbox.of("accept")).toEqual([]);
  });

  it("waits for a peer that does not keep up, and loses nothing", () => {
    begin();
    outbox.writable = false;
    head();
    data(delta("a"));
    data(done);
    ports.clock.advance(200);
    expect(outbox.sent.filter(({ kind }) => kind === "chunk")).toEqual([]);
    outbox.writable = true;
    ports.clock.advance(50);
    expect(outbox.output).toBe(delta("a") + done);
  });
});

describe("a fault of the engine", () => {
  it("hands the job back while nothing has been relayed", () => {
    begin();
    ports.http.last.handlers.failed(new Error("ECONNREFUSED"));
    expect(outbox.of("nack")).toMatchObject([{ code: "E_ENGINE" }]);
    expect(jobs.size).toBe(0);
    expect(changes).toContain("fault");
  });

  it.each([
    [429, "E_BUSY"],
    [404, "E_MODEL"],
    [503, "E_ENGINE"],
  ])("hands it back after HTTP %i as %s", (status, code) => {
    begin();
    ports.http.last.answer(status, "{}");
    expect(outbox.of("nack")).toMatchObject([{ code }]);
    expect(ports.http.last.aborted).toBe(true);
  });

  it("pins the attempt once something has been relayed: a failed result", () => {
    begin();
    head();
    data(delta("a"));
    data("data: half an ev");
    ports.http.last.handlers.failed(new Error("cut"));
    expect(outbox.of("nack")).toEqual([]);
    expect(outbox.of("result")).toMatchObject([
      { outcome: "failed", output_sha256: sha256(delta("a")), usage: { completion_tokens: 1 } },
    ]);
  });

  it("aborts at the deadline", () => {
    begin({ deadline_ms: 1_000 });
    ports.clock.advance(1_000);
    expect(ports.http.last.aborted).toBe(true);
    expect(outbox.of("nack")).toHaveLength(1);
  });

  it("bounds the output by what the config allows", () => {
    capacity = { ...capacity, maxOutputBytes: 100 };
    begin();
    head();
    data(delta("a"));
    data(delta("x".repeat(100)));
    expect(ports.http.last.aborted).toBe(true);
    expect(outbox.of("result")).toMatchObject([{ outcome: "failed", output_bytes: delta("a").length }]);
  });
});

describe("a lost session", () => {
  it("holds everything back until the service says from where it wants it", () => {
    begin();
    head();
    data(delta("a"));
    jobs.sessionEnded();
    data(delta("b"));
    ports.clock.advance(1_000);
    expect(outbox.of("chunk")).toHaveLength(1);
    const size = (delta("a") + delta("b")).length;
    expect(jobs.held()).toEqual([{ job: id, attempt: 1, token, next_offset: size, finished: false }]);

    outbox.sent = [];
    verdict("keep", 0);
    expect(outbox.of("chunk")).toMatchObject([{ offset: 0, data: delta("a") + delta("b") }]);
  });

  it("sends the same result again when the service wants it", () => {
    begin();
    ports.http.last.answer(200, delta("a") + done, events);
    const [first] = outbox.of("result");
    jobs.sessionEnded();
    expect(jobs.held()).toMatchObject([{ finished: true }]);
    outbox.sent = [];
    verdict("keep", outbox.output.length);
    expect(outbox.of("result")).toEqual([first]);
  });

  it.each(["cancel", "committed"] as const)("forgets the job on the verdict %s", (action) => {
    begin();
    jobs.sessionEnded();
    verdict(action);
    expect(jobs.size).toBe(0);
    expect(ports.http.last.aborted).toBe(true);
  });
});

describe("the fate of a job", () => {
  it("a cancelled job is stopped and says nothing more", () => {
    begin();
    jobs.frame(frame("cancel", { job: id, attempt: 1, reason: "client gone" }));
    expect(ports.http.last.aborted).toBe(true);
    expect(outbox.sent).toEqual([]);
    expect(jobs.totals.dropped).toBe(1);
  });

  it("a lost lease stops that attempt alone", () => {
    begin();
    jobs.lost([{ job: id, attempt: 2 }]);
    expect(jobs.size).toBe(1);
    jobs.lost([{ job: id, attempt: 1 }]);
    expect(jobs.size).toBe(0);
  });

  it.each(["stale", "refused"] as const)("a result that is %s is deleted", (status) => {
    begin();
    ports.http.last.answer(200, delta("a") + done, events);
    ack(status);
    expect(jobs.size).toBe(0);
  });

  it("the same offer twice runs once; a newer attempt replaces the older", () => {
    begin();
    begin();
    expect(ports.http.exchanges).toHaveLength(1);
    begin({ attempt: 2 });
    expect(ports.http.exchanges.map(({ aborted }) => aborted)).toEqual([true, false]);
    expect(jobs.running).toBe(1);
  });

  it("unfinished jobs are handed back, finished ones kept", () => {
    begin();
    ports.http.last.answer(200, delta("a") + done, events);
    begin({ job: jobIdField.parse("job-00000002") });
    jobs.handBack("the node drains");
    expect(outbox.of("nack")).toMatchObject([{ job: "job-00000002", code: "E_BUSY" }]);
    expect(jobs.size).toBe(1);
  });
});

describe("refusal", () => {
  const at = (over: Partial<Capacity>, running = 0) =>
    refusal({ model: "m1", durable: false }, { ...capacity, ...over }, running)?.code;

  it("names why an offer is not taken", () => {
    expect(at({})).toBeUndefined();
    expect(at({ config: null })).toBe("E_CONFIG");
    expect(at({ enginePort: undefined })).toBe("E_CONFIG");
    expect(at({ accepting: false })).toBe("E_BUSY");
    expect(at({ activeModels: ["m2"] })).toBe("E_MODEL");
    expect(at({}, 2)).toBe("E_BUSY");
  });

  it("is what the service hears", () => {
    capacity = { ...capacity, accepting: false, reason: "the node is draining" };
    begin();
    expect(outbox.of("nack")).toMatchObject([{ code: "E_BUSY", reason: "the node is draining" }]);
    expect(ports.http.exchanges).toEqual([]);
  });
});

/** Lets everything that waits for a promise of memory go on. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await Promise.resolve();
}

const plainHead = () => ports.http.last.handlers.head({ status: 200, headers: {} });
const answerPlain = (text: string) => {
  plainHead();
  data(text);
  ports.http.last.handlers.end();
};

describe("a durable job", () => {
  const file = "/state/results/job-00000001.1";

  beforeEach(async () => jobs.takeUp());

  it("says nothing of its output before the result is on the disk, and then sends it", async () => {
    begin({ durable: true });
    head();
    data(delta("a"));
    data(done);
    ports.clock.advance(400);
    ports.http.last.handlers.end();
    expect(outbox.sent).toEqual([]);
    expect(jobs.running).toBe(1);
    await settled();
    expect(ports.files.content.has(file)).toBe(true);
    expect(outbox.output).toBe(delta("a") + done);
    expect(outbox.of("result")).toHaveLength(1);
    expect(jobs.running).toBe(0);
  });

  it("is told, sent and acknowledged by the next process; its file goes with the ack, not before", async () => {
    begin({ durable: true, stream: false });
    answerPlain('{"a":1}');
    await settled();
    // The process is killed here: what it has sent is lost.
    outbox = new FakeOutbox();
    jobs = newJobs();
    await jobs.takeUp();
    expect(jobs.held()).toEqual([{ job: id, attempt: 1, token, next_offset: 7, finished: true }]);
    expect(outbox.sent).toEqual([]);
    verdict("keep");
    expect(outbox.output).toBe('{"a":1}');
    const [result] = outbox.of("result");
    expect(result).toMatchObject({ outcome: "completed", output_bytes: 7, output_sha256: sha256('{"a":1}') });
    expect(openReceipt(result?.receipt ?? "", identity.key)).toMatchObject({ job: id, consumer: "someone" });
    expect(ports.files.content.has(file)).toBe(true);
    jobs.sessionEnded();
    verdict("keep", 7);
    expect(outbox.of("result")).toHaveLength(2);
    ack("committed");
    expect(ports.files.content.has(file)).toBe(false);
    expect(jobs.size).toBe(0);
  });

  it.each(["committed", "cancel"] as const)(
    "is forgotten with its file when the verdict is %s",
    async (action) => {
      begin({ durable: true, stream: false });
      answerPlain("{}");
      await settled();
      jobs = newJobs();
      await jobs.takeUp();
      verdict(action);
      expect(jobs.size).toBe(0);
      expect(ports.files.content.has(file)).toBe(false);
      expect(outbox.of("result")).toHaveLength(1);
    },
  );

  it("that is cancelled while its result is being written leaves no file behind", async () => {
    begin({ durable: true, stream: false });
    answerPlain("{}");
    jobs.frame(frame("cancel", { job: id, attempt: 1, reason: "no" }));
    await settled();
    expect(ports.files.content.has(file)).toBe(false);
    expect(outbox.sent).toEqual([]);
    expect(jobs.size).toBe(0);
  });

  it("is handed back with the reason when the disk is full, and none is taken until it is not", async () => {
    ports.files.failing = true;
    begin({ durable: true, stream: false });
    answerPlain("{}");
    await settled();
    expect(outbox.of("nack")).toMatchObject([{ code: "E_BUSY", reason: expect.stringContaining("ENOSPC") }]);
    begin({ durable: true, attempt: 2 });
    expect(outbox.of("nack")).toHaveLength(2);
    expect(outbox.of("nack")[1]?.reason).toMatch(/^results cannot be kept on disk: ENOSPC/);
    // A job that needs no disk is welcome.
    begin({ attempt: 3 });
    expect(outbox.of("nack")).toHaveLength(2);
    expect(jobs.running).toBe(1);
  });

  it("is refused while as many results wait as the node keeps", async () => {
    for (const name of ["job-0000000a", "job-0000000b"]) {
      begin({ durable: true, stream: false, job: jobIdField.parse(name) });
      answerPlain("{}");
      await settled();
    }
    begin({ durable: true });
    expect(outbox.of("nack")).toMatchObject([{ job: id, code: "E_BUSY" }]);
  });
});

describe("a large input", () => {
  const input = { sha256: "a".repeat(64), size: 1_000 };
  const large = () => begin({ body: undefined, input, stream: false });

  it("is fetched, given to the engine as it came, and receipted by its hash", async () => {
    large();
    expect(ports.http.exchanges).toEqual([]);
    expect(transfers.last.what).toBe("fetch");
    ports.clock.advance(500);
    expect(outbox.of("accept")).toHaveLength(1);
    transfers.last.done(Buffer.from("bytes"));
    await settled();
    expect(ports.http.last.request.body).toEqual(Buffer.from("bytes"));
    answerPlain("{}");
    const [result] = outbox.of("result");
    expect(openReceipt(result?.receipt ?? "", identity.key).input_sha256).toBe(input.sha256);
  });

  it.each([
    ["E_SCHEMA", "mismatch"],
    ["E_BUSY", "unavailable"],
    ["E_BUSY", "stale"],
  ] as const)("is handed back with %s when its transfer is %s", async (code, why) => {
    large();
    // What may pass is tried four times.
    for (let tries = why === "unavailable" ? 4 : 1; tries > 0; tries--) {
      expect(outbox.of("nack")).toEqual([]);
      transfers.last.failed(new TransferError(why, "so"));
      await settled();
      ports.clock.advance(1_000);
      await settled();
    }
    expect(outbox.of("nack")).toMatchObject([{ code, reason: "input: so" }]);
    expect(jobs.size).toBe(0);
  });

  it("is not fetched where there is no memory for it, and its memory is free again after each end", async () => {
    capacity = { ...capacity, slots: 10 };
    const size = 30 * 1024 * 1024;
    const names = ["job-0000000a", "job-0000000b", "job-0000000c"];
    const ask = (name: string) =>
      begin({ body: undefined, job: jobIdField.parse(name), input: { ...input, size } });
    names.forEach(ask);
    expect(transfers.begun).toHaveLength(2);
    expect(outbox.of("nack")).toMatchObject([{ job: names[2], code: "E_BUSY" }]);
    transfers.begun[0]?.failed(new TransferError("mismatch", "so"));
    await settled();
    ask("job-0000000d");
    expect(transfers.begun).toHaveLength(3);
    transfers.begun[1]?.done(Buffer.alloc(0));
    await settled();
    ports.http.last.answer(404, "");
    ask("job-0000000e");
    expect(transfers.begun).toHaveLength(4);
  });

  it("that is still on its way ends with its job", async () => {
    large();
    jobs.frame(frame("cancel", { job: id, attempt: 1, reason: "no" }));
    expect(transfers.last.signal.aborted).toBe(true);
    await settled();
    expect(outbox.of("nack")).toEqual([]);
    expect(ports.http.exchanges).toEqual([]);
  });
});

describe("a large output", () => {
  const text = JSON.stringify({ a: "x".repeat(300_000) });

  beforeEach(() => {
    capacity = { ...capacity, maxOutputBytes: 1_000_000 };
    begin({ stream: false });
    answerPlain(text);
  });

  it("is brought whole, and then the result is sent", async () => {
    expect(transfers.last.what).toBe("upload");
    expect(Buffer.from(transfers.last.bytes ?? []).toString()).toBe(text);
    expect(outbox.sent).toEqual([]);
    transfers.last.done(Buffer.alloc(0));
    await settled();
    expect(outbox.of("chunk")).toEqual([]);
    expect(outbox.of("result")).toMatchObject([{ output_bytes: text.length, output_sha256: sha256(text) }]);
  });

  it("is brought again on the next session, from the beginning", async () => {
    const first = transfers.last;
    jobs.sessionEnded();
    expect(first.signal.aborted).toBe(true);
    await settled();
    ports.clock.advance(60_000);
    expect(transfers.begun).toHaveLength(1);
    verdict("keep", 0);
    expect(transfers.begun).toHaveLength(2);
    expect(transfers.last.bytes).toHaveLength(text.length);
  });

  it("that came in before is not brought again", () => {
    jobs.sessionEnded();
    verdict("keep", text.length);
    expect(transfers.begun).toHaveLength(1);
    expect(outbox.of("result")).toHaveLength(1);
  });

  it("is tried again when the service has no room, after as long as it says", async () => {
    transfers.last.failed(new TransferError("busy", "full", 7_000));
    await settled();
    ports.clock.advance(6_999);
    expect(transfers.begun).toHaveLength(1);
    ports.clock.advance(1);
    expect(transfers.begun).toHaveLength(2);
  });

  it("goes as chunks where uploads do not get through", async () => {
    for (let failure = 1; failure <= 3; failure++) {
      transfers.last.failed(new TransferError("unavailable", "413 of a proxy"));
      await settled();
      ports.clock.advance(1_000);
    }
    expect(transfers.begun).toHaveLength(3);
    expect(outbox.output).toBe(text);
    expect(outbox.of("result")).toHaveLength(1);
  });

  it("ends its upload with the job", async () => {
    jobs.lost([{ job: id, attempt: 1 }]);
    expect(transfers.last.signal.aborted).toBe(true);
    await settled();
    expect(outbox.sent).toEqual([]);
    expect(ports.clock.pending).toBe(0);
  });
});

describe("a service that reads slowly", () => {
  const piece = delta("x".repeat(60_000));
  const flood = (pieces: number) => {
    for (let n = 0; n < pieces; n++) data(piece);
  };

  beforeEach(() => {
    capacity = { ...capacity, maxOutputBytes: 30_000_000 };
    begin();
    head();
  });

  it("makes the engine wait once a megabyte of a stream is unsent, and lets it go on when that has left", () => {
    outbox.writable = false;
    flood(17);
    expect(ports.http.last.paused).toBe(false);
    flood(1);
    expect(ports.http.last.paused).toBe(true);
    outbox.writable = true;
    ports.clock.advance(20);
    expect(ports.http.last.paused).toBe(false);
    expect(outbox.output).toBe(piece.repeat(18));
  });

  it("that has gone makes it wait too, until the next session has taken what there is", () => {
    jobs.sessionEnded();
    flood(18);
    expect(ports.http.last.paused).toBe(true);
    verdict("keep", 0);
    expect(ports.http.last.paused).toBe(false);
    expect(outbox.output).toBe(piece.repeat(18));
  });
});
