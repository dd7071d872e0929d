import { cpSync, existsSync, globSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { cacheFolder } from "./binaries.ts";
import { moduleFolder } from "./build.ts";
import { cacheKey } from "./catalogue.ts";
import { TestbedError } from "./errors.ts";

/** The stages that make kwok's nodes and pods become ready at once, relative to kwok's `kustomize/stage`. */
const stageFiles = ["pod/fast/pod-*.yaml", "node/fast/node-*.yaml", "node/heartbeat-with-lease/node-*.yaml"];

/**
 * Paths of the stage files to pass to kwok, each with `-c`. They come from kwok's Go module and are kept in the
 * cache beside the binary, so that later runs need no Go.
 *
 * @throws TestbedError `ToolMissing` when they are not cached and Go is missing; `BuildFailed` when the module cannot be
 *   fetched
 */
export async function kwokStages({
  env = process.env,
  cache = cacheFolder(env),
}: {
  readonly env?: NodeJS.ProcessEnv;
  readonly cache?: string;
} = {}): Promise<string[]> {
  const kept = join(cache, cacheKey("kwok"), "stage");
  if (!existsSync(kept)) {
    const source = join(await moduleFolder("kwok", "sigs.k8s.io/kwok", env), "kustomize", "stage");
    const half = `${kept}.${process.pid}.copy`;
    for (const file of globSync(stageFiles, { cwd: source })) {
      mkdirSync(join(half, file, ".."), { recursive: true });
      cpSync(join(source, file), join(half, file));
    }
    try {
      renameSync(half, kept);
    } catch (thrown) {
      // Another process was first: its copy is the same.
      rmSync(half, { recursive: true, force: true });
      if (!existsSync(kept)) throw thrown;
    }
  }
  const paths = globSync(stageFiles, { cwd: kept }).map((file) => join(kept, file));
  if (paths.length === 0)
    throw new TestbedError("BinaryMissing", `no kwok stages in ${kept}: remove that folder`);
  return paths.sort();
}
