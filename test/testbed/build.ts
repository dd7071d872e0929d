/** Builds binaries from the wrapper modules in `go/` into the project's cache folder. */
import { execFile } from "node:child_process";
import { chmodSync, existsSync, globSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { takeBuildLock } from "./build-lock.ts";
import {
  type BinaryName,
  buildFlags,
  cacheKey,
  catalogue,
  pinnedVersion,
  wrapperModules,
} from "./catalogue.ts";
import { TestbedError } from "./errors.ts";
import { logTail, supervise } from "./processes.ts";
import { executableOnPath } from "./search.ts";
import { formatVersion } from "./versions.ts";

/** What a build needs to know about the machine. */
export interface BuildContext {
  /** Folder of built binaries, one sub-folder per {@link cacheKey}. */
  readonly cache: string;
  /** Environment of the Go toolchain: GOPROXY, GOFLAGS and the rest pass through. */
  readonly env: NodeJS.ProcessEnv;
  /** Told about progress, one line each. */
  readonly log: (line: string) => void;
  /** Time between two progress lines. Milliseconds, default 15,000. */
  readonly progressMs?: number;
}

/** Where the cache holds a binary once it is built. */
export function cachedPath(cache: string, name: BinaryName): string {
  return join(cache, cacheKey(catalogue[name].module), name);
}

/** Path of the Go toolchain, or undefined when it is not on PATH. */
export function findGo(env: NodeJS.ProcessEnv): string | undefined {
  return executableOnPath("go", env);
}

/**
 * Returns the cached binary, building it first when it is missing. Of several processes that want it one builds and
 * the others wait.
 *
 * @throws TestbedError `ToolMissing` without Go, `BuildFailed` when Go refuses
 */
export async function buildBinary(name: BinaryName, context: BuildContext): Promise<string> {
  const path = cachedPath(context.cache, name);
  if (existsSync(path)) return path;
  const { module } = catalogue[name];
  const version = formatVersion(pinnedVersion(module));
  const title = `${name} ${version}`;
  const go = requireGo(context.env, title);
  const began = performance.now();
  const elapsed = () => `${Math.round((performance.now() - began) / 1000)} s`;
  let doing = `building ${title}`;
  const ticker = setInterval(() => context.log(`${doing}: ${elapsed()}`), context.progressMs ?? 15_000);
  try {
    // One lock for all: two builds at once on two cores end later than one after the other.
    const lock = await takeBuildLock(join(context.cache, "build.lock"), () => {
      doing = `waiting for another process that builds, then for ${title}`;
      context.log(doing);
    });
    try {
      if (existsSync(path)) return path;
      doing = `building ${title}`;
      context.log(`${doing} (from nothing about ${catalogue[name].coldBuildSeconds} s on 2 cores)`);
      await goBuild(go, name, title, path, context);
    } finally {
      lock.release();
    }
  } finally {
    clearInterval(ticker);
  }
  context.log(`built ${title} in ${elapsed()}`);
  return path;
}

async function goBuild(
  go: string,
  name: BinaryName,
  title: string,
  path: string,
  { env, log }: BuildContext,
): Promise<void> {
  const { module, goPackage } = catalogue[name];
  const folder = dirname(path);
  mkdirSync(folder, { recursive: true });
  // Whoever holds the lock is alone here: these are of builds that were killed.
  for (const part of globSync("*.part", { cwd: folder })) rmSync(join(folder, part), { force: true });
  await using processes = supervise({ log });
  const logFile = join(processes.folder("build"), "go.log");
  // In the cache folder, not in the temporary one: a rename is atomic only within one file system.
  const half = `${path}.${process.pid}.part`;
  const build = processes.spawn({
    name: `go build ${name}`,
    command: go,
    args: ["build", ...buildFlags(module), "-o", half, goPackage],
    cwd: join(wrapperModules, module),
    env: { ...env, CGO_ENABLED: "0" },
    logFile,
  });
  const { code, signal } = await build.exited;
  if (code !== 0) {
    const hint = "Check that the Go module proxy can be reached (GOPROXY), or set KUBEBUILDER_ASSETS.";
    throw new TestbedError(
      "BuildFailed",
      `building ${title} failed (${signal ?? `code ${code}`}). ${hint} Last lines:\n${logTail(logFile)}`,
    );
  }
  chmodSync(half, 0o755);
  renameSync(half, path);
}

/** Folder in which Go keeps the sources of a dependency of a wrapper module, fetched when missing. */
export async function moduleFolder(
  module: string,
  dependency: string,
  env: NodeJS.ProcessEnv,
): Promise<string> {
  const go = requireGo(env, `the sources of ${dependency}`);
  const cwd = join(wrapperModules, module);
  try {
    // `go list -m` names a folder only once the module is in Go's cache.
    await promisify(execFile)(go, ["mod", "download", dependency], { cwd, env });
    const { stdout } = await promisify(execFile)(
      go,
      ["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", dependency],
      { cwd, env },
    );
    return stdout.trim();
  } catch (cause) {
    throw new TestbedError("BuildFailed", `cannot fetch the sources of ${dependency}`, { cause });
  }
}

function requireGo(env: NodeJS.ProcessEnv, what: string): string {
  const go = findGo(env);
  if (go) return go;
  throw new TestbedError("ToolMissing", `${what} must be built, and Go is not on PATH. ${withoutGo}`);
}

/** What to do where Go is missing. */
export const withoutGo =
  "Install Go 1.26 or newer, or set KUBEBUILDER_ASSETS to a folder with the binaries of Kubernetes 1.33 or newer.";
