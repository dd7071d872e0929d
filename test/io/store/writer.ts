/**
 * A process that writes links into a SQLite store as fast as it can, and says each number on its standard output once
 * the write has resolved. It begins where the store's chain ends, and never ends by itself.
 *
 *   node writer.ts <database> <writes under way at once>
 */
import { writeSync } from "node:fs";
import { SqliteStore } from "../../../src/io/store/sqlite.ts";
import { systemClock } from "../../../src/lib/clock.ts";
import { beforeLinks, linkOf } from "./links.ts";
import { node } from "./rows.ts";

const [path = "", writers = "1"] = process.argv.slice(2);
const store = new SqliteStore({
  path,
  worker: new URL("../../../src/io/store/worker.ts", import.meta.url),
  clock: systemClock,
});
const { nodes, chains } = await store.load();
const row = nodes[0] ?? node();
if (nodes.length === 0) await store.write(beforeLinks(row));
let last = chains[0]?.index ?? 0;
// The least that the pipe can tell: the write of a line is done when the parent can read it.
const say = (line: string | number) => writeSync(1, `${line}\n`);
say("ready");

async function write(): Promise<never> {
  for (;;) {
    const at = ++last;
    await store.write(linkOf(at, row));
    say(at);
  }
}
await Promise.all(Array.from({ length: Number(writers) }, write));
