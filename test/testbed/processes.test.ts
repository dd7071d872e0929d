import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { identify, isAlive, type ProcessIdentity } from "./process-identity.ts";
import { supervise } from "./processes.ts";
import { beginRun, sweepDeadRuns, testbedRoot } from "./runs.ts";
import { until } from "./until.ts";

let tmp: string;
const started: ChildProcess[] = [];

beforeEach(() => {
  tmp = mkdtempSync(join(tmpdir(), "processes-test-"));
});
afterEach(() => {
  for (const child of started.splice(0)) child.kill("SIGKILL");
  rmSync(tmp, { recursive: true, force: true });
});

/** Runs `body` in a process of its own, as owner of a supervisor called `processes`. */
function startOwner(body: string): ChildProcess {
  const script = join(tmp, "owner.mjs");
  writeFileSync(
    script,
    `import { supervise } from ${JSON.stringify(join(import.meta.dirname, "processes.ts"))};
     import { writeFileSync } from "node:fs";
     const processes = supervise({ tmp: ${JSON.stringify(tmp)} });
     const say = (value) => process.stdout.write(JSON.stringify(value) + "\\n");
     ${body}`,
  );
  const owner = spawn(process.execPath, [script], { stdio: ["pipe", "pipe", "ignore"] });
  started.push(owner);
  return owner;
}

const sleepingChild = `
  const folder = processes.folder("bed");
  const child = processes.spawn({ name: "sleep", command: "sleep", args: ["600"] });
  say({ pid: child.pid, folder });`;

/** First line that the owner said, with the identity of the child that it names. */
async function firstLine(owner: ChildProcess): Promise<{ folder: string; child: ProcessIdentity }> {
  let text = "";
  owner.stdout?.on("data", (chunk) => {
    text += String(chunk);
  });
  const line = await until("the owner's first line", () => text.includes("\n") && text);
  const said: unknown = JSON.parse(line);
  if (typeof said !== "object" || said === null || !("pid" in said) || !("folder" in said))
    throw new Error(line);
  const child = identify(Number(said.pid));
  if (!child) throw new Error("the child is not running");
  return { folder: String(said.folder), child };
}

function exitOf(owner: ChildProcess): Promise<{ code: number | null; signal: string | null }> {
  return new Promise((resolve) => owner.once("exit", (code, signal) => resolve({ code, signal })));
}

function runFiles(): string[] {
  return readdirSync(join(testbedRoot(tmp), "runs"));
}

describe("a supervisor", () => {
  test("stops children in reverse order and removes folders and its registry entry when closed", async () => {
    const processes = supervise({ tmp });
    const order: string[] = [];
    const folder = processes.folder("bed");
    const first = processes.spawn({ name: "first", command: "sleep", args: ["600"] });
    const second = processes.spawn({ name: "second", command: "sleep", args: ["600"] });
    void first.exited.then(() => order.push("first"));
    void second.exited.then(() => order.push("second"));
    await processes.close();
    expect(order).toEqual(["second", "first"]);
    expect(existsSync(folder)).toBe(false);
    expect(runFiles()).toEqual([]);
    expect(() => processes.spawn({ name: "late", command: "sleep", args: ["1"] })).toThrow("closing");
  });

  test("kills a child that ignores SIGTERM after its grace", async () => {
    await using processes = supervise({ tmp });
    const logFile = join(processes.folder("bed"), "stubborn.log");
    const child = processes.spawn({
      name: "stubborn",
      command: "sh",
      args: ["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"],
      logFile,
    });
    await until("the trap", () => readFileSync(logFile, "utf8").includes("ready"));
    expect(await child.stop({ graceMs: 200 })).toEqual({ code: null, signal: "SIGKILL" });
  });

  test("says with the end of its log how a child ended", async () => {
    await using processes = supervise({ tmp });
    const child = processes.spawn({
      name: "brief",
      command: "sh",
      args: ["-c", "echo no such flag >&2; exit 3"],
      logFile: join(processes.folder("bed"), "brief.log"),
    });
    await child.exited;
    expect(child.requireRunning).toThrow(/brief ended with code 3; end of .*brief\.log:\nno such flag/);
  });

  test("refuses a command that is not there", async () => {
    await using processes = supervise({ tmp });
    expect(() => processes.spawn({ name: "etcd", command: "/nowhere/etcd", args: [] })).toThrow(
      "etcd: /nowhere/etcd is not an executable file",
    );
  });

  test("kills what a child left in its group, and what left the group", async () => {
    await using processes = supervise({ tmp });
    const file = join(processes.folder("bed"), "pids");
    const child = processes.spawn({
      name: "parent",
      command: "sh",
      args: [
        "-c",
        `sleep 600 & setsid sh -c 'echo $$ > ${file}.tmp; mv ${file}.tmp ${file}; exec sleep 601' & wait`,
      ],
    });
    await until("the grandchildren", () => existsSync(file));
    const escaped = identify(Number(readFileSync(file, "utf8")));
    if (!escaped) throw new Error("the grandchild is not running");
    await child.stop();
    expect(isAlive(escaped)).toBe(true);
    await processes.close();
    expect(isAlive(escaped)).toBe(false);
  });
});

describe("an owner that ends", () => {
  const wayOut: [string, string, { code: number | null; signal: string | null }][] = [
    ["by process.exit", "process.exit(7)", { code: 7, signal: null }],
    ["by an uncaught exception", "setImmediate(() => { throw 'planted' })", { code: 1, signal: null }],
    ["by an unhandled rejection", "void Promise.reject('planted')", { code: 1, signal: null }],
  ];
  test.each(wayOut)("%s leaves no child, folder or registry entry", async (_, end, expected) => {
    const owner = startOwner(`${sleepingChild}
      process.stdin.once("data", () => { ${end} });`);
    const { child, folder } = await firstLine(owner);
    owner.stdin?.write("end\n");
    expect(await exitOf(owner)).toEqual(expected);
    expect(isAlive(child)).toBe(false);
    expect(existsSync(folder)).toBe(false);
    expect(runFiles()).toEqual([]);
  });

  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("by %s closes in order first", async (signal) => {
    const owner = startOwner(`
      processes.onClose(() => writeFileSync(${JSON.stringify(join(tmp, "told"))}, "closed"));
      ${sleepingChild}`);
    const { child, folder } = await firstLine(owner);
    owner.kill(signal);
    expect(await exitOf(owner)).toEqual({ code: null, signal });
    expect(readFileSync(join(tmp, "told"), "utf8")).toBe("closed");
    expect(isAlive(child)).toBe(false);
    expect(existsSync(folder)).toBe(false);
    expect(runFiles()).toEqual([]);
  });

  test("by SIGKILL is cleared by the next sweep", async () => {
    const owner = startOwner(sleepingChild);
    const { child, folder } = await firstLine(owner);
    const exit = exitOf(owner);
    owner.kill("SIGKILL");
    await exit;
    expect(runFiles()).toHaveLength(1);
    expect(sweepDeadRuns(testbedRoot(tmp))).toMatchObject({ runs: 1, left: [] });
    expect(isAlive(child)).toBe(false);
    expect(existsSync(folder)).toBe(false);
    expect(runFiles()).toEqual([]);
  });
});

describe("a sweep", () => {
  /** An entry in the registry whose owner does not exist any more. */
  function plantDeadRun(children: ProcessIdentity[]): string {
    const root = testbedRoot(tmp);
    const run = beginRun(root);
    for (const child of children) run.addChild(child);
    const path = join(root, "runs", `${run.id}.json`);
    const record: unknown = JSON.parse(readFileSync(path, "utf8"));
    if (typeof record !== "object") throw new Error("no record");
    writeFileSync(path, JSON.stringify({ ...record, owner: { pid: process.pid, startTime: "0" } }));
    return root;
  }

  function sleeper(): ProcessIdentity {
    const child = spawn("sleep", ["600"]);
    started.push(child);
    const identity = child.pid === undefined ? undefined : identify(child.pid);
    if (!identity) throw new Error("sleep did not start");
    return identity;
  }

  test("kills the recorded child of an owner that is gone", () => {
    const child = sleeper();
    expect(sweepDeadRuns(plantDeadRun([child]))).toEqual({ runs: 1, killed: 1, left: [] });
    expect(isAlive(child)).toBe(false);
  });

  test("spares a process that only reuses the PID", () => {
    const child = sleeper();
    expect(sweepDeadRuns(plantDeadRun([{ pid: child.pid, startTime: "1" }]))).toMatchObject({ killed: 0 });
    expect(isAlive(child)).toBe(true);
  });

  test("leaves the run of a live owner alone", () => {
    const root = testbedRoot(tmp);
    const child = sleeper();
    beginRun(root).addChild(child);
    expect(sweepDeadRuns(root)).toMatchObject({ runs: 0 });
    expect(isAlive(child)).toBe(true);
  });
});
