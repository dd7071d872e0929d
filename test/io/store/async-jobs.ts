import { expect, it } from "vitest";
import type { Change, Store } from "../../../src/io/store/port.ts";
import { attempt, job, jobId, receipt, submission } from "./rows.ts";

/** What the suite gives these tests: an empty store, and the same store closed and opened again. */
export interface StoreUnderTest {
  readonly fresh: () => Store;
  readonly reopen: () => Promise<Store>;
}

const conflict = { code: "conflict" };
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** What {@link Store} promises of asynchronous jobs, as tests that every implementation passes. */
export function asyncJobConformance({ fresh, reopen }: StoreUnderTest): void {
  const submit = (at: number, change: Parameters<typeof submission>[1] = {}): Change[] => [
    { put: "job", row: job(at, { durable: true }) },
    { put: "submission", submission: submission(at, change) },
    { put: "body", job: jobId(at), purpose: "input", bytes: bytes(`input ${at}`) },
  ];
  const read = async (store: Store, at: number, purpose: "input" | "output") => {
    const body = await store.body(jobId(at), purpose);
    return body && new TextDecoder().decode(body);
  };

  it("keeps an asynchronous job with its submission, its input and its newest attempt", async () => {
    await fresh().write(submit(2, { idempotency: "f".repeat(64), inputBytes: 9, deadline: 2 ** 42 }));
    let store = await reopen();
    expect(await store.job(jobId(2))).toEqual({
      row: job(2, { durable: true }),
      receipt: null,
      submission: submission(2, { idempotency: "f".repeat(64), inputBytes: 9, deadline: 2 ** 42 }),
    });
    expect(await read(store, 2, "input")).toBe("input 2");
    expect(await read(store, 2, "output")).toBeUndefined();
    await store.write(submit(1));
    const second = attempt(2, 2, { failures: 1, reasons: ["attempt 1 on x: because"] });
    await store.write([{ put: "attempt", attempt: attempt(2, 1) }]);
    await store.write([{ put: "attempt", attempt: second }]);
    await store.write([{ put: "attempt", attempt: attempt(2, 1) }]);
    store = await reopen();
    expect((await store.load()).unfinished).toEqual([
      { row: job(1, { durable: true }), submission: submission(1), attempt: null },
      {
        row: job(2, { durable: true, state: "OFFERED", attempt: 2, node: second.node }),
        submission: (await store.job(jobId(2)))?.submission,
        attempt: second,
      },
    ]);
  });

  it("no longer counts a job as unfinished that is over, and gives its attempt no more", async () => {
    const store = fresh();
    for (const at of [1, 2, 3]) await store.write(submit(at));
    await store.write([
      { put: "job", row: job(1, { durable: true, state: "COMMITTED", attempt: 1, httpStatus: 200 }) },
      { put: "body", job: jobId(1), purpose: "output", bytes: bytes("output 1") },
    ]);
    await store.write([{ put: "job", row: job(2, { durable: true, state: "DEAD", endCode: "job_failed" }) }]);
    for (const at of [1, 2]) await store.write([{ put: "attempt", attempt: attempt(at, 5) }]);
    const again = await reopen();
    expect((await again.load()).unfinished.map(({ row }) => row.id)).toEqual([jobId(3)]);
    expect((await again.job(jobId(1)))?.row).toMatchObject({
      state: "COMMITTED",
      attempt: 1,
      httpStatus: 200,
    });
    expect((await again.job(jobId(2)))?.row).toMatchObject({ state: "DEAD", endCode: "job_failed" });
    expect(await read(again, 1, "output")).toBe("output 1");
  });

  it("cancels synchronous jobs alone when the service starts", async () => {
    const store = fresh();
    await store.write([...submit(1), { put: "job", row: job(2) }]);
    expect(await store.cancelUnfinished(9, "restarted")).toBe(1);
    expect((await store.job(jobId(1)))?.row.state).toBe("QUEUED");
    expect((await store.job(jobId(2)))?.row.state).toBe("CANCELLED");
  });

  it("takes an idempotency key once for a consumer, and tells for which job", async () => {
    const store = fresh();
    const key = "e".repeat(64);
    await store.write(submit(1, { idempotency: key }));
    await expect(store.write(submit(2, { idempotency: key }))).rejects.toMatchObject(conflict);
    expect(await store.job(jobId(2))).toBeUndefined();
    expect(await read(store, 2, "input")).toBeUndefined();
    const [, ...rest] = submit(3, { idempotency: key });
    await store.write([{ put: "job", row: job(3, { durable: true, consumer: "other" }) }, ...rest]);
    await store.write([...submit(4), ...submit(5)]);
    const again = await reopen();
    expect((await again.submitted("someone", key))?.row.id).toBe(jobId(1));
    expect((await again.submitted("other", key))?.row.id).toBe(jobId(3));
    expect(await again.submitted("nobody", key)).toBeUndefined();
    await expect(again.write(submit(2, { idempotency: key }))).rejects.toMatchObject(conflict);
  });

  it("lists asynchronous jobs of a consumer page by page", async () => {
    const store = fresh();
    for (const at of [1, 2, 3, 4]) await store.write(submit(at));
    await store.write([
      { put: "job", row: job(5) },
      { put: "job", row: job(6, { durable: true, consumer: "other" }) },
      { put: "job", row: job(7, { durable: true, createdAt: 3 }) },
    ]);
    const page = async (limit: number, after?: number) =>
      (
        await store.jobs({
          consumer: "someone",
          durable: true,
          limit,
          ...(after === undefined ? {} : { after: jobId(after) }),
        })
      ).map(({ id }) => id);
    expect(await page(10)).toEqual([4, 3, 7, 2, 1].map(jobId));
    expect(await page(2)).toEqual([4, 3].map(jobId));
    expect(await page(2, 3)).toEqual([7, 2].map(jobId));
    expect(await page(2, 2)).toEqual([1].map(jobId));
    expect(await page(2, 99)).toEqual([]);
    expect((await store.jobs({ durable: false })).map(({ id }) => id)).toEqual([jobId(5)]);
  });

  it("forgets inputs, outputs and idempotency keys with their jobs", async () => {
    const store = fresh();
    const key = "d".repeat(64);
    await store.write([...submit(1, { idempotency: key }), ...submit(2)]);
    const over = job(1, { durable: true, state: "CONFIRMED", finishedAt: 10 });
    await store.write([
      { put: "job", row: over },
      { put: "body", job: jobId(1), purpose: "output", bytes: bytes("output") },
      { put: "receipt", row: receipt(1, attempt(1, 1).node) },
    ]);
    expect(await store.prune(11)).toBe(1);
    const again = await reopen();
    expect(await read(again, 1, "input")).toBeUndefined();
    expect(await read(again, 1, "output")).toBeUndefined();
    expect(await read(again, 2, "input")).toBe("input 2");
    expect(await again.submitted("someone", key)).toBeUndefined();
    await again.write(submit(3, { idempotency: key }));
  });

  it("remembers the check of the bodies' key, and bodies byte for byte", async () => {
    expect((await fresh().load()).dataKey).toBeNull();
    let store = await reopen();
    const body = Uint8Array.from({ length: 70_000 }, (_, at) => (at * 7) % 256);
    await store.write([
      { put: "data-key", check: "abc" },
      { put: "body", job: jobId(1), purpose: "input", bytes: body },
      { put: "body", job: jobId(1), purpose: "output", bytes: new Uint8Array() },
    ]);
    store = await reopen();
    expect((await store.load()).dataKey).toBe("abc");
    expect(Buffer.compare((await store.body(jobId(1), "input")) ?? bytes("none"), body)).toBe(0);
    expect(await store.body(jobId(1), "output")).toHaveLength(0);
  });
}
