/**
 * Child processes that never outlive their owner. Everything that the test bed, the demo and the benchmarks start
 * goes through one {@link Supervisor}:
 *
 * ```ts
 * await using processes = supervise();                    // first clears what killed runs left
 * const folder = processes.folder("bed");                 // temporary, removed on close
 * const etcd = processes.spawn({ name: "etcd", command: "/x/etcd", args: [], logFile: `${folder}/etcd.log` });
 * await until("etcd", () => answers(url), { giveUp: etcd.requireRunning });
 * await etcd.stop();                                      // TERM, then KILL; or leave it to close()
 * ```
 *
 * How each exit path is covered:
 * - `close()` (also `await using`): closers and children in the reverse order of their registration, then folders.
 * - `process.exit`, an uncaught exception or rejection: the `exit` event kills everything with SIGKILL.
 * - SIGINT, SIGTERM, SIGHUP: an orderly close, then the signal's default action; a second signal kills at once. With
 *   `signals: "leave"` the program handles signals itself and calls `close()`.
 * - SIGKILL of the owner: on Linux with `setpriv` the kernel kills each child with its parent; whatever is left is
 *   cleared by the next `supervise()` of this user from the registry of `runs.ts`.
 *
 * Each child leads its own process group and session, so a terminal's Ctrl-C reaches only the owner. When the leader
 * ends, the rest of its group is killed.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { accessSync, closeSync, constants, mkdirSync, mkdtempSync, openSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { TestbedError } from "./errors.ts";
import { identify } from "./process-identity.ts";
import { beginRun, removeFolder, runVariable, signalQuietly, sweepDeadRuns, testbedRoot } from "./runs.ts";
import { executableOnPath } from "./search.ts";

/** How a child ended: one of the two is set. */
export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** What to start. */
export interface ChildSpec {
  /** For messages: "etcd", "kubelet host-1". */
  readonly name: string;
  /** Path of an executable, or a name on PATH. */
  readonly command: string;
  readonly args: readonly string[];
  /** The whole environment. Default: this process's. The run's mark is added. */
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** File to which stdout and stderr are appended. Without it both are pipes of {@link Child.process}. */
  readonly logFile?: string;
  /** What `stop()` and `close()` wait between SIGTERM and SIGKILL, in milliseconds. 0 = SIGKILL at once. Default 5,000. */
  readonly graceMs?: number;
}

/** A started child. */
export interface Child {
  readonly name: string;
  readonly pid: number;
  /** Node's handle, for its pipes. Use `stop` and `signal` rather than its `kill`. */
  readonly process: ChildProcess;
  /** Resolves when it ends, however that is; never rejects. */
  readonly exited: Promise<Exit>;
  running(): boolean;
  /** @throws TestbedError `ProcessFailed` with the end of its log, when it is not running. Bound: pass it as `giveUp`. */
  readonly requireRunning: () => void;
  /** Sends a signal to it alone, not to its group. Nothing happens when it has ended. */
  signal(signal: NodeJS.Signals): void;
  /** SIGTERM, then SIGKILL to its group after the grace. Resolves when it has ended; may be called again. */
  stop(options?: { readonly graceMs?: number }): Promise<Exit>;
}

/** Owner of children, temporary folders and closing steps. */
export interface Supervisor extends AsyncDisposable {
  /** Names the run in the registry; every descendant carries it in `RESULTITY_TESTBED_RUN`. */
  readonly id: string;
  /** @throws TestbedError `ProcessFailed` when the command cannot be executed, or after `close()`. */
  spawn(spec: ChildSpec): Child;
  /** Makes a temporary folder that lives as long as the supervisor. `name` becomes part of its path. */
  folder(name: string): string;
  /** Adds a step to `close()`; steps and children are undone in the reverse of the order in which they were added. */
  onClose(step: () => void | Promise<void>): void;
  /** Stops and removes everything. Idempotent. */
  close(): Promise<void>;
}

/** Options of {@link supervise}. */
export interface SuperviseOptions {
  /** Whether SIGINT, SIGTERM and SIGHUP close the supervisor and end this process (see above). Default "handle". */
  readonly signals?: "handle" | "leave";
  /** Folder in which registry and temporary folders lie. Default: the system's. */
  readonly tmp?: string;
  /** Told when a sweep found something. Default: nobody. */
  readonly log?: (line: string) => void;
}

const defaultGraceMs = 5_000;

/** Clears what dead runs left, and begins a new one owned by this process. */
export function supervise({ signals = "handle", tmp, log }: SuperviseOptions = {}): Supervisor {
  const root = testbedRoot(tmp);
  const swept = sweepDeadRuns(root);
  if (swept.runs > 0) {
    log?.(`cleared ${swept.runs} run(s) that were killed: ${swept.killed} process(es) ended`);
    for (const folder of swept.left) log?.(`could not remove ${folder}`);
  }

  const run = beginRun(root);
  const children = new Map<number, Child>();
  const steps: (() => void | Promise<void>)[] = [];
  const folders: string[] = [];
  let closing: Promise<void> | undefined;

  const killNow = () => {
    for (const pid of children.keys()) signalQuietly(-pid, "SIGKILL");
    run.killRest();
    for (const folder of folders) removeFolder(folder);
    run.end();
  };

  const closeAll = async () => {
    const problems: unknown[] = [];
    for (let step = steps.pop(); step; step = steps.pop()) {
      try {
        await step();
      } catch (thrown) {
        problems.push(thrown);
      }
    }
    run.killRest();
    for (const folder of folders) {
      const problem = removeFolder(folder);
      if (problem) problems.push(new TestbedError("ProcessFailed", `could not remove ${problem}`));
    }
    run.end();
    open.delete(entry);
    updateHooks();
    if (problems.length === 1) throw problems[0];
    if (problems.length > 1)
      throw new AggregateError(problems, "closing the test bed failed in several places");
  };

  const supervisor: Supervisor = {
    id: run.id,
    spawn(spec) {
      if (closing) throw new TestbedError("ProcessFailed", `${spec.name}: the test bed is closing`);
      const child = startChild(spec, run.id, (pid) => {
        children.delete(pid);
        run.removeChild(pid);
      });
      children.set(child.pid, child);
      const identity = identify(child.pid);
      if (identity) run.addChild(identity);
      steps.push(async () => void (await child.stop()));
      return child;
    },
    folder(name) {
      const path = mkdtempSync(join(root, `${name}-`));
      folders.push(path);
      run.addFolder(path);
      return path;
    },
    onClose(step) {
      steps.push(step);
    },
    close() {
      closing ??= closeAll();
      return closing;
    },
    [Symbol.asyncDispose]: () => supervisor.close(),
  };

  const entry: OpenSupervisor = {
    killNow,
    close: () => supervisor.close(),
    handlesSignals: signals === "handle",
  };
  open.add(entry);
  updateHooks();
  return supervisor;
}

/** The last lines of a log file, for error messages. Empty when there is none. */
export function logTail(path: string, lines = 15): string {
  try {
    return readFileSync(path, "utf8").trimEnd().split("\n").slice(-lines).join("\n");
  } catch {
    return "";
  }
}

function startChild(spec: ChildSpec, runId: string, onExit: (pid: number) => void): Child {
  const { name, command, args, env = process.env, cwd, logFile, graceMs: specGrace = defaultGraceMs } = spec;
  if (command.includes("/")) requireExecutable(name, command);
  const setpriv = findSetpriv();
  const [file, ...argv] = setpriv ? [setpriv, "--pdeathsig", "KILL", command, ...args] : [command, ...args];
  if (logFile) mkdirSync(dirname(logFile), { recursive: true });
  const log = logFile ? openSync(logFile, "a", 0o600) : undefined;
  const handle = spawn(file ?? command, argv, {
    detached: true,
    env: { ...env, [runVariable]: runId },
    stdio: log === undefined ? ["pipe", "pipe", "pipe"] : ["ignore", log, log],
    ...(cwd === undefined ? {} : { cwd }),
  });
  if (log !== undefined) closeSync(log);
  // Without this listener a failed spawn would be an uncaught exception; `pid` tells it below.
  handle.on("error", () => {});
  const { pid } = handle;
  if (pid === undefined) throw new TestbedError("ProcessFailed", `${name}: cannot start ${command}`);

  let exit: Exit | undefined;
  const exited = new Promise<Exit>((resolve) => {
    handle.once("exit", (code, signal) => {
      exit = { code, signal };
      signalQuietly(-pid, "SIGKILL");
      onExit(pid);
      resolve(exit);
    });
  });

  return {
    name,
    pid,
    process: handle,
    exited,
    running: () => exit === undefined,
    requireRunning() {
      if (exit === undefined) return;
      const how = exit.signal ? `was killed by ${exit.signal}` : `ended with code ${exit.code}`;
      const tail = logFile ? logTail(logFile) : "";
      throw new TestbedError("ProcessFailed", `${name} ${how}${tail ? `; end of ${logFile}:\n${tail}` : ""}`);
    },
    signal(signal) {
      if (exit === undefined) signalQuietly(pid, signal);
    },
    async stop({ graceMs = specGrace } = {}) {
      if (exit) return exit;
      if (graceMs === 0) {
        signalQuietly(-pid, "SIGKILL");
        return exited;
      }
      signalQuietly(pid, "SIGTERM");
      const timer = setTimeout(() => signalQuietly(-pid, "SIGKILL"), graceMs);
      try {
        return await exited;
      } finally {
        clearTimeout(timer);
      }
    },
  };
}

function requireExecutable(name: string, command: string): void {
  try {
    accessSync(command, constants.X_OK);
  } catch (cause) {
    throw new TestbedError("ProcessFailed", `${name}: ${command} is not an executable file`, { cause });
  }
}

let setprivPath: string | null | undefined;

/**
 * util-linux's setpriv, where it can bind a child's life to its parent's (prctl PR_SET_PDEATHSIG); else null. An
 * absolute path, because the child's own PATH need not lead to it.
 */
function findSetpriv(): string | null {
  if (setprivPath !== undefined) return setprivPath;
  const path = executableOnPath("setpriv", process.env);
  const works = path !== undefined && spawnSync(path, ["--pdeathsig", "KILL", "true"]).status === 0;
  setprivPath = works ? path : null;
  return setprivPath;
}

interface OpenSupervisor {
  readonly killNow: () => void;
  readonly close: () => Promise<void>;
  readonly handlesSignals: boolean;
}

/** Supervisors of this process that are not closed. The process-wide hooks exist only while there is one. */
const open = new Set<OpenSupervisor>();
const signalsHandled = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
let exitHook = false;
let signalHooks = false;
let ending = false;

function updateHooks(): void {
  const wantsExit = open.size > 0;
  if (wantsExit !== exitHook) {
    exitHook = wantsExit;
    if (wantsExit) process.on("exit", killAllNow);
    else process.off("exit", killAllNow);
  }
  const wantsSignals = [...open].some((entry) => entry.handlesSignals);
  if (wantsSignals !== signalHooks && !ending) {
    signalHooks = wantsSignals;
    for (const signal of signalsHandled) {
      if (wantsSignals) process.on(signal, endBySignal);
      else process.off(signal, endBySignal);
    }
  }
}

function killAllNow(): void {
  for (const entry of open) entry.killNow();
  open.clear();
}

/** First signal: orderly. Second: at once. Then the signal's own default action, so that the exit status is true. */
function endBySignal(signal: NodeJS.Signals): void {
  const finish = () => {
    killAllNow();
    for (const each of signalsHandled) process.off(each, endBySignal);
    process.kill(process.pid, signal);
  };
  if (ending) {
    finish();
    return;
  }
  ending = true;
  void Promise.allSettled(
    [...open].filter((entry) => entry.handlesSignals).map((entry) => entry.close()),
  ).then(finish);
}
