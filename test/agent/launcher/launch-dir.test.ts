import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { diskFiles } from "../../../src/agent/edge/files.ts";
import { LaunchDir } from "../../../src/agent/launcher/launch-dir.ts";

const line = "2 7 4194304 3 -1 running\n";
let dir: string;
let state: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "launch-"));
  mkdirSync(join(dir, "run"));
  state = join(dir, "run/state");
});
afterEach(() => rmSync(dir, { recursive: true }));

const look = () => new LaunchDir(diskFiles, dir).state();

describe("the launcher's state, which the engine can write too", () => {
  it("is read", async () => {
    writeFileSync(state, line);
    expect(await look()).toEqual({
      starts: 2,
      generation: 7,
      pid: 4194304,
      crashes: 3,
      exitCode: -1,
      phase: "running",
    });
  });

  it("is none where nothing or half a line was written", async () => {
    expect(await look()).toBeUndefined();
    writeFileSync(state, "2 7 419");
    expect(await look()).toBeUndefined();
  });

  it.each(["NaN 7 1 3 0 running", "2 1e9 1 3 0 running", "2 7 1 -3 0 running", "2 7 1 3 0 constructor"])(
    "is none where it says %s",
    async (text) => {
      writeFileSync(state, text);
      expect(await look()).toBeUndefined();
    },
  );

  it("is none where it is a link, to a file with that content or to one without end", async () => {
    const elsewhere = join(dir, "elsewhere");
    writeFileSync(elsewhere, line);
    symlinkSync(elsewhere, state);
    expect(await look()).toBeUndefined();
    rmSync(state);
    symlinkSync("/dev/zero", state);
    expect(await look()).toBeUndefined();
  });

  it("is none where it is a pipe that nobody writes, a folder, or larger than a line", async () => {
    execFileSync("mkfifo", [state]);
    expect(await look()).toBeUndefined();
    rmSync(state);
    mkdirSync(state);
    expect(await look()).toBeUndefined();
    rmSync(state, { recursive: true });
    writeFileSync(state, line);
    truncateSync(state, 1024 ** 3);
    expect(await look()).toBeUndefined();
  });
});
