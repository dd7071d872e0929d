/**
 * `fixture.mjs`, the program of the kubelet suite, as a program in memory: the same timeline for the same options. It leaves
 * out `--child`, for a program in memory has no children.
 */
import { randomUUID } from "node:crypto";
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname } from "node:path";
import { type Clock, sleep, systemClock } from "../../../../src/lib/clock.ts";
import { mortalClock } from "./life.ts";
import type { MemoryContainer, ProgramInMemory, StartedProgram } from "./program.ts";

const agentPort = 9440;
const lookMs = 20;

/** The fixture at `version`. */
export function fixtureProgram(version: string, clock: Clock = systemClock): ProgramInMemory {
  return (container) => new Fixture(version, container, mortalClock(clock, container.life));
}

class Fixture implements StartedProgram {
  readonly #version: string;
  readonly #container: MemoryContainer;
  readonly #clock: Clock;
  readonly #options: ReadonlyMap<string, string>;
  readonly #instance = randomUUID();

  constructor(version: string, container: MemoryContainer, clock: Clock) {
    this.#version = version;
    this.#container = container;
    this.#clock = clock;
    const [mode = "", ...rest] = container.args;
    this.#options = new Map(
      rest.map((argument) => {
        const [name = "", ...value] = argument.replace(/^--/, "").split("=");
        return [name, value.join("=")];
      }),
    );
    this.#run(mode).catch((thrown: unknown) => container.exit(1, String(thrown)));
  }

  term(): void {
    this.#note("term");
    if (!this.#options.has("deaf")) this.#exit(0);
  }

  #exit(code: number): void {
    this.#note("exit", { code });
    this.#container.exit(code);
  }

  #list(name: string): string[] {
    return (this.#options.get(name) ?? "").split(",").filter((part) => part !== "");
  }

  #note(event: string, more: object = {}): void {
    const { env, life } = this.#container;
    const file = this.#timeline();
    if (file === undefined || life.over) return;
    const about = { who: env["WHO"], version: this.#version, instance: this.#instance, event };
    mkdirSync(dirname(file), { recursive: true });
    appendFileSync(file, `${JSON.stringify({ t: Date.now(), ...about, ...more })}\n`);
  }

  #timeline(): string | undefined {
    return this.#container.files.diskPath(this.#container.env["TIMELINE"] ?? "/timeline");
  }

  async #contentOf(path: string): Promise<{ content: string } | { error: string }> {
    const { files } = this.#container;
    const content = await files.read(path);
    if (content) return { content: content.toString("utf8") };
    const names = await files.list(path);
    return names.length > 0 || files.isMount(path) ? { content: names.join(" ") } : { error: "ENOENT" };
  }

  async #run(mode: string): Promise<void> {
    const { files, env } = this.#container;
    for (const option of ["write", "append"]) {
      const text = this.#options.get(option);
      if (text === undefined) continue;
      const cut = text.indexOf(":");
      const path = text.slice(0, cut);
      const before = option === "append" ? await files.read(path) : undefined;
      await files.write(path, `${before?.toString("utf8") ?? ""}${text.slice(cut + 1)}`);
    }
    this.#note("start");
    for (const path of this.#list("try")) this.#note("try", { path, ...(await this.#contentOf(path)) });
    const names = this.#list("env");
    if (names.length > 0)
      this.#note("env", { values: Object.fromEntries(names.map((name) => [name, env[name] ?? null])) });
    if (mode === "sidecar") await this.#sidecar();
    else if (this.#options.has("exit")) this.#exit(Number(this.#options.get("exit")));
    else if (this.#options.get("listen")?.startsWith("127.0.0.1:")) {
      // The pod's own loopback interface: nobody outside can dial it.
      this.#note("listening", { host: "127.0.0.1" });
    }
  }

  /** True once the engine has begun to heed SIGTERM. */
  #engineRuns(): boolean {
    const lines = readFileSync(this.#timeline() ?? "/dev/null", "utf8").split("\n");
    const events = lines.filter((line) => line.includes('"who":"runtime"'));
    return events.at(-1)?.includes('"event":"start"') ?? false;
  }

  async #sidecar(): Promise<void> {
    const { pod, life } = this.#container;
    if (this.#options.get("fails-as") === this.#version) return this.#exit(1);
    const off = new Set(this.#list("off"));
    const server = createServer((request, response) => {
      const url = new URL(request.url ?? "/", "http://sidecar");
      const answer = (status: number) => response.writeHead(status).end("{}");
      switch (url.pathname) {
        case "/startup":
        case "/ready":
          return answer(off.has(url.pathname.slice(1)) ? 503 : 200);
        case "/live":
          return answer(off.has("live") && this.#engineRuns() ? 503 : 200);
        case "/whoami": {
          const { env } = this.#container;
          const who = { version: this.#version, instance: this.#instance, who: env["WHO"] };
          return response.writeHead(200).end(JSON.stringify(who));
        }
        case "/switch":
          for (const [name, value] of url.searchParams) {
            if (value === "off") off.add(name);
            else off.delete(name);
            this.#note("switch", { name, value });
          }
          return answer(200);
        case "/drain":
          this.#note("drain-begin");
          return this.#clock.setTimer(
            () => {
              this.#note("drain-end");
              answer(200);
            },
            Number(url.searchParams.get("delay") ?? 0),
          );
        default:
          return answer(404);
      }
    });
    life.onEnd(() => {
      server.closeAllConnections();
      server.close();
    });
    server.listen(agentPort, pod.ip, () => this.#note("listening", { host: pod.ip }));
    const seen = new Map<string, string>();
    while (!life.over) {
      for (const path of this.#list("watch")) {
        const found = await this.#contentOf(path);
        if (!("content" in found) || found.content === "" || seen.get(path) === found.content) continue;
        seen.set(path, found.content);
        this.#note("file", { path, content: found.content });
      }
      await sleep(this.#clock, lookMs);
    }
  }
}
