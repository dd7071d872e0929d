import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, expect, it } from "vitest";
import { SqliteStore } from "../../src/io/store/sqlite.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { findLinks, type LinksFound } from "../io/store/links.ts";
import { mutated } from "../lib/mutate.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const processes = supervise();
afterAll(() => processes.close());

const worker = new URL("../../src/io/store/worker.ts", import.meta.url);
const writer = join(import.meta.dirname, "../io/store/writer.ts");

/** Numbers from 0 to 1, the same for the same seed. */
function numbersFrom(seed: number): () => number {
  let state = seed;
  return () => {
    // A step of a linear congruential generator (the constants of Numerical Recipes); its upper bits are good enough here.
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

function startWriter(path: string, writers: number, env = process.env) {
  // Its standard output: a file, which takes every line at once and keeps it when the process is killed.
  const logFile = join(processes.folder("said"), "log");
  const args = [writer, path, String(writers)];
  const child = processes.spawn({ name: "writer", command: process.execPath, args, env, logFile });
  return { child, said: () => readFileSync(logFile, "utf8").split("\n").slice(0, -1) };
}

/** Lets a process write for a while, kills it, and gives the numbers that it acknowledged. */
async function killWriter(
  path: string,
  writers: number,
  afterMs: number,
  env = process.env,
): Promise<readonly number[]> {
  const { child, said } = startWriter(path, writers, env);
  await until("the writer", () => said().length > 0, { intervalMs: 5, giveUp: child.requireRunning });
  setTimeout(() => child.signal("SIGKILL"), afterMs);
  const exit = await child.exited;
  expect(exit.signal, said().slice(-9).join("\n")).toBe("SIGKILL");
  return said().slice(1).map(Number);
}

async function look(path: string, acknowledged: number): Promise<LinksFound> {
  const store = new SqliteStore({ path, worker, clock: systemClock });
  const found = await findLinks(store, acknowledged);
  await store.close();
  return found;
}

/** Opens what a killed process has left, and looks at all of it. Gives how many links are there. */
async function linksIn(path: string, acknowledged: number): Promise<number> {
  const { links, problems } = await look(path, acknowledged);
  expect(problems).toEqual([]);
  const db = new DatabaseSync(path, { readOnly: true });
  expect(db.prepare("PRAGMA integrity_check").get()).toEqual({ integrity_check: "ok" });
  db.close();
  return links;
}

// Several losses in a row on one database, so that each also tries what recovery has made of the one before.
it.each([1, 2, 3, 4, 5])(
  "SQLite: a process that is killed with SIGKILL while it writes has lost nothing that it acknowledged (seed %i, 5 kills)",
  async (seed) => {
    const random = numbersFrom(seed);
    const path = join(processes.folder("store"), "io.db");
    let before = 0;
    for (let kill = 0; kill < 5; kill++) {
      const writers = [1, 4, 32][Math.floor(random() * 3)] ?? 1;
      const acknowledged = await killWriter(path, writers, random() * 120);
      // In order, without gaps, from where the last process had come to.
      expect(acknowledged).toEqual(acknowledged.map((_, at) => before + 1 + at));
      const least = before + acknowledged.length;
      const links = await linksIn(path, least);
      // What was under way may be there as well, and nothing beyond.
      expect(links).toBeLessThanOrEqual(least + writers);
      before = links;
    }
    expect(before).toBeGreaterThan(0);
  },
);

it("SQLite: a process that is killed while it makes its database leaves one that opens", async () => {
  const random = numbersFrom(6);
  for (let kill = 0; kill < 5; kill++) {
    const path = join(processes.folder("store"), "io.db");
    const { child } = startWriter(path, 1);
    // Looked for without a pause: what follows is a matter of milliseconds.
    await until("the file", () => existsSync(path), { intervalMs: 0, giveUp: child.requireRunning });
    setTimeout(() => child.signal("SIGKILL"), random() * 8);
    await child.exited;
    await linksIn(path, 0);
  }
});

it("the loss is seen of a store that acknowledges a write before it is committed", async () => {
  const env = mutated([
    {
      file: "src/io/store/sqlite.ts",
      from: "this.#waiting.push({ changes, resolve, reject });",
      to: "this.#waiting.push({ changes, resolve, reject }); setImmediate(resolve);",
    },
  ]);
  const path = join(processes.folder("store"), "io.db");
  const acknowledged = await killWriter(path, 4, 100, env);
  const { problems } = await look(path, acknowledged.length);
  expect(problems).toContainEqual(
    expect.stringMatching(`^${acknowledged.length} links were acknowledged, \\d+ are there$`),
  );
});
