import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { describe, expect, it } from "vitest";
import { Database } from "../../../src/io/store/database.ts";
import { schemaVersion } from "../../../src/io/store/migrations.ts";
import { SqliteStore } from "../../../src/io/store/sqlite.ts";
import { systemClock } from "../../../src/lib/clock.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { until } from "../../testbed/until.ts";
import { storeConformance } from "./conformance.ts";
import { job, jobId } from "./rows.ts";

const worker = new URL("../../../src/io/store/worker.ts", import.meta.url);

storeConformance("SQLite", () => {
  const folder = mkdtempSync(join(tmpdir(), "resultity-store-"));
  return {
    open: () => new SqliteStore({ path: join(folder, "io.db"), worker, clock: systemClock }),
    remove: () => rmSync(folder, { recursive: true }),
  };
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

  it("is refused where there can be no write-ahead log", () => {
    expect(() => new Database(":memory:")).toThrow(/allows no write-ahead log: put the data folder/);
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

  it("is closed in the end, though the disk refuses what waits", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resultity-store-"));
    const path = join(folder, "io.db");
    const clock = new FakeClock();
    const store = new SqliteStore({ path, worker, clock });
    await store.load();
    const other = new DatabaseSync(path);
    other.exec("BEGIN IMMEDIATE");
    const refused = [1, 2].map((at) => expect(store.write([{ put: "job", row: job(at) }])).rejects);
    const closed = store.close();
    const passing = setInterval(() => clock.advance(1_000), 20);
    await Promise.all(refused.map((one) => one.toMatchObject({ code: "unavailable" })));
    await closed;
    clearInterval(passing);
    other.close();
    rmSync(folder, { recursive: true });
  });

  it("lets writes through while it forgets many jobs", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resultity-store-"));
    const store = new SqliteStore({ path: join(folder, "io.db"), worker, clock: systemClock });
    const over = (at: number) => job(at, { state: "CONFIRMED", finishedAt: at });
    await store.write(Array.from({ length: 3_000 }, (_, at) => ({ put: "job", row: over(at) }) as const));
    const ended: string[] = [];
    await Promise.all([
      store.prune(2_000).then((pruned) => ended.push(`${pruned} forgotten`)),
      store.write([{ put: "job", row: job(5_000) }]).then(() => ended.push("written")),
    ]);
    expect(ended).toEqual(["written", "2000 forgotten"]);
    expect(await store.jobs({ limit: 10_000 })).toHaveLength(1_001);
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
