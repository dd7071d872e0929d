import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, describe, expect, it } from "vitest";
import { MemoryStore } from "../../../src/io/store/memory.ts";
import { schemaVersion } from "../../../src/io/store/migrations.ts";
import type { Change, JobRow, NodeRow, ReceiptRow, Store } from "../../../src/io/store/port.ts";
import { SqliteStore } from "../../../src/io/store/sqlite.ts";
import { systemClock } from "../../../src/lib/clock.ts";
import type { ConfigDigest, JobId } from "../../../src/protocol/fields.ts";
import { until } from "../../testbed/until.ts";
import { generateKey, importPrivateKey, type NodeId } from "../../../src/protocol/keys.ts";

const worker = new URL("../../../src/io/store/worker.ts", import.meta.url);

/** A store and its disk: `reopen` closes it and gives what a restarted service sees. */
interface Subject {
  store: Store;
  readonly reopen: () => Promise<void>;
  readonly end: () => Promise<void>;
}

function sqlite(): Subject {
  const folder = mkdtempSync(join(tmpdir(), "resultity-store-"));
  const open = () => new SqliteStore({ path: join(folder, "io.db"), worker, clock: systemClock });
  const subject = {
    store: open(),
    reopen: async () => {
      await subject.store.close();
      subject.store = open();
    },
    end: async () => {
      await subject.store.close();
      rmSync(folder, { recursive: true });
    },
  };
  return subject;
}

function memory(): Subject {
  const store = new MemoryStore();
  return { store, reopen: () => Promise.resolve(), end: () => store.close() };
}

const jobId = (at: number): JobId => `job-${String(at).padStart(8, "0")}` as JobId;

function node(change: Partial<NodeRow> = {}): NodeRow {
  const key = importPrivateKey(generateKey());
  return {
    nodeId: String(key.kid) as NodeId,
    kid: key.kid,
    jwk: key.jwk,
    account: "acme",
    registeredAt: 5,
    httpSeq: 0,
    epoch: 0,
    releaseSequence: 0,
    banned: null,
    jobsCommitted: 0,
    ...change,
  };
}

function job(at: number, change: Partial<JobRow> = {}): JobRow {
  return {
    id: jobId(at),
    consumer: "someone",
    model: "m",
    stream: false,
    state: "QUEUED",
    attempt: 0,
    node: null,
    createdAt: at,
    finishedAt: null,
    outcome: null,
    error: null,
    relayedBytes: 0,
    promptTokens: 0,
    completionTokens: 0,
    ...change,
  };
}

function receipt(index: number, nodeId: NodeId, change: Partial<ReceiptRow> = {}): ReceiptRow {
  return {
    account: "acme",
    index,
    job: jobId(index),
    attempt: 1,
    node: nodeId,
    countersign: `c${index}`,
    ...change,
  };
}

describe.each([
  ["SQLite", sqlite],
  ["memory", memory],
])("store: %s", (_name, make) => {
  let subject: Subject;
  const fresh = (): Subject => (subject = make());
  afterEach(() => subject.end());

  it("gives back what was written, also after it was closed and opened", async () => {
    const { store } = fresh();
    const row = node();
    const statement = { payload: "cGF5", signatures: [{ protected: "cA", signature: "c2ln" }] };
    const newer = { payload: "bmV3", signatures: [{ protected: "cA", signature: "c2ln" }] };
    const digest = `sha256:${"a".repeat(64)}` as ConfigDigest;
    await store.write([
      { put: "node", row },
      { put: "account", id: "acme", key: "k".repeat(43) },
      { put: "apikey", sha256: "f".repeat(64), consumer: "someone", createdAt: 1 },
      { put: "root", version: 2, statement: newer },
      { put: "root", version: 1, statement },
      { put: "delegation", statement },
      { put: "release", sequence: 10, statement: newer },
      { put: "release", sequence: 9, statement },
      { put: "snapshot", digest, text: "{}\n" },
    ]);
    await subject.reopen();
    expect(await subject.store.load()).toEqual({
      nodes: [row],
      accounts: [{ id: "acme", key: "k".repeat(43) }],
      apiKeys: [{ sha256: "f".repeat(64), consumer: "someone" }],
      chains: [],
      root: newer,
      delegation: statement,
      release: newer,
      snapshots: [{ digest, text: "{}\n" }],
    });
  });

  it("moves a node's epoch, seq and known release only forward; registering again keeps them", async () => {
    const { store } = fresh();
    const row = node();
    const { nodeId } = row;
    await store.write([{ put: "node", row }]);
    await store.write([
      { put: "epoch", nodeId, epoch: 7, releaseSequence: 3 },
      { put: "epoch", nodeId, epoch: 6, releaseSequence: 2 },
      { put: "http-seq", nodeId, seq: 9 },
      { put: "http-seq", nodeId, seq: 8 },
      { put: "ban", nodeId, reason: "because" },
      { put: "node", row },
    ]);
    const [kept] = (await store.load()).nodes;
    expect(kept).toEqual({ ...row, epoch: 7, releaseSequence: 3, httpSeq: 9, banned: "because" });
  });

  it("never changes a job that is over, but for COMMITTED → CONFIRMED", async () => {
    const { store } = fresh();
    await store.write([{ put: "job", row: job(1) }]);
    await store.write([{ put: "confirmed", job: jobId(1) }]);
    expect((await store.job(jobId(1)))?.row.state).toBe("QUEUED");
    const committed = job(1, {
      state: "COMMITTED",
      attempt: 2,
      outcome: "completed",
      finishedAt: 9,
      relayedBytes: 5,
    });
    await store.write([{ put: "job", row: committed }]);
    await store.write([{ put: "job", row: job(1, { state: "DEAD", error: "late" }) }]);
    expect((await store.job(jobId(1)))?.row).toEqual(committed);
    await store.write([{ put: "confirmed", job: jobId(1) }]);
    expect((await store.job(jobId(1)))?.row.state).toBe("CONFIRMED");
  });

  it("takes one receipt a job and one at an index, and counts the node's commits", async () => {
    const { store } = fresh();
    const row = node();
    await store.write([
      { put: "account", id: "acme", key: "k".repeat(43) },
      { put: "node", row },
      { put: "receipt", row: receipt(1, row.nodeId) },
      { put: "receipt", row: receipt(2, row.nodeId) },
    ]);
    const again = receipt(3, row.nodeId, { job: jobId(2) });
    await expect(store.write([{ put: "receipt", row: again }])).rejects.toMatchObject({ code: "conflict" });
    const taken = receipt(2, row.nodeId, { job: jobId(3) });
    await expect(store.write([{ put: "receipt", row: taken }])).rejects.toMatchObject({ code: "conflict" });
    const kept = await store.load();
    expect(kept.chains).toEqual([{ account: "acme", index: 2, countersign: "c2" }]);
    expect(kept.nodes[0]?.jobsCommitted).toBe(2);
    expect(await store.receipts("acme", 2, 10)).toEqual([receipt(2, row.nodeId)]);
    expect((await store.receipts("acme", 1, 1)).map(({ index }) => index)).toEqual([1]);
    expect(await store.receipts("other", 1, 10)).toEqual([]);
  });

  it("keeps all of a write or none of it, and the writes beside it", async () => {
    const { store } = fresh();
    await store.write([{ put: "account", id: "acme", key: "k".repeat(43) }]);
    const doomed: Change[] = [
      { put: "account", id: "beta", key: "b".repeat(43) },
      { put: "account", id: "acme", key: "x".repeat(43) },
    ];
    const outcomes = await Promise.allSettled([
      store.write([{ put: "account", id: "one", key: "1".repeat(43) }]),
      store.write(doomed),
      store.write([{ put: "account", id: "two", key: "2".repeat(43) }]),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    const { accounts } = await store.load();
    expect(accounts.map(({ id }) => id).sort()).toEqual(["acme", "one", "two"]);
    expect(accounts.find(({ id }) => id === "acme")?.key).toBe("k".repeat(43));
  });

  it("cancels what was under way, and nothing else", async () => {
    const { store } = fresh();
    for (const [at, state] of (
      ["QUEUED", "OFFERED", "RUNNING", "RESULT_RECEIVED", "COMMITTED", "DEAD"] as const
    ).entries())
      await store.write([{ put: "job", row: job(at, { state }) }]);
    expect(await store.cancelUnfinished(77, "restarted")).toBe(4);
    expect((await store.job(jobId(2)))?.row).toMatchObject({
      state: "CANCELLED",
      finishedAt: 77,
      error: "restarted",
    });
    expect((await store.job(jobId(4)))?.row.state).toBe("COMMITTED");
    expect(await store.cancelUnfinished(78, "restarted")).toBe(0);
  });

  it("lists jobs newest first, narrowed and limited, and forgets old ones", async () => {
    const { store } = fresh();
    await store.write([
      { put: "job", row: job(1, { state: "DEAD", finishedAt: 10 }) },
      { put: "job", row: job(2, { state: "CONFIRMED", finishedAt: 20, consumer: "other" }) },
      { put: "job", row: job(3) },
    ]);
    expect((await store.jobs({})).map(({ id }) => id)).toEqual([3, 2, 1].map(jobId));
    expect((await store.jobs({ limit: 1 })).map(({ id }) => id)).toEqual([jobId(3)]);
    expect((await store.jobs({ state: "DEAD" })).map(({ id }) => id)).toEqual([jobId(1)]);
    expect((await store.jobs({ consumer: "other" })).map(({ id }) => id)).toEqual([jobId(2)]);
    expect(await store.prune(20)).toBe(1);
    expect((await store.jobs({})).map(({ id }) => id)).toEqual([3, 2].map(jobId));
  });

  it("knows nothing of a job that was never written", async () => {
    expect(await fresh().store.job(jobId(1))).toBeUndefined();
  });

  it("keeps the order of writes that are not awaited", async () => {
    const { store } = fresh();
    const row = node();
    await store.write([
      { put: "account", id: "acme", key: "k".repeat(43) },
      { put: "node", row },
    ]);
    await Promise.all(
      Array.from({ length: 2_000 }, (_, at) =>
        store.write([
          { put: "job", row: job(at, { state: "COMMITTED" }) },
          { put: "receipt", row: receipt(at + 1, row.nodeId, { job: jobId(at) }) },
        ]),
      ),
    );
    const receipts = await store.receipts("acme", 1, 5_000);
    expect(receipts.map(({ index }) => index)).toEqual(Array.from({ length: 2_000 }, (_, at) => at + 1));
  });
});

describe("the SQLite file", () => {
  it("is refused when a newer build has written it", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resultity-store-"));
    const path = join(folder, "io.db");
    const db = new DatabaseSync(path);
    db.exec(`PRAGMA user_version = ${schemaVersion + 1}`);
    db.close();
    const store = new SqliteStore({ path, worker, clock: systemClock });
    await expect(store.load()).rejects.toThrow(`schema version ${schemaVersion + 1}`);
    await store.close();
    rmSync(folder, { recursive: true });
  });

  it("commits many writes with few transactions", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resultity-store-"));
    const commits: number[] = [];
    const store = new SqliteStore({
      path: join(folder, "io.db"),
      worker,
      clock: systemClock,
      onCommit: (writes) => commits.push(writes),
    });
    await store.load();
    await Promise.all(Array.from({ length: 300 }, (_, at) => store.write([{ put: "job", row: job(at) }])));
    expect(commits.reduce((sum, writes) => sum + writes, 0)).toBe(300);
    expect(commits.length).toBeLessThan(10);
    await store.close();
    rmSync(folder, { recursive: true });
  });

  it("F37: goes on trying while it cannot be written, says so, and loses nothing", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resultity-store-"));
    const path = join(folder, "io.db");
    const said: (string | undefined)[] = [];
    const store = new SqliteStore({
      path,
      worker,
      clock: systemClock,
      onHealth: (problem) => said.push(problem),
    });
    await store.load();
    const other = new DatabaseSync(path);
    other.exec("BEGIN IMMEDIATE");
    const written = store.write([{ put: "job", row: job(1) }]);
    await until("the store's complaint", () => !store.healthy);
    const later = store.write([{ put: "job", row: job(2) }]);
    other.exec("ROLLBACK");
    other.close();
    await Promise.all([written, later]);
    expect(store.healthy).toBe(true);
    expect(said).toEqual([expect.stringContaining("locked"), undefined]);
    expect((await store.jobs({})).map(({ id }) => id)).toEqual([2, 1].map(jobId));
    await store.close();
    rmSync(folder, { recursive: true });
  });

  it("writes what the waiters of the last commit write before it closes", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resultity-store-"));
    const path = join(folder, "io.db");
    const store = new SqliteStore({ path, worker, clock: systemClock });
    await store.load();
    void store
      .write([{ put: "job", row: job(1) }])
      .then(() => store.write([{ put: "job", row: job(2) }]))
      .then(() => store.write([{ put: "job", row: job(3) }]));
    await store.close();
    const again = new SqliteStore({ path, worker, clock: systemClock });
    expect(await again.jobs({})).toHaveLength(3);
    await again.close();
    rmSync(folder, { recursive: true });
  });
});
