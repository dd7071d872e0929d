import { afterEach, describe, expect, it } from "vitest";
import type { Change, NodeRow, Store } from "../../../src/io/store/port.ts";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import { until } from "../../testbed/until.ts";
import { asyncJobConformance } from "./async-jobs.ts";
import { beforeLinks, findLinks, linkOf } from "./links.ts";
import { accountKey, job, jobId, node, receipt } from "./rows.ts";

/** A store's disk. One store at a time is open on it. */
export interface StoreDisk {
  /** Opens the store as a service that starts does: it shows what the disk has. */
  readonly open: () => Store;
  /** Removes the disk. The store on it has been closed. */
  readonly remove?: () => void | Promise<void>;
}

const conflict = { code: "conflict" };

/**
 * What {@link Store} promises, as tests that every implementation passes. `makeDisk` gives an empty disk. `cutPower` ends
 * the opened store without a word, and with it what was not synced; the suite then opens the disk again. Without it there
 * are no tests of power loss.
 */
export function storeConformance<Disk extends StoreDisk>(
  name: string,
  makeDisk: () => Disk,
  cutPower?: (disk: Disk) => void | Promise<void>,
): void {
  describe(`store: ${name}`, () => {
    let disk: Disk;
    let store: Store;
    const fresh = (): Store => {
      disk = makeDisk();
      return (store = disk.open());
    };
    const reopen = async (): Promise<Store> => {
      await store.close();
      return (store = disk.open());
    };
    /** A store with the account `acme` and a node of it. */
    const withNode = async () => {
      const row = node();
      await fresh().write(beforeLinks(row));
      return row;
    };
    afterEach(async () => {
      await store.close();
      await disk.remove?.();
    });

    it("is empty at first, and well", async () => {
      const nothing = { nodes: [], accounts: [], apiKeys: [], chains: [], snapshots: [] };
      expect(await fresh().load()).toMatchObject({ ...nothing, root: null, delegation: null, release: null });
      expect(store.healthy).toBe(true);
      expect(await store.jobs({})).toEqual([]);
      expect(await store.job(jobId(1))).toBeUndefined();
      expect(await store.receipts("acme", 1, 10)).toEqual([]);
      expect(await store.prune(1e15)).toBe(0);
      await store.write([]);
    });

    it("gives back what was written, also after it was closed and opened", async () => {
      const row = node();
      const statement = { payload: "cGF5", signatures: [{ protected: "cA", signature: "c2ln" }] };
      const newer = { payload: "bmV3", signatures: [{ protected: "cA", signature: "c2ln" }] };
      const digest = `sha256:${"a".repeat(64)}` as ConfigDigest;
      await fresh().write([
        { put: "node", row },
        { put: "account", id: "acme", key: accountKey },
        { put: "apikey", sha256: "f".repeat(64), consumer: "someone", createdAt: 1 },
        { put: "root", version: 2, statement: newer },
        { put: "root", version: 1, statement },
        { put: "delegation", statement: newer },
        { put: "delegation", statement },
        { put: "release", sequence: 10, statement: newer },
        { put: "release", sequence: 9, statement },
        { put: "snapshot", digest, text: "{}\n" },
      ]);
      const kept = {
        nodes: [row],
        accounts: [{ id: "acme", key: accountKey }],
        apiKeys: [{ sha256: "f".repeat(64), consumer: "someone" }],
        chains: [],
        root: newer,
        delegation: statement,
        release: newer,
        snapshots: [{ digest, text: "{}\n" }],
      };
      expect(await store.load()).toMatchObject(kept);
      expect(await (await reopen()).load()).toMatchObject(kept);
    });

    it("gives back jobs and receipts after it was closed and opened", async () => {
      const row = await withNode();
      const full = job(1, {
        stream: true,
        state: "INTERRUPTED",
        attempt: 3,
        node: row.nodeId,
        finishedAt: 2 ** 42,
        outcome: "failed",
        error: "the node was lost: ünïcödé '; DROP TABLE jobs; --",
        relayedBytes: 2 ** 40,
        promptTokens: 7,
        completionTokens: 9,
      });
      await store.write([
        { put: "job", row: full },
        { put: "job", row: job(2) },
        { put: "receipt", row: receipt(1, row.nodeId, { attempt: 3 }) },
      ]);
      await reopen();
      expect(await store.job(jobId(1))).toEqual({
        row: full,
        receipt: receipt(1, row.nodeId, { attempt: 3 }),
        submission: null,
      });
      expect(await store.job(jobId(2))).toEqual({ row: job(2), receipt: null, submission: null });
      expect((await store.load()).chains).toEqual([{ account: "acme", index: 1, countersign: "c1" }]);
    });

    it("moves a node's epoch, seq and known release only forward; registering again keeps them", async () => {
      const row = await withNode();
      const { nodeId } = row;
      await store.write([
        { put: "epoch", nodeId, epoch: 7, releaseSequence: 3 },
        { put: "epoch", nodeId, epoch: 6, releaseSequence: 2 },
        { put: "http-seq", nodeId, seq: 9 },
        { put: "http-seq", nodeId, seq: 8 },
        { put: "ban", nodeId, reason: "because" },
        { put: "node", row },
      ]);
      const moved = { ...row, epoch: 7, releaseSequence: 3, httpSeq: 9 };
      expect((await (await reopen()).load()).nodes).toEqual([{ ...moved, banned: "because" }]);
      await store.write([{ put: "ban", nodeId, reason: null }]);
      expect((await store.load()).nodes).toEqual([moved]);
    });

    it("keeps a node's keys: rolled over, revoked, granted again", async () => {
      const row = await withNode();
      const { nodeId } = row;
      const [second, third] = [node(), node()];
      const rekey = ({ kid, jwk }: NodeRow, generation: number): Change => ({
        put: "node-key",
        nodeId,
        kid,
        jwk,
        generation,
      });
      await store.write([rekey(second, 0)]);
      const first = { jwk: row.jwk, generation: 0 };
      const rolled = { ...row, kid: second.kid, jwk: second.jwk, former: [first] };
      expect((await (await reopen()).load()).nodes).toEqual([rolled]);
      await store.write([{ put: "revoke", nodeId }, rekey(second, 0)]);
      expect((await (await reopen()).load()).nodes).toEqual([{ ...rolled, revoked: true }]);
      await store.write([rekey(third, 2)]);
      const granted = {
        ...row,
        kid: third.kid,
        jwk: third.jwk,
        generation: 2,
        former: [first, { jwk: second.jwk, generation: 0 }],
      };
      expect((await (await reopen()).load()).nodes).toEqual([granted]);
      // The account gives the first key back: it is not a former one any more.
      await store.write([{ put: "node", row: second }, rekey(row, 3)]);
      expect((await (await reopen()).load()).nodes).toContainEqual({
        ...row,
        generation: 3,
        former: [
          { jwk: second.jwk, generation: 0 },
          { jwk: third.jwk, generation: 2 },
        ],
      });
    });

    it("never changes a job that is over, but for COMMITTED → CONFIRMED", async () => {
      await fresh().write([{ put: "job", row: job(1) }]);
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
      for (const state of ["CANCELLED", "EXPIRED", "INTERRUPTED", "DEAD"] as const) {
        await store.write([{ put: "job", row: job(2, { id: jobId(2), state, finishedAt: 9 }) }]);
        await store.write([{ put: "job", row: job(2, { state: "RUNNING", attempt: 9 }) }]);
        await store.write([{ put: "confirmed", job: jobId(2) }]);
        expect((await store.job(jobId(2)))?.row).toMatchObject({ state, attempt: 0 });
        await store.prune(10);
      }
    });

    it("takes one receipt a job and one at an index, and counts the node's commits", async () => {
      const row = await withNode();
      await store.write([
        { put: "receipt", row: receipt(1, row.nodeId) },
        { put: "receipt", row: receipt(2, row.nodeId) },
      ]);
      const again = receipt(3, row.nodeId, { job: jobId(2) });
      await expect(store.write([{ put: "receipt", row: again }])).rejects.toMatchObject(conflict);
      const taken = receipt(2, row.nodeId, { job: jobId(3) });
      await expect(store.write([{ put: "receipt", row: taken }])).rejects.toMatchObject(conflict);
      const kept = await store.load();
      expect(kept.chains).toEqual([{ account: "acme", index: 2, countersign: "c2" }]);
      expect(kept.nodes[0]?.jobsCommitted).toBe(2);
      expect(await store.receipts("acme", 2, 10)).toEqual([receipt(2, row.nodeId)]);
      expect((await store.receipts("acme", 1, 1)).map(({ index }) => index)).toEqual([1]);
      expect(await store.receipts("other", 1, 10)).toEqual([]);
    });

    it("keeps all of a write or none of it, and the writes beside it", async () => {
      await fresh().write([{ put: "account", id: "acme", key: accountKey }]);
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
      for (const look of [() => store, reopen]) {
        const { accounts } = await (await look()).load();
        expect(accounts.map(({ id }) => id).sort()).toEqual(["acme", "one", "two"]);
        expect(accounts.find(({ id }) => id === "acme")?.key).toBe(accountKey);
      }
    });

    it("keeps nothing of a write that conflicts, whichever change it is and wherever it stands", async () => {
      const row = await withNode();
      const { nodeId } = row;
      const apikey = { put: "apikey", sha256: "f".repeat(64), consumer: "someone", createdAt: 1 } as const;
      await store.write([apikey, { put: "job", row: job(1) }, { put: "receipt", row: receipt(1, nodeId) }]);
      const second = node();
      await store.write([{ put: "node", row: second }]);
      const before = { kept: await store.load(), jobs: await store.jobs({}) };
      const harmless: Change[] = [
        { put: "job", row: job(1, { state: "RUNNING" }) },
        { put: "job", row: job(2) },
        { put: "epoch", nodeId, epoch: 99, releaseSequence: 99 },
        { put: "http-seq", nodeId, seq: 99 },
        { put: "ban", nodeId, reason: "because" },
        { put: "receipt", row: receipt(2, nodeId) },
        { put: "account", id: "beta", key: accountKey },
      ];
      const other = node();
      const contradictions: Record<string, Change[]> = {
        "an account that exists": [{ put: "account", id: "acme", key: "x".repeat(43) }],
        "an API key that exists": [apikey],
        "another receipt of a job": [{ put: "receipt", row: receipt(3, nodeId, { job: jobId(1) }) }],
        "an index that is taken": [{ put: "receipt", row: receipt(1, nodeId, { job: jobId(9) }) }],
        "another node's key": [{ put: "node", row: node({ kid: row.kid }) }],
        "a change to another node's key": [
          { put: "node", row: other },
          { put: "node-key", nodeId: other.nodeId, kid: row.kid, jwk: row.jwk, generation: 0 },
        ],
        "a change of one node's key to another's": [
          { put: "node-key", nodeId: second.nodeId, kid: row.kid, jwk: row.jwk, generation: 0 },
        ],
        "the same account twice": [1, 2].map(() => ({ put: "account", id: "new", key: accountKey })),
        "the same index twice": [8, 9].map((of) => ({
          put: "receipt",
          row: receipt(5, nodeId, { job: jobId(of) }),
        })),
        "two receipts of a job": [8, 9].map((at) => ({
          put: "receipt",
          row: receipt(at, nodeId, { job: jobId(8) }),
        })),
      };
      for (const [what, wrong] of Object.entries(contradictions)) {
        for (const changes of [wrong, [...wrong, ...harmless], [...harmless, ...wrong]])
          await expect(store.write(changes), what).rejects.toMatchObject(conflict);
        expect({ kept: await store.load(), jobs: await store.jobs({}) }, what).toEqual(before);
      }
      await reopen();
      expect({ kept: await store.load(), jobs: await store.jobs({}) }).toEqual(before);
      await store.write(harmless);
      const kept = (await store.load()).nodes.find((each) => each.nodeId === nodeId);
      expect(kept).toMatchObject({ epoch: 99, httpSeq: 99, jobsCommitted: 2 });
    });

    it("cancels what was under way, and nothing else", async () => {
      fresh();
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
      await reopen();
      expect(await store.cancelUnfinished(78, "restarted")).toBe(0);
      expect((await store.job(jobId(0)))?.row).toMatchObject({ state: "CANCELLED", finishedAt: 77 });
    });

    it("lists jobs newest first, narrowed and limited", async () => {
      await fresh().write([
        { put: "job", row: job(1, { state: "DEAD", finishedAt: 10 }) },
        { put: "job", row: job(2, { state: "CONFIRMED", finishedAt: 20, consumer: "other" }) },
        { put: "job", row: job(3) },
        // Of the same moment as the third: by id then.
        { put: "job", row: job(4, { createdAt: 3, consumer: "other" }) },
      ]);
      const ids = async (filter: Parameters<Store["jobs"]>[0]) =>
        (await store.jobs(filter)).map(({ id }) => id);
      expect(await ids({})).toEqual([3, 4, 2, 1].map(jobId));
      expect(await ids({ limit: 1 })).toEqual([jobId(3)]);
      expect(await ids({ state: "DEAD" })).toEqual([jobId(1)]);
      expect(await ids({ consumer: "other" })).toEqual([4, 2].map(jobId));
      expect(await ids({ consumer: "other", state: "QUEUED" })).toEqual([jobId(4)]);
      expect(await ids({ consumer: "nobody" })).toEqual([]);
      expect(await ids({ state: "QUEUED", limit: 1 })).toEqual([jobId(3)]);
    });

    it("lists 100 jobs where no limit is given, and never more than 10,000", async () => {
      await fresh().write(Array.from({ length: 10_050 }, (_, at) => ({ put: "job", row: job(at) }) as const));
      expect(await store.jobs({})).toHaveLength(100);
      expect(await store.jobs({ limit: 1_000_000 })).toHaveLength(10_000);
    });

    it("forgets jobs that ended before a moment; their receipts stay, and stay theirs", async () => {
      const row = await withNode();
      await store.write([
        { put: "job", row: job(1, { state: "CONFIRMED", finishedAt: 10 }) },
        { put: "receipt", row: receipt(1, row.nodeId) },
        { put: "job", row: job(2, { state: "DEAD", finishedAt: 20 }) },
        { put: "job", row: job(3, { state: "RUNNING" }) },
        { put: "job", row: job(4, { state: "CANCELLED", finishedAt: 9 }) },
      ]);
      expect(await store.prune(20)).toBe(2);
      await reopen();
      expect((await store.jobs({})).map(({ id }) => id)).toEqual([3, 2].map(jobId));
      expect(await store.job(jobId(1))).toBeUndefined();
      expect(await store.receipts("acme", 1, 10)).toEqual([receipt(1, row.nodeId)]);
      const again: Change = { put: "receipt", row: receipt(2, row.nodeId, { job: jobId(1) }) };
      await expect(store.write([again])).rejects.toMatchObject(conflict);
      expect(await store.prune(20)).toBe(0);
    });

    asyncJobConformance({ fresh, reopen });

    it("keeps the order of writes that are not awaited", async () => {
      const row = await withNode();
      let resolved = 0;
      await Promise.all(
        Array.from({ length: 2_000 }, async (_, before) => {
          await store.write(linkOf(before + 1, row));
          expect(++resolved).toBe(before + 1);
        }),
      );
      expect(await findLinks(store, 2_000)).toEqual({ links: 2_000, problems: [] });
    });

    it("serves writers side by side: each sees what it has written, and none the other's order", async () => {
      fresh();
      const writers = 40;
      const states = ["QUEUED", "OFFERED", "RUNNING", "RESULT_RECEIVED", "COMMITTED"] as const;
      await Promise.all(
        Array.from({ length: writers }, async (_, at) => {
          for (const [attempt, state] of states.entries()) {
            await store.write([{ put: "job", row: job(at, { state, attempt }) }]);
            expect((await store.job(jobId(at)))?.row).toMatchObject({ state, attempt });
          }
          await store.write([{ put: "confirmed", job: jobId(at) }]);
        }),
      );
      await reopen();
      expect(await store.jobs({ state: "CONFIRMED" })).toHaveLength(writers);
    });

    it("has written everything when it is closed", async () => {
      const row = await withNode();
      const written = Array.from({ length: 50 }, (_, before) => store.write(linkOf(before + 1, row)));
      await reopen();
      await Promise.all(written);
      expect(await findLinks(store, 50)).toEqual({ links: 50, problems: [] });
    });

    if (!cutPower) return;
    describe("power loss", () => {
      // The moment is told in acknowledged writes, so that each case is the same twice.
      it.each([0, 1, 2, 7, 40, 199])("after %i acknowledged writes loses none of them", async (moment) => {
        const row = await withNode();
        let acknowledged = 0;
        let begun = 0;
        const machine = { on: true };
        const writer = async () => {
          while (machine.on) {
            await store.write(linkOf(++begun, row));
            // An acknowledgement after the end would be one of a machine without power.
            expect(machine.on).toBe(true);
            acknowledged++;
          }
        };
        const writers = Array.from({ length: 8 }, writer);
        const failed = Promise.race(writers);
        await Promise.race([failed, until("the writes", () => acknowledged >= moment, { intervalMs: 0 })]);
        machine.on = false;
        await cutPower(disk);
        store = disk.open();
        const found = await findLinks(store, acknowledged);
        expect(found.problems).toEqual([]);
        expect(found.links).toBeLessThanOrEqual(begun);
        // And goes on from what is there.
        await store.write(linkOf(found.links + 1, row));
        expect(await findLinks(store, found.links + 1)).toEqual({ links: found.links + 1, problems: [] });
      });

      it("in the middle of a write leaves all of it or nothing", async () => {
        const row = await withNode();
        void store.write([...linkOf(1, row), ...linkOf(2, row), ...linkOf(3, row)]).catch(() => {});
        await cutPower(disk);
        store = disk.open();
        const { links, problems } = await findLinks(store, 0);
        expect(problems).toEqual([]);
        expect([0, 3]).toContain(links);
      });

      it("keeps what was acknowledged over one loss after another", async () => {
        const row = await withNode();
        for (let at = 1; at <= 10; at++) {
          await store.write(linkOf(at, row));
          await cutPower(disk);
          store = disk.open();
          expect(await findLinks(store, at)).toEqual({ links: at, problems: [] });
        }
      });
    });
  });
}
