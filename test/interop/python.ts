/**
 * Interpreters that run Python clients: each a virtual environment in the test bed's cache folder with the pinned packages of a
 * `requirements.txt`, made once per content of that file.
 */
import { createHash } from "node:crypto";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheFolder } from "../testbed/binaries.ts";
import { takeBuildLock } from "../testbed/build-lock.ts";
import { TestbedError } from "../testbed/errors.ts";
import { logTail, supervise } from "../testbed/processes.ts";
import { executableOnPath } from "../testbed/search.ts";

/** Packages of the client of the node protocol in this folder. */
export const interopRequirements = join(import.meta.dirname, "requirements.txt");

/** Why no such environment can be made on this machine, in one line; undefined when it can. */
export function whyNoPython(env: NodeJS.ProcessEnv = process.env): string | undefined {
  const python = executableOnPath("python3", env);
  if (!python) return "python3 is not on PATH: install Python 3.9 or newer, with venv";
  const probe = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))";
  if (spawnSync(python, ["-c", probe], { env, stdio: "ignore" }).status === 0) return undefined;
  return `${python} is older than 3.9 or lacks venv: install Python 3.9 or newer (Debian: python3-venv)`;
}

/**
 * Returns the environment's interpreter, making it first when it is missing. Of several processes that want it one
 * makes it and the others wait.
 *
 * @throws TestbedError `ToolMissing` without a fit Python, `BuildFailed` with the end of the log when pip refuses.
 */
export async function pythonWith(
  requirements: string,
  env: NodeJS.ProcessEnv = process.env,
): Promise<string> {
  const hash = createHash("sha256").update(readFileSync(requirements)).digest("hex").slice(0, 12);
  const folder = join(cacheFolder(env), `python-${hash}`);
  const python = join(folder, "bin", "python");
  const complete = join(folder, "complete"); // written last
  if (existsSync(complete)) return python;
  const missing = whyNoPython(env);
  if (missing !== undefined) throw new TestbedError("ToolMissing", missing);
  const lock = await takeBuildLock(join(cacheFolder(env), "python.lock"));
  try {
    if (existsSync(complete)) return python;
    // Whoever holds the lock is alone here: what lies there is of a try that was killed.
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    await using processes = supervise({ signals: "leave" });
    const logFile = join(processes.folder("python"), "pip.log");
    const run = async (name: string, command: string, ...args: readonly string[]): Promise<void> => {
      const { code, signal } = await processes.spawn({ name, command, args, env, logFile }).exited;
      if (code === 0) return;
      throw new TestbedError(
        "BuildFailed",
        `${name} for a Python client failed (${signal ?? `code ${code}`}). Last lines:\n${logTail(logFile)}`,
      );
    };
    await run("python venv", executableOnPath("python3", env) ?? "python3", "-m", "venv", folder);
    const wheels = ["--only-binary", ":all:", "--disable-pip-version-check", "-r", requirements];
    await run("pip install", python, "-m", "pip", "install", ...wheels);
    writeFileSync(complete, "");
    return python;
  } finally {
    lock.release();
  }
}
