/**
 * The registry of test bed runs: a file per run says which process owns it, which children it started and which
 * folders it filled. A run whose owner was killed cannot clean up; the next one does it from the file
 * ({@link sweepDeadRuns}).
 *
 * The files lie in `<tmpdir>/resultity-testbed-<uid>/runs`.
 */
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join, sep } from "node:path";
import { TestbedError } from "./errors.ts";
import {
  bootAndNamespace,
  identify,
  isAlive,
  type ProcessIdentity,
  processesWithEnv,
} from "./process-identity.ts";

/** Environment variable that marks every descendant of a run; its value is the run's id. */
export const runVariable = "RESULTITY_TESTBED_RUN";

/** One run as written to disk. */
interface RunRecord {
  readonly id: string;
  readonly boot: string;
  readonly namespace: string;
  readonly owner: ProcessIdentity;
  children: ProcessIdentity[];
  folders: string[];
}

/** This process's entry in the registry. Each change is on disk when the call returns. */
export interface Run {
  readonly id: string;
  addChild(child: ProcessIdentity): void;
  removeChild(pid: number): void;
  addFolder(path: string): void;
  /** SIGKILL to every descendant that still lives, and waits until they are gone (at most 5 s). */
  killRest(): void;
  /** Takes the run off the registry: everything is stopped and removed. */
  end(): void;
}

/** The project's folder under the system's temporary folder, private to the user. */
export function testbedRoot(tmp: string = tmpdir()): string {
  const root = join(tmp, `resultity-testbed-${userInfo().uid}`);
  mkdirSync(join(root, "runs"), { recursive: true, mode: 0o700 });
  const stat = lstatSync(root);
  if (!stat.isDirectory() || (process.getuid !== undefined && stat.uid !== process.getuid())) {
    throw new TestbedError("ProcessFailed", `${root} belongs to someone else: remove it or set TMPDIR`);
  }
  return root;
}

/** Enters a new run with this process as owner. */
export function beginRun(root: string): Run {
  const owner = identify(process.pid);
  if (!owner) throw new TestbedError("ProcessFailed", "cannot read this process's own start time");
  const record: RunRecord = { id: randomUUID(), ...bootAndNamespace(), owner, children: [], folders: [] };
  const path = join(root, "runs", `${record.id}.json`);
  const save = () => {
    writeFileSync(`${path}.tmp`, JSON.stringify(record), { mode: 0o600 });
    renameSync(`${path}.tmp`, path);
  };
  save();
  return {
    id: record.id,
    addChild(child) {
      record.children.push(child);
      save();
    },
    removeChild(pid) {
      record.children = record.children.filter((child) => child.pid !== pid);
      save();
    },
    addFolder(folder) {
      record.folders.push(folder);
      save();
    },
    killRest() {
      killLeftovers(record);
    },
    end() {
      rmSync(path, { force: true });
    },
  };
}

/** What a sweep did. */
export interface Swept {
  /** Runs whose owner was gone. */
  readonly runs: number;
  /** Processes killed. */
  readonly killed: number;
  /** Folders that could not be removed, with the reason. */
  readonly left: readonly string[];
}

/**
 * Kills what dead runs left and removes their folders. A process is killed only if PID and start time, or the run's
 * mark in its environment, say that it is theirs; runs of another PID namespace are left alone.
 * Synchronous: it happens before anything else starts.
 */
export function sweepDeadRuns(root: string): Swept {
  const here = bootAndNamespace();
  let runs = 0;
  let killed = 0;
  const left: string[] = [];
  for (const file of readdirSync(join(root, "runs"))) {
    if (!file.endsWith(".json")) continue;
    const path = join(root, "runs", file);
    const record = readRecord(path);
    if (!record) continue;
    const sameBoot = record.boot === here.boot;
    if (sameBoot && (record.namespace !== here.namespace || isAlive(record.owner))) continue;
    runs++;
    if (sameBoot) killed += killLeftovers(record);
    const kept = record.folders.map(removeFolder).filter((problem) => problem !== undefined);
    left.push(...kept);
    rmSync(path, { force: true });
  }
  return { runs, killed, left };
}

/** SIGKILL to every live process of the run, and waits until they are gone (at most 5 s). Returns how many. */
function killLeftovers(record: RunRecord): number {
  const doomed = new Map<number, ProcessIdentity>();
  const deadline = performance.now() + 5_000;
  for (;;) {
    const alive = [...record.children.filter(isAlive), ...processesWithEnv(runVariable, record.id)].filter(
      ({ pid }) => pid !== process.pid,
    );
    if (alive.length === 0 || performance.now() > deadline) return doomed.size;
    for (const identity of alive) {
      doomed.set(identity.pid, identity);
      signalQuietly(identity.pid, "SIGKILL");
    }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  }
}

/**
 * Sends a signal; a process that is gone already is no error. A negative PID is a process group. EPERM is passed
 * over too: macOS answers it for a group of zombies, and what may not be signalled cannot be cleared from here.
 */
export function signalQuietly(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (thrown) {
    const code = thrown instanceof Error && "code" in thrown ? thrown.code : undefined;
    if (code !== "ESRCH" && code !== "EPERM") throw thrown;
  }
}

/**
 * Removes a folder with all in it; returns why not, if not. Mounts below it are taken away first: to remove through
 * a bind mount would empty somebody else's folder.
 */
export function removeFolder(path: string): string | undefined {
  try {
    for (const mount of mountsUnder(path)) execFileSync("umount", ["-l", mount], { stdio: "pipe" });
    if (mountsUnder(path).length > 0) return `${path}: something is still mounted below it`;
    rmSync(path, { recursive: true, force: true, maxRetries: 3 });
    return undefined;
  } catch (thrown) {
    return `${path}: ${thrown instanceof Error ? thrown.message : String(thrown)}`;
  }
}

/** Mount points at or below `path`, the deepest first. */
function mountsUnder(path: string): string[] {
  let table: string;
  try {
    table = readFileSync("/proc/self/mountinfo", "utf8");
  } catch {
    return [];
  }
  return table
    .split("\n")
    .map((line) => (line.split(" ")[4] ?? "").replace(/\\(\d{3})/g, (_, octal: string) => fromOctal(octal)))
    .filter((mount) => mount === path || mount.startsWith(path + sep))
    .sort((a, b) => b.length - a.length);
}

/** mountinfo writes blanks and backslashes as three octal digits (proc_pid_mountinfo(5)). */
function fromOctal(digits: string): string {
  return String.fromCharCode(Number.parseInt(digits, 8));
}

function readRecord(path: string): RunRecord | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(path, "utf8"));
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isRecord(value: unknown): value is RunRecord {
  return (
    typeof value === "object" &&
    value !== null &&
    "id" in value &&
    typeof value.id === "string" &&
    "boot" in value &&
    "namespace" in value &&
    "owner" in value &&
    isIdentity(value.owner) &&
    "children" in value &&
    Array.isArray(value.children) &&
    value.children.every(isIdentity) &&
    "folders" in value &&
    Array.isArray(value.folders) &&
    value.folders.every((folder) => typeof folder === "string")
  );
}

function isIdentity(value: unknown): value is ProcessIdentity {
  return (
    typeof value === "object" &&
    value !== null &&
    "pid" in value &&
    Number.isInteger(value.pid) &&
    "startTime" in value &&
    typeof value.startTime === "string"
  );
}
