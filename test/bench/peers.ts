import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { logTail, type Supervisor } from "../testbed/processes.ts";
import { executableOnPath } from "../testbed/search.ts";

/** What was installed, or why it could not be. */
export type Peer = { readonly folder: string } | { readonly missing: string };

const installMs = 300_000;

/** Installs an npm package of one version into the cache, once. */
export async function npmPeer(
  processes: Supervisor,
  cache: string,
  name: string,
  version: string,
): Promise<Peer> {
  const folder = join(cache, `${name.replaceAll(/[^a-z0-9]+/g, "-").replace(/^-/, "")}-${version}`);
  const npm = executableOnPath("npm", process.env);
  if (!npm) return { missing: "npm is not on PATH" };
  return install(processes, folder, [
    [npm, "install", "--no-audit", "--no-fund", "--prefix", folder, `${name}@${version}`],
  ]);
}

/** Installs a Python package of one version into a virtual environment in the cache, once. */
export async function pythonPeer(
  processes: Supervisor,
  cache: string,
  name: string,
  version: string,
): Promise<Peer> {
  const folder = join(cache, `${name.replaceAll(/[^a-z0-9]+/g, "-").replace(/^-/, "")}-${version}`);
  const python = executableOnPath("python3", process.env);
  if (!python) return { missing: "python3 is not on PATH" };
  return install(processes, folder, [
    [python, "-m", "venv", folder],
    [
      join(folder, "bin", "pip"),
      "install",
      "--only-binary",
      ":all:",
      "--disable-pip-version-check",
      `${name}==${version}`,
    ],
  ]);
}

async function install(
  processes: Supervisor,
  folder: string,
  commands: readonly (readonly [string, ...string[]])[],
): Promise<Peer> {
  const complete = join(folder, "complete"); // written last
  if (existsSync(complete)) return { folder };
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const logFile = join(processes.folder("install"), "install.log");
  for (const [command, ...args] of commands) {
    const child = processes.spawn({ name: command, command, args, logFile });
    const late = setTimeout(() => void child.stop(), installMs);
    const { code } = await child.exited;
    clearTimeout(late);
    if (code !== 0) return { missing: `${command} ${args.join(" ")} failed: ${logTail(logFile)}` };
  }
  writeFileSync(complete, "");
  return { folder };
}
