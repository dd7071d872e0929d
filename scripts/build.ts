/**
 * `npm run build`: one self-contained ESM bundle per command, into `dist/`. Each file is put in place whole: a process that
 * starts while a build runs gets the old bundle or the new one.
 */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const root = join(import.meta.dirname, "..");
const commands = ["operator", "agent", "io", "kubectl-resultity"] as const;

const entryPoints = commands.map((name) => join(root, "src/cmd", `${name}.ts`));
const missing = entryPoints.filter((path) => !existsSync(path));
if (missing.length > 0) throw new Error(`no such entry point: ${missing.join(", ")}`);

const dist = join(root, "dist");
mkdirSync(dist, { recursive: true });
const fresh = mkdtempSync(join(dist, ".build-"));
await build({
  entryPoints,
  outdir: fresh,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  platform: "node",
  target: "node24",
  format: "esm",
  sourcemap: "linked",
  legalComments: "none",
  logLevel: "warning",
  // Some CommonJS dependencies call require() for Node's own modules at run time.
  banner: {
    js: '#!/usr/bin/env node\nimport { createRequire as __createRequire } from "node:module";\nconst require = __createRequire(import.meta.url);',
  },
});
for (const name of commands) chmodSync(join(fresh, `${name}.mjs`), 0o755);
for (const file of readdirSync(fresh)) renameSync(join(fresh, file), join(dist, file));
rmSync(fresh, { recursive: true });
for (const name of commands) {
  console.log(`dist/${name}.mjs ${(statSync(join(dist, `${name}.mjs`)).size / 1024).toFixed(0)} KiB`);
}
