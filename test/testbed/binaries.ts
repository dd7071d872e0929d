/**
 * Finds the binaries of the test bed, or builds them:
 *
 * ```ts
 * const binaries = await ensureBinaries(["etcd", "kube-apiserver", "kubectl"], { log: console.error });
 * binaries.get("etcd");                      // path
 * await whyUnavailable(["kubelet"]);         // undefined, or the reason to skip a test
 * ```
 *
 * Each name is looked for in `$KUBEBUILDER_ASSETS`, on PATH, in the project's cache folder
 * (`$XDG_CACHE_HOME` or `~/.cache`, then `resultity/testbed`), and is else built there from the wrapper modules in
 * `go/`. What is found outside the cache counts only if its version will do (`versions.ts`): a control plane of one
 * minor version, 1.33 or newer, and a kubectl within one of it. A binary that is passed over is named to `log` when that leads to
 * a build.
 */
import { execFile } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { type BuildContext, buildBinary, cachedPath, findGo, withoutGo } from "./build.ts";
import { type BinaryName, catalogue, pinnedVersion } from "./catalogue.ts";
import { TestbedError } from "./errors.ts";
import { executableIn } from "./search.ts";
import { controlPlaneNames, formatVersion, parseVersion, type Version, whyUnfit } from "./versions.ts";

export { type BinaryName, binaryNames } from "./catalogue.ts";

/** Options of {@link ensureBinaries}. */
export interface EnsureOptions {
  /** Told what is passed over and how a build goes, one line each. Default: nobody. */
  readonly log?: (line: string) => void;
  /** Default: this process's environment. */
  readonly env?: NodeJS.ProcessEnv;
  /** Default: see above. */
  readonly cache?: string;
}

/** Paths by name. */
export type Binaries = ReadonlyMap<BinaryName, string>;

/**
 * Finds or builds every named binary.
 *
 * @throws TestbedError `BinaryMissing` when one is nowhere and Go is not there to build it; `BuildFailed`
 */
export async function ensureBinaries(
  names: readonly BinaryName[],
  options: EnsureOptions = {},
): Promise<Binaries> {
  const context = contextOf(options);
  const found = await findBinaries(names, context);
  const reason = whyNotBuildable(names, found, context);
  if (reason) throw new TestbedError("BinaryMissing", reason);
  const all = new Map<BinaryName, string>();
  for (const name of names) all.set(name, found.get(name) ?? (await buildBinary(name, context)));
  return all;
}

/** Why these binaries cannot be had on this machine, or undefined when they are there or can be built. Builds nothing. */
export async function whyUnavailable(
  names: readonly BinaryName[],
  options: EnsureOptions = {},
): Promise<string | undefined> {
  const context = contextOf(options);
  return whyNotBuildable(names, await findBinaries(names, context), context);
}

/** Path of one of a set that {@link ensureBinaries} returned. */
export function binary(binaries: Binaries, name: BinaryName): string {
  const path = binaries.get(name);
  if (path === undefined) throw new TestbedError("BinaryMissing", `${name} was not asked of ensureBinaries`);
  return path;
}

/** The project's cache folder. */
export function cacheFolder(env: NodeJS.ProcessEnv): string {
  const base = env["XDG_CACHE_HOME"] || join(env["HOME"] || homedir(), ".cache");
  return join(base, "resultity", "testbed");
}

function contextOf({ log = () => {}, env = process.env, cache }: EnsureOptions): BuildContext {
  return { log, env, cache: cache ?? cacheFolder(env) };
}

function whyNotBuildable(
  names: readonly BinaryName[],
  found: Binaries,
  { cache, env }: BuildContext,
): string | undefined {
  const missing = names.filter((name) => !found.has(name));
  if (missing.length === 0 || findGo(env)) return undefined;
  const assets = env["KUBEBUILDER_ASSETS"]
    ? `in ${env["KUBEBUILDER_ASSETS"]}`
    : "in KUBEBUILDER_ASSETS (not set)";
  const are = missing.length === 1 ? "is" : "are";
  return `${missing.join(", ")} ${are} neither ${assets}, nor on PATH, nor in ${cache}, and Go is not there to build. ${withoutGo}`;
}

/** A binary found outside the cache. */
interface Candidate {
  readonly path: string;
  readonly version: Version;
}

/** Everything that need not be built. */
async function findBinaries(names: readonly BinaryName[], context: BuildContext): Promise<Binaries> {
  const candidates = new Map<BinaryName, Candidate[]>();
  await Promise.all(names.map(async (name) => candidates.set(name, await candidatesFor(name, context))));

  const pinned = pinnedVersion("kubernetes").minor;
  const controlPlane = names.filter((name) => controlPlaneNames.includes(name));
  const minor = commonMinor(controlPlane.map((name) => candidates.get(name) ?? [])) ?? pinned;

  const found = new Map<BinaryName, string>();
  for (const name of names) {
    const unfit: string[] = [];
    const chosen = candidates.get(name)?.find((candidate) => {
      const reason = whyUnfit(name, candidate.version, minor);
      if (reason) unfit.push(`passed over ${candidate.path} ${formatVersion(candidate.version)}: ${reason}`);
      return reason === undefined;
    });
    const cached = cachedPath(context.cache, name);
    if (chosen) found.set(name, chosen.path);
    else if (existsSync(cached)) found.set(name, cached);
    else unfit.forEach(context.log); // what there is will not do, and a build follows
  }
  return found;
}

/** First minor version, in look-up order, that every component of the control plane can be found in. */
function commonMinor(candidatesByName: readonly (readonly Candidate[])[]): number | undefined {
  const [first, ...others] = candidatesByName;
  return first
    ?.map((candidate) => candidate.version.minor)
    .find((minor) => others.every((other) => other.some((candidate) => candidate.version.minor === minor)));
}

/** Found in KUBEBUILDER_ASSETS and on PATH, in this order, whose version is readable and not too old. */
async function candidatesFor(name: BinaryName, { env, log }: BuildContext): Promise<Candidate[]> {
  const folders = [env["KUBEBUILDER_ASSETS"] ?? "", ...(env["PATH"] ?? "").split(delimiter)];
  const paths = new Map<string, string>();
  for (const folder of folders) {
    const path = executableIn(folder, name);
    // One file by two paths (/bin is often /usr/bin) is one candidate.
    const file = path && realpathSync(path);
    if (path && file && !paths.has(file)) paths.set(file, path);
  }
  const fit: Candidate[] = [];
  for (const path of paths.values()) {
    const version = await versionOf(path, catalogue[name].versionArgs, env);
    if (!version) {
      log(`passed over ${path}: it does not tell its version`);
      continue;
    }
    const reason = whyUnfit(name, version, undefined);
    if (reason) log(`passed over ${path} ${formatVersion(version)}: ${reason}`);
    else fit.push({ path, version });
  }
  return fit;
}

async function versionOf(
  path: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
): Promise<Version | undefined> {
  try {
    const { stdout } = await promisify(execFile)(path, [...args], { env, timeout: 10_000 });
    return parseVersion(stdout);
  } catch {
    return undefined;
  }
}
