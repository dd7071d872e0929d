import { existsSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { DatabaseSync } from "node:sqlite";
import { afterAll, expect, it } from "vitest";
import { SqliteStore } from "../../src/io/store/sqlite.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { findLinks } from "../io/store/links.ts";
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

function startWriter(path: string, writers: number) {
  const child = processes.spawn({
    name: "writer",
    command: process.execPath,
    args: [writer, path, String(writers)],
  });
  const { stdout, stderr } = child.process;
  if (!stdout || !stderr) throw new Error("no pipes");
  return { child, stdout, stderr };
}

/** Lets a process write for a while, kills it, and gives the numbers that it acknowledged. */
async function killWriter(path: string, writers: number, afterMs: number): Promise<readonly number[]> {
  const { child, stdout, stderr } = startWriter(path, writers);
  const said = text(stdout);
  const complained = text(stderr);
  await new Promise((resolve) => stdout.once("data", resolve));
  setTimeout(() => child.signal("SIGKILL"), afterMs);
  expect(await child.exited, await complained).toEqual({ code: null, signal: "SIGKILL" });
  return (await said).split("\n").slice(1, -1).map(Number);
}

/** Opens what a killed process has left, and looks at all of it. Gives how many links are there. */
async function linksIn(path: string, acknowledged: number): Promise<number> {
  const store = new SqliteStore({ path, worker, clock: systemClock });
  const { links, problems } = await findLinks(store, acknowledged);
  await store.close();
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
