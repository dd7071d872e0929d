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
import { type BuildOptions, build, type Plugin } from "esbuild";

const root = join(import.meta.dirname, "..");
const commands = ["operator", "agent", "io", "kubectl-resultity"] as const;

const entryPoints = commands.map((name) => join(root, "src/cmd", `${name}.ts`));
const missing = entryPoints.filter((path) => !existsSync(path));
if (missing.length > 0) throw new Error(`no such entry point: ${missing.join(", ")}`);

/**
 * Node's own modules are taken as CommonJS takes them. An ESM import of one reads each of its exports for the namespace, and
 * some are made on demand: `import "node:http"` alone loads Node's whole fetch (`WebSocket`), 13 MiB of memory.
 */
const builtins: Plugin = {
  name: "builtins",
  setup(bundle) {
    bundle.onResolve({ filter: /^node:/ }, ({ path }) => ({ path, namespace: "builtin" }));
    bundle.onLoad({ filter: /./, namespace: "builtin" }, ({ path }) => ({
      contents: `module.exports = process.getBuiltinModule(${JSON.stringify(path)});`,
    }));
  },
};

const dist = join(root, "dist");
mkdirSync(dist, { recursive: true });
const fresh = mkdtempSync(join(dist, ".build-"));
const options: BuildOptions = {
  outdir: fresh,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  platform: "node",
  target: "node24",
  format: "esm",
  plugins: [builtins],
  sourcemap: "linked",
  legalComments: "none",
  logLevel: "warning",
  // Some CommonJS dependencies call require() for Node's own modules at run time.
  banner: {
    js: '#!/usr/bin/env node\nimport { createRequire as __createRequire } from "node:module";\nconst require = __createRequire(import.meta.url);',
  },
};
const isHeldLong = (path: string): boolean => /(agent|operator)\.ts$/.test(path);
await Promise.all([
  build({ ...options, entryPoints: entryPoints.filter((path) => !isHeldLong(path)) }),
  // A process holds its program's text: without white space the agent's takes 2 MiB less, and the operator's more. Names stay,
  // for stack traces.
  build({
    ...options,
    entryPoints: entryPoints.filter(isHeldLong),
    minifyWhitespace: true,
    minifySyntax: true,
  }),
]);
for (const name of commands) chmodSync(join(fresh, `${name}.mjs`), 0o755);
for (const file of readdirSync(fresh)) renameSync(join(fresh, file), join(dist, file));
rmSync(fresh, { recursive: true });
for (const name of commands) {
  console.log(`dist/${name}.mjs ${(statSync(join(dist, `${name}.mjs`)).size / 1024).toFixed(0)} KiB`);
}
