/** The runtime container in memory: what the agent's launcher script does, with an inference engine that has no process. */
import { join } from "node:path";
import { isObject } from "./json.ts";
import { type Clock, systemClock } from "../../../../src/lib/clock.ts";
import { folders } from "../../../../src/operator/node/pod-parts.ts";
import { MemoryEngine } from "./engine.ts";
import { mortalClock } from "./life.ts";
import type { MemoryPod } from "./pod.ts";
import type { MemoryContainer, ProgramInMemory } from "./program.ts";

/** How an engine behaves; looked up at each start and at each request, so that a test can change it at any time. */
export interface EngineBehaviour {
  /** Milliseconds from its start until it answers. Default 0. */
  readonly startMs?: number;
  /** Milliseconds between two tokens. Default 20. */
  readonly tokenDelayMs?: number;
  /** Milliseconds to its end after SIGTERM. Default 0. */
  readonly stopMs?: number;
  /** `error`: 500 to every completion. `hang`: no answer to anything. Default `ok`. */
  readonly mode?: "ok" | "error" | "hang";
}

/** What an engine's image is made of. */
export interface EngineProgramOptions {
  readonly clock?: Clock;
  /** Answered to GET /version. */
  readonly version: string;
  readonly behaviour?: (pod: MemoryPod) => EngineBehaviour;
  /** Told when the answer to a job begins and ends; the agent's own test requests are none. */
  readonly onRequest?: (line: RequestLine, pod: MemoryPod) => void;
  /** Told of each engine that begins, so that a test can crash it. */
  readonly onEngine?: (pod: MemoryPod, engine: RunningEngine) => void;
}

/** A line of an engine's log of its jobs, as the test engine writes them. */
export interface RequestLine {
  readonly event: "begin" | "end";
  /** `x-request-id`. */
  readonly id: string;
  /** `completed`, `error` or `aborted`, at the end. */
  readonly outcome?: string;
}

/** An engine that a test may meddle with. */
export interface RunningEngine {
  /** Ends by itself; the launcher starts it again. */
  crash(): void;
}

/** Runs the launcher where the pod's command asks for it; else holds the image until SIGTERM, as a prefetch does. */
export function engineProgram(options: EngineProgramOptions): ProgramInMemory {
  return (container) =>
    container.command.some((word) => word.endsWith("/launch.sh"))
      ? launcher(container, options)
      : { term: () => container.exit(143) };
}

const firstDelayMs = 1_000;
const longestDelayMs = 30_000;
/** After so long without a crash the crashes before are forgiven. */
const forgivenMs = 120_000;
const crashCode = 139;

function launcher(container: MemoryContainer, options: EngineProgramOptions) {
  const { pod, life, files } = container;
  const clock = mortalClock(options.clock ?? systemClock, life);
  const behaviour = () => options.behaviour?.(pod) ?? {};
  const text = async (path: string) => (await files.read(join(folders.launch, path)))?.toString("utf8");
  let [starts, generation, crashes, code, delayMs] = [0, 0, 0, -1, firstDelayMs];
  let phase: "waiting" | "running" | "backoff" | "stopping" = "waiting";
  let engine: MemoryEngine | undefined;
  let backoff = { cancel: () => {} };

  const tell = () =>
    void files.write(
      join(folders.launcher, "state"),
      `${starts} ${generation} ${engine ? 77 : 0} ${crashes} ${code} ${phase}\n`,
    );

  const begin = async (number: number) => {
    generation = number;
    const spec: unknown = JSON.parse((await text(join("gen", String(number), "engine.json"))) ?? "{}");
    if (life.over || phase === "stopping") return;
    const port = isObject(spec) && typeof spec["port"] === "number" ? spec["port"] : 0;
    const models = isObject(spec) && Array.isArray(spec["models"]) ? spec["models"].map(String) : [];
    const begun = clock.monotonic();
    const onRequest = (line: RequestLine) => options.onRequest?.(line, pod);
    const own = new MemoryEngine({
      clock,
      pod,
      port,
      models,
      version: options.version,
      behaviour,
      onRequest,
    });
    engine = own;
    phase = "running";
    tell();
    options.onEngine?.(pod, {
      crash() {
        if (engine !== own) return;
        own.stop();
        engine = undefined;
        crashes++;
        code = crashCode;
        if (clock.monotonic() - begun > forgivenMs) delayMs = firstDelayMs;
        phase = "backoff";
        tell();
        backoff = clock.setTimer(() => void begin(generation), delayMs);
        delayMs = Math.min(longestDelayMs, delayMs * 2);
      },
    });
  };

  /** Looks where the agent points. */
  const look = async () => {
    const [, digits = "", now] = /^(\d+)( now)?/.exec((await text("generation")) ?? "") ?? [];
    const wanted = Number(digits);
    if (wanted === 0 || life.over || phase === "stopping") return;
    if (phase !== "waiting" && (wanted === generation || !now)) return;
    backoff.cancel();
    engine?.stop();
    engine = undefined;
    // Taken at once, so that a second look in the meantime does not begin it again.
    generation = wanted;
    phase = "running";
    delayMs = firstDelayMs;
    await begin(wanted);
  };

  const start = async () => {
    starts = Number(/^\d+/.exec((await text("run/state")) ?? "")?.[0] ?? 0) + 1;
    files.watch(join(folders.launch, "generation"), () => void look());
    tell();
    await look();
  };
  life.onEnd(() => engine?.stop());
  void start();
  return {
    term() {
      phase = "stopping";
      backoff.cancel();
      tell();
      const { stopMs = 0 } = behaviour();
      engine?.stop();
      engine = undefined;
      clock.setTimer(() => container.exit(0), stopMs);
    },
  };
}
