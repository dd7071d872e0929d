/**
 * A real engine that nobody here wrote: llama.cpp behind the server of PyPI's `llama-cpp-python`, with a model of half a
 * megabyte that `tiny-model.py` writes. Built once per machine into the cache folder, never by a test: a test that finds
 * none is skipped with {@link whyNoLlama}.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { cacheFolder } from "../binaries.ts";
import { takeBuildLock } from "../build-lock.ts";
import { TestbedError } from "../errors.ts";
import { logTail, supervise } from "../processes.ts";
import { executableOnPath } from "../search.ts";

/** Where the engine is. */
export interface Llama {
  /** Interpreter of the virtual environment; `-m llama_cpp.server` is the engine. */
  readonly python: string;
  /** The model's file. */
  readonly model: string;
}

const requirements = join(import.meta.dirname, "requirements.txt");
const modelScript = join(import.meta.dirname, "tiny-model.py");

/**
 * What the server loads and no more: no vision library, no code for this CPU alone. Hardly optimised, because compiling
 * takes minutes and answering takes none either way. scikit-build-core's own variables, so that any pip passes them on;
 * without the second target its install step fails.
 */
const buildEnv = {
  CMAKE_ARGS: [
    "-DLLAVA_BUILD=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DCMAKE_C_FLAGS_RELEASE=-O1",
    "-DCMAKE_CXX_FLAGS_RELEASE=-O0",
  ].join(" "),
  SKBUILD_BUILD_TARGETS: "llama;llama-common",
  CMAKE_BUILD_PARALLEL_LEVEL: String(availableParallelism()),
};

/** The engine, if it has been built on this machine. */
export function findLlama(env: NodeJS.ProcessEnv = process.env): Llama | undefined {
  const llama = placeIn(folderOf(env));
  // The model is written last.
  return existsSync(llama.model) && existsSync(llama.python) ? llama : undefined;
}

/** One line for a skipped test. */
export const whyNoLlama =
  "the llama.cpp engine is not built on this machine; `npx node test/testbed/llama/main.ts` builds it (Python 3.9, a C++ compiler, some minutes)";

/**
 * Returns the engine, building it first when it is missing. Of several processes that want it one builds and the others
 * wait.
 *
 * @param log told about progress, one line each.
 * @throws TestbedError `ToolMissing` without Python or a compiler, `BuildFailed` when pip or the model's script refuses.
 */
export async function buildLlama(
  log: (line: string) => void,
  env: NodeJS.ProcessEnv = process.env,
): Promise<Llama> {
  const found = findLlama(env);
  if (found) return found;
  const python = executableOnPath("python3", env);
  if (!python) throw new TestbedError("ToolMissing", "python3 is not on PATH: install Python 3.9 or newer");
  const compiler = env["CXX"] ?? executableOnPath("c++", env) ?? executableOnPath("g++", env);
  if (!compiler) throw new TestbedError("ToolMissing", "no C++ compiler is on PATH: install g++ or set CXX");
  const began = performance.now();
  const elapsed = () => `${Math.round((performance.now() - began) / 1000)} s`;
  let doing = "waiting for another process that builds";
  const ticker = setInterval(() => log(`${doing}: ${elapsed()}`), 15_000);
  try {
    const lock = await takeBuildLock(join(cacheFolder(env), "build.lock"), () => log(doing));
    try {
      const built = findLlama(env);
      if (built) return built;
      doing = "building llama.cpp and its Python server (about 150 s on 2 idle cores)";
      log(doing);
      const folder = folderOf(env);
      // Whoever holds the lock is alone here: what lies there is of a build that was killed.
      rmSync(folder, { recursive: true, force: true });
      mkdirSync(folder, { recursive: true });
      await install(python, folder, { ...env, ...buildEnv });
      log(`built the llama.cpp engine in ${elapsed()}`);
      return placeIn(folder);
    } finally {
      lock.release();
    }
  } finally {
    clearInterval(ticker);
  }
}

async function install(python: string, folder: string, env: NodeJS.ProcessEnv): Promise<void> {
  const llama = placeIn(folder);
  await using processes = supervise();
  const logFile = join(processes.folder("llama"), "build.log");
  const run = async (name: string, command: string, ...args: readonly string[]): Promise<void> => {
    const { code, signal } = await processes.spawn({ name, command, args, env, logFile }).exited;
    if (code === 0) return;
    throw new TestbedError(
      "BuildFailed",
      `${name} for the llama.cpp engine failed (${signal ?? `code ${code}`}). Last lines:\n${logTail(logFile)}`,
    );
  };
  await run("python venv", python, "-m", "venv", join(folder, "venv"));
  await run(
    "pip install",
    llama.python,
    "-m",
    "pip",
    "install",
    "--disable-pip-version-check",
    "-r",
    requirements,
  );
  const half = `${llama.model}.part`;
  await run("tiny-model.py", llama.python, modelScript, half);
  renameSync(half, llama.model);
}

const placeIn = (folder: string): Llama => ({
  python: join(folder, "venv", "bin", "python"),
  model: join(folder, "tiny.gguf"),
});

/** One folder per content of what goes in, so that a change of it is a new build. */
function folderOf(env: NodeJS.ProcessEnv): string {
  const hash = createHash("sha256");
  for (const file of [requirements, modelScript]) hash.update(readFileSync(file));
  hash.update(JSON.stringify([buildEnv.CMAKE_ARGS, buildEnv.SKBUILD_BUILD_TARGETS]));
  return join(cacheFolder(env), `llama-${hash.digest("hex").slice(0, 12)}`);
}
