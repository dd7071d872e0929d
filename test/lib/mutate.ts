/**
 * Plants a bug in a program of ours without touching its sources, to see that a test notices:
 *
 *   processes.spawn({ …, env: mutated([{ file: "src/io/store/sqlite.ts", from: "…", to: "…" }]) });
 *
 * Holds in worker threads as well. A text to replace that is not there exactly once ends the program: a mutation that
 * no longer is one would make the test of the test worthless.
 */
import { readFileSync } from "node:fs";
import { registerHooks } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** A text of a source file, and what stands there instead. */
export interface Mutation {
  /** Path from the root of the repository. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

const variable = "RESULTITY_TEST_MUTATIONS";
const root = join(import.meta.dirname, "../..");

/** Environment of a Node process that has the bugs. */
export function mutated(mutations: readonly Mutation[]): NodeJS.ProcessEnv {
  const hook = new URL(import.meta.url).href;
  return { ...process.env, NODE_OPTIONS: `--import=${hook}`, [variable]: JSON.stringify(mutations) };
}

const wanted = process.env[variable];
if (wanted !== undefined) plant(JSON.parse(wanted) as readonly Mutation[]);

function plant(mutations: readonly Mutation[]): void {
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context);
      const path = url.startsWith("file:") ? fileURLToPath(url) : "";
      const here = mutations.filter(({ file }) => join(root, file) === path);
      if (here.length === 0) return loaded;
      let text = readFileSync(path, "utf8");
      for (const { file, from, to } of here) {
        const times = text.split(from).length - 1;
        if (times !== 1) throw new Error(`mutation: ${file} has ${times} times: ${from}`);
        text = text.replace(from, () => to);
      }
      return { ...loaded, source: text };
    },
  });
}
