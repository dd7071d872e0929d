import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { diskFiles } from "../../src/agent/edge/files.ts";
import { LaunchDir } from "../../src/agent/launcher/launch-dir.ts";
import { supervise } from "../testbed/processes.ts";
import { executableOnPath } from "../testbed/search.ts";
import { until } from "../testbed/until.ts";

const processes = supervise();
afterAll(() => processes.close());

/** Shells of this machine in which the launcher must run: those of Debian, of Red Hat and of Alpine. */
const shells = ["dash", "bash --posix", "busybox sh"].filter((shell) => {
  const [command = "", ...args] = shell.split(" ");
  return spawnSync(command, [...args, "-c", "true"]).error === undefined;
});

const sleepPath = executableOnPath("sleep", process.env);

/** An engine that notes its arguments and that it was told to stop. */
const engine = (log: string, ...args: readonly string[]) => [
  "/bin/sh",
  "-c",
  `trap 'echo term >> "$0"; exit 7' TERM; echo "start $*" >> "$0"; while :; do sleep 1 & wait $!; done`,
  log,
  ...args,
];

it("there is a shell to try the launcher in", () => expect(shells).not.toEqual([]));

describe.each(shells)("launch.sh in %s", (shell) => {
  let dir: string;
  let log: string;
  let launch: LaunchDir;

  beforeEach(async () => {
    dir = processes.folder("launch");
    log = join(dir, "engine.log");
    mkdirSync(join(dir, "run"));
    launch = new LaunchDir(diskFiles, dir);
    await launch.writeScript();
  });

  const lines = () => (existsSync(log) ? readFileSync(log, "utf8").trim().split("\n") : []);
  /** @param tools a folder of commands that the launcher finds before those of this machine */
  const start = (tools?: string) => {
    const [command = "", ...args] = shell.split(" ");
    return processes.spawn({
      name: "launcher",
      command,
      args: [...args, join(dir, "launch.sh")],
      logFile: log,
      ...(tools === undefined ? {} : { env: { ...process.env, PATH: `${tools}:${process.env["PATH"]}` } }),
    });
  };
  const generation = (number: number, argv: readonly string[]) =>
    launch.write(
      {
        number,
        engine: "openai",
        command: [],
        args: [],
        models: [],
        modelPaths: {},
        gpuCount: null,
        port: 1,
      },
      { argv, env: {}, envDefaults: {} },
    );
  const state = (
    what: string,
    look: (seen: NonNullable<Awaited<ReturnType<LaunchDir["state"]>>>) => boolean,
  ) =>
    until(what, async () => {
      const seen = await launch.state();
      return seen && look(seen) ? seen : undefined;
    });

  it("starts nothing before the first generation, and hands every byte of an argument on", async () => {
    const launcher = start();
    await state("a waiting launcher", ({ phase, starts }) => phase === "waiting" && starts === 1);
    const odd = `it's "odd" $HOME \\ \`x\`\nnew line *`;
    await generation(1, ["/bin/sh", "-c", 'printf %s "$1" > "$0"; sleep 60 & wait', `${log}.arg`, odd]);
    await launch.point(1, true);
    await until("the argument", () => readFileSync(`${log}.arg`, "utf8") === odd);
    expect(await launcher.stop()).toEqual({ code: 0, signal: null });
  });

  it("passes TERM on, waits for the engine and ends with 0", async () => {
    await generation(1, engine(log, "one"));
    await launch.point(1, false);
    const launcher = start();
    await until("the engine", () => lines().includes("start one"));
    launcher.signal("SIGTERM");
    expect(await launcher.exited).toEqual({ code: 0, signal: null });
    expect(lines()).toEqual(["start one", "term"]);
    expect(await launch.state()).toMatchObject({ phase: "stopping", exitCode: 7, generation: 1 });
  });

  // That of busybox has a sleep of its own, which takes the whole half minute.
  const its = shell.startsWith("busybox")
    ? []
    : ["tells an engine twice, then kills it: one that hangs does not hold its GPUs"];
  it.each(its)("%s", async () => {
    const deaf = `trap 'echo term >> "$0"' TERM; echo start >> "$0"; while :; do ${sleepPath} 1 & wait $!; done`;
    await generation(1, ["/bin/sh", "-c", deaf, log]);
    await launch.point(1, false);
    // Its half minute in a fraction of the time.
    const tools = join(dir, "tools");
    mkdirSync(tools);
    writeFileSync(join(tools, "sleep"), `#!/bin/sh\nexec ${sleepPath} 0.2\n`, { mode: 0o755 });
    const launcher = start(tools);
    await until("the engine", () => lines().includes("start"));
    launcher.signal("SIGTERM");
    expect(await launcher.exited).toEqual({ code: 0, signal: null });
    expect(lines()).toEqual(["start", "term", "term"]);
    expect(await launch.state()).toMatchObject({ phase: "stopping", exitCode: 137, pid: 0 });
  });

  it("moves to another generation when told now, and only then; a new launcher takes it anyway", async () => {
    await generation(1, engine(log, "one"));
    await generation(2, engine(log, "two"));
    await generation(3, engine(log, "three"));
    await launch.point(1, true);
    const launcher = start();
    await until("the first", () => lines().includes("start one"));
    await launch.point(2, true);
    await until("the second", () => lines().includes("start two"));
    expect(lines()).toEqual(["start one", "term", "start two"]);
    await state("the second's state", ({ generation: number, phase }) => number === 2 && phase === "running");

    await launch.point(3, false);
    await launcher.stop();
    expect(lines().at(-1)).toBe("term");
    expect(lines()).not.toContain("start three");
    const next = start();
    await until("the third", () => lines().includes("start three"));
    await state("a second launcher", ({ starts }) => starts === 2);
    await next.stop();
  });

  it("starts a crashed engine again, with the same command line until told now", async () => {
    await generation(1, ["/bin/sh", "-c", `echo crash >> '${log}'; exit 3`]);
    await generation(2, engine(log, "cure"));
    await launch.point(1, true);
    const launcher = start();
    await until("a second crash", () => lines().filter((line) => line === "crash").length === 2);
    await launch.point(2, false);
    const seen = await state("a third crash", ({ crashes }) => crashes >= 3);
    expect(seen).toMatchObject({ exitCode: 3, generation: 1 });
    await launch.point(2, true);
    await until("the cure", () => lines().includes("start cure"));
    expect(launcher.running()).toBe(true);
    await launcher.stop();
  });

  it("leaves when asked by its number, whatever its engine does, and the next one does not", async () => {
    await generation(1, engine(log));
    await launch.point(1, true);
    const first = start();
    await state("a running engine", ({ phase, starts }) => phase === "running" && starts === 1);
    await until("the engine to say that it runs", () => lines().includes("start"));
    await launch.leave(1);
    expect((await first.exited).code).toBe(75);
    expect(lines()).toContain("term");
    const second = start();
    await state("the next one", ({ phase, starts }) => phase === "running" && starts === 2);
    // While an engine that crashed waits to be started again, too.
    await generation(2, ["/bin/false"]);
    await launch.point(2, true);
    await state("a crash", ({ phase, crashes }) => phase === "backoff" && crashes > 0);
    await launch.leave(2);
    expect((await second.exited).code).toBe(75);
  });

  it("ends at once when told so while it waits to start a crashed engine again", async () => {
    await generation(1, ["/no/such/engine"]);
    await launch.point(1, true);
    const launcher = start();
    await state("a crash", ({ phase, exitCode }) => phase === "backoff" && exitCode === 127);
    expect(await launcher.stop()).toEqual({ code: 0, signal: null });
  });
});
