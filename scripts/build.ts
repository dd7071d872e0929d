/** `npm run build`: one self-contained ESM bundle per command, into `dist/`. */
import { chmodSync, existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const root = join(import.meta.dirname, "..");
const commands = ["operator", "agent", "io", "kubectl-resultity"] as const;

const entryPoints = commands.map((name) => join(root, "src/cmd", `${name}.ts`));
const missing = entryPoints.filter((path) => !existsSync(path));
if (missing.length > 0) throw new Error(`no such entry point: ${missing.join(", ")}`);

await build({
  entryPoints,
  outdir: join(root, "dist"),
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
for (const name of commands) {
  const path = join(root, "dist", `${name}.mjs`);
  chmodSync(path, 0o755);
  console.log(`dist/${name}.mjs ${(statSync(path).size / 1024).toFixed(0)} KiB`);
}
