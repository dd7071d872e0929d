/** Containers as processes of this machine, their volumes as folders. */
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "../../../../src/lib/logger.ts";
import type { ContainerBackend, Program, ProgramSpec } from "./backend.ts";
import { startContainerProcess } from "./container-process.ts";
import { containerRoot } from "./container-root.ts";
import { FieldError } from "./fields.ts";
import { runCommand } from "./handler.ts";
import type { Isolation } from "./isolation.ts";
import { logFolder } from "./logs.ts";
import type { Container, Pod } from "./types.ts";
import { PodVolumes } from "./volumes.ts";

const messageLimit = 4096;

/** Containers of one host as processes. Its folder holds `pods` (logs), `volumes`, `memory` and `run`. */
export class ProcessBackend implements ContainerBackend {
  readonly name = "process";
  readonly #dir: string;
  readonly #isolation: Isolation;
  readonly #log: Logger;

  constructor(dir: string, isolation: Isolation, log: Logger) {
    this.#dir = dir;
    this.#isolation = isolation;
    this.#log = log;
  }

  volumes({ metadata: { uid } }: Pod): PodVolumes {
    const { canSwitchUser } = this.#isolation;
    return new PodVolumes(join(this.#dir, "volumes", uid), join(this.#dir, "memory", uid), canSwitchUser);
  }

  async start({ pod, facts, container, image, attempt, env, volumes }: ProgramSpec): Promise<Program> {
    if (!("command" in image) || !(volumes instanceof PodVolumes))
      throw new FieldError(`image ${container.image}: it is no program of this machine`);
    const { uid } = pod.metadata;
    const isolation = this.#isolation;
    const folder = join(this.#dir, "run", uid, `${container.name}-${attempt}`);
    const terminationLog = join(folder, "termination-log");
    const logFile = join(logFolder(this.#dir, pod.metadata, container.name), `${attempt}.log`);
    const place = { dir: this.#dir, isolation, log: this.#log, podIP: facts.podIP };
    const root = containerRoot({ ...place, pod, container, image, env, volumes, terminationLog });
    const process = await startContainerProcess({ root, env, folder, logFile, isolation });
    const enter = isolation.enterRunning(process.pid);
    return {
      ...process,
      exec: (command, signal) => runCommand(command, { enter, env }, signal),
      lastWords: (exitCode) => lastWords(container, terminationLog, logFile, exitCode),
    };
  }

  gone(uid: string): void {
    rmSync(join(this.#dir, "run", uid), { recursive: true, force: true });
  }

  keepOnly(uids: ReadonlySet<string>): void {
    for (const uid of readdirSync(join(this.#dir, "volumes"))) {
      if (!uids.has(uid)) rmSync(join(this.#dir, "volumes", uid), { recursive: true, force: true });
    }
  }
}

/** The termination message: the file's text, or the end of the log of a container that failed and left none. */
function lastWords(container: Container, file: string, logFile: string, exitCode: number): string {
  const text = readQuietly(file);
  if (text || exitCode === 0 || container.terminationMessagePolicy !== "FallbackToLogsOnError") {
    return text.slice(0, messageLimit);
  }
  return readQuietly(logFile).split("\n").slice(-80).join("\n").slice(-2048);
}

function readQuietly(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
