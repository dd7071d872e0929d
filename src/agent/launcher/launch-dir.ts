import { join } from "node:path";
import * as z from "zod/mini";
import { parsePayload } from "../../protocol/frame.ts";
import type { EngineCommand, EngineStart } from "../engine/adapter.ts";
import type { Files } from "../ports.ts";
import { launchScript } from "./launch-script.ts";

/** What one generation of the engine runs. */
export interface Generation extends EngineCommand {
  readonly number: number;
  /** Engine's name in the config, which chooses its adapter. */
  readonly engine: string;
}

const words = z.array(z.string()).check(z.maxLength(1024));
const record = z.object({
  engine: z.string(),
  command: words,
  args: words,
  models: words,
  /** Absent in generations of an agent that did not know it. */
  modelPaths: z._default(z.record(z.string(), z.string()), {}),
  gpuCount: z.nullable(z.int()),
  port: z.int(),
});

/** What the launcher says of itself; see `launch-script.ts`. */
export interface LauncherState {
  /** Counts launchers: one more means that the runtime container has been started anew. */
  readonly starts: number;
  readonly generation: number;
  /** Process id of the engine in its container; 0 = none runs. */
  readonly pid: number;
  readonly crashes: number;
  /** Exit code of the engine that ended last; -1 = none has. */
  readonly exitCode: number;
  readonly phase: "waiting" | "running" | "backoff" | "stopping";
}

/** `<starts> <generation> <pid> <crashes> <exit> <phase>`. */
const stateLine = /^(\d{1,9}) (\d{1,9}) (\d{1,9}) (\d{1,9}) (-1|\d{1,3}) ([a-z]+)$/;
/** Most bytes of the launcher's state. */
const maxStateBytes = 256;
const phases: readonly LauncherState["phase"][] = ["waiting", "running", "backoff", "stopping"];

/** The folder that agent and launcher share. */
export class LaunchDir {
  readonly #files: Files;
  readonly #dir: string;

  constructor(files: Files, dir: string) {
    this.#files = files;
    this.#dir = dir;
  }

  /** Writes the launcher itself. Before anything else: the runtime container starts with it. */
  async writeScript(): Promise<void> {
    await this.#files.write(join(this.#dir, "launch.sh"), launchScript, 0o755);
  }

  /** The generation that a launcher takes now; undefined before the first. An agent that restarts finds it here. */
  async current(): Promise<Generation | undefined> {
    const text = (await this.#files.read(join(this.#dir, "generation")))?.toString("utf8") ?? "";
    const number = Number(/^(\d+)/.exec(text)?.[1] ?? 0);
    if (number === 0) return undefined;
    const bytes = await this.#files.read(join(this.#dir, "gen", String(number), "engine.json"));
    if (!bytes) return undefined;
    try {
      return { number, ...parsePayload(record, bytes.toString("utf8"), "engine.json") };
    } catch {
      // Half a folder from another version: as good as none, the next render writes a new generation.
      return undefined;
    }
  }

  /** Writes what generation `number` runs, without telling the launcher. */
  async write(generation: Generation, start: EngineStart): Promise<void> {
    const { number, ...rest } = generation;
    const dir = join(this.#dir, "gen", String(number));
    await this.#files.write(join(dir, "start"), startText(start), 0o644);
    await this.#files.write(join(dir, "engine.json"), JSON.stringify(rest), 0o644);
  }

  /** Points the launcher at a generation: one that begins takes it; `now`: one whose engine runs moves to it too. */
  async point(number: number, now: boolean): Promise<void> {
    await this.#files.write(join(this.#dir, "generation"), now ? `${number} now\n` : `${number}\n`, 0o644);
  }

  /** Has a launcher end, and its container with it, for whoever runs the container to begin it anew. @param starts which one. */
  async leave(starts: number): Promise<void> {
    await this.#files.write(join(this.#dir, "leave"), `${starts}\n`, 0o644);
  }

  /** Highest number in use, so that the next one is new. */
  async lastNumber(): Promise<number> {
    const names = await this.#files.list(join(this.#dir, "gen"));
    return Math.max(0, ...names.map(Number).filter(Number.isSafeInteger));
  }

  /** Removes generations that nobody can be pointed at any more. */
  async prune(keep: readonly number[]): Promise<void> {
    for (const name of await this.#files.list(join(this.#dir, "gen"))) {
      if (!keep.includes(Number(name))) await this.#files.remove(join(this.#dir, "gen", name));
    }
  }

  /**
   * What the launcher says; undefined while it has said nothing. The engine can write there too: what is no such line,
   * or no plain small file, is as if it were not there.
   */
  async state(): Promise<LauncherState | undefined> {
    const bytes = await this.#files.read(join(this.#dir, "run", "state"), maxStateBytes);
    // Written by a shell without a rename: a torn line is read again at the next look.
    const [, starts, generation, pid, crashes, exitCode, word] =
      stateLine.exec(bytes?.toString("latin1").trim() ?? "") ?? [];
    const phase = phases.find((candidate) => candidate === word);
    if (phase === undefined) return undefined;
    return {
      starts: Number(starts),
      generation: Number(generation),
      pid: Number(pid),
      crashes: Number(crashes),
      exitCode: Number(exitCode),
      phase,
    };
  }
}

/** The shell text that starts an engine: its variables, then `exec`. */
export function startText({ argv, env, envDefaults }: EngineStart): string {
  const lines = [
    ...Object.entries(envDefaults).map(
      ([name, value]) => `[ "\${${name}+set}" ] || export ${name}=${quote(value)}`,
    ),
    ...Object.entries(env).map(([name, value]) => `export ${name}=${quote(value)}`),
    `exec ${argv.map(quote).join(" ")}`,
  ];
  return `${lines.join("\n")}\n`;
}

/** One word of POSIX shell that stands for exactly `text`. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
