/**
 * `npm run generate`: writes the files that follow from the sources. With `--check` it writes nothing and fails when a
 * file on disk differs from what would be written.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { generateApiFiles } from "./generate-crds.ts";
import { generateVectorFiles } from "./generate-vectors.ts";

const root = join(import.meta.dirname, "..");

/** Path relative to the repository → contents. Each generator adds its own. */
const files = new Map<string, string>([...generateApiFiles(root), ...generateVectorFiles()]);

const check = process.argv.includes("--check");
let stale = 0;
for (const [path, contents] of files) {
  const absolute = join(root, path);
  const current = existsSync(absolute) ? readFileSync(absolute, "utf8") : undefined;
  if (current === contents) continue;
  if (check) {
    stale++;
    console.log(`${path} is stale: run \`npm run generate\``);
  } else {
    mkdirSync(dirname(absolute), { recursive: true });
    writeFileSync(absolute, contents);
    console.log(`wrote ${path}`);
  }
}
process.exitCode = stale === 0 ? 0 : 1;
