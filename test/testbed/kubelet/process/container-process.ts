import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import type { Isolation } from "./isolation.ts";
import { rootScript, type RootPlan } from "./root-script.ts";

/** How a container ended. By a signal: `exitCode` is 128 + its number, as container runtimes report it. */
export interface ContainerExit {
  readonly exitCode: number;
}

/** The program of one run of a container. */
export interface ContainerProcess {
  /** Process 1 of the container, by its pid on the host. */
  readonly pid: number;
  readonly exited: Promise<ContainerExit>;
  /** Signals process 1. Its end takes every other process of the container along (pid_namespaces(7)). */
  signal(name: "SIGTERM" | "SIGKILL"): void;
}

/** The program could not be started; the message says at which step. */
export class StartError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "StartError";
  }
}

/** What {@link startContainerProcess} needs. */
export interface StartSpec {
  readonly root: Omit<RootPlan, "mountPoint">;
  readonly env: Readonly<Record<string, string>>;
  /** Folder of this run, for the script and the mount point. */
  readonly folder: string;
  /** Takes stdout and stderr. */
  readonly logFile: string;
  readonly isolation: Isolation;
}

/**
 * Starts a program in its own root. Resolves when it runs.
 *
 * @throws StartError when its root could not be made or the program is not there
 */
export async function startContainerProcess(spec: StartSpec): Promise<ContainerProcess> {
  const mountPoint = join(spec.folder, "root");
  const script = join(spec.folder, "start.sh");
  mkdirSync(mountPoint, { recursive: true });
  mkdirSync(dirname(spec.logFile), { recursive: true });
  writeFileSync(script, rootScript({ ...spec.root, mountPoint }), { mode: 0o600 });
  const log = openSync(spec.logFile, "a", 0o640);
  const [command = "", ...args] = spec.isolation.enterNew;
  const child = spawn(command, [...args, script], {
    env: spec.env,
    cwd: "/",
    stdio: ["ignore", log, log, "pipe"],
    // A group of its own: a Ctrl-C at the terminal is for the kubelet, which then ends its containers in order.
    detached: true,
  });
  closeSync(log);
  const exited = new Promise<ContainerExit>((resolve) => {
    child.on("error", () => resolve({ exitCode: 128 }));
    child.on("exit", (code, signal) => {
      resolve({ exitCode: signal === null ? (code ?? 128) : 128 + constants.signals[signal] });
    });
  });
  const channel = child.stdio[3];
  const { pid, error } = await readChannel(isReadable(channel) ? channel : undefined);
  if (pid === undefined || error !== undefined) {
    if (child.pid !== undefined) signalQuietly(child.pid, "SIGKILL");
    await exited;
    throw new StartError(error ?? "the container ended before its program ran");
  }
  let ended = false;
  void exited.then(() => (ended = true));
  return {
    pid,
    exited,
    signal(name) {
      if (!ended) signalQuietly(pid, name);
    },
  };
}

function isReadable(stream: unknown): stream is Readable {
  return typeof stream === "object" && stream !== null && "setEncoding" in stream;
}

/**
 * Reads the script's lines up to `R` or `E`, or to the end. The end alone will not do: a program that
 * was started in between may hold the descriptor open.
 */
async function readChannel(channel: Readable | undefined): Promise<{ pid?: number; error?: string }> {
  if (!channel) return { error: "no channel to the container" };
  let text = "";
  channel.setEncoding("utf8");
  for await (const chunk of channel) {
    text += chunk;
    if (/^R$/m.test(text) || /^E .*\n/m.test(text)) break;
  }
  const error = /^E ([^]*)/m.exec(text)?.[1]?.trim();
  if (error !== undefined) return { error };
  const pid = /^P (\d+)$/m.exec(text)?.[1];
  return pid !== undefined && /^R$/m.test(text) ? { pid: Number(pid) } : {};
}

/** Sends a signal; a process that is gone already is no error. */
export function signalQuietly(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (thrown) {
    const code = thrown instanceof Error && "code" in thrown ? thrown.code : undefined;
    if (code !== "ESRCH") throw thrown;
  }
}
