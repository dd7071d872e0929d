import type { EngineAbilities } from "../../protocol/config/change.ts";

/** What one engine process is to be started with. */
export interface EngineCommand {
  /** Command of the runtime entry, as the snapshot has it. */
  readonly command: readonly string[];
  /** Arguments of the node's spec. */
  readonly args: readonly string[];
  readonly models: readonly string[];
  /** Folders with the files of those models that the network names files of. */
  readonly modelPaths: Readonly<Record<string, string>>;
  /** GPUs that the node has; null = unknown (standalone). */
  readonly gpuCount: number | null;
  readonly port: number;
}

/** How one engine process is started. */
export interface EngineStart {
  /** Command line, ready for exec. */
  readonly argv: readonly string[];
  /** Variables that the engine gets whatever its container has. */
  readonly env: Readonly<Record<string, string>>;
  /** Variables that it gets where its container has none of that name: the node's spec wins. */
  readonly envDefaults: Readonly<Record<string, string>>;
}

/** Requests inside the engine: at work, and waiting for their turn. */
export interface EngineLoad {
  readonly running: number;
  readonly waiting: number;
}

/** One request to an engine that loads models while it serves. */
export interface EngineRequest {
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
}

/** How far one part of a pull is, in bytes. */
export interface PullPart {
  readonly part: string;
  readonly bytes: number;
  readonly total: number;
}

/** How an engine is told about models while it serves. */
export interface LiveModels {
  /**
   * Fetches a model that is not installed; the answer's lines say how far it is. A second one goes on where the first was
   * cut off.
   */
  pull(model: string): EngineRequest;
  /** Reads a line of the answer to {@link pull}; undefined = nothing that counts. @throws Error when it has failed. */
  readPull(line: string): PullPart | "done" | undefined;
  /** Loads an installed model into memory, to stay. */
  load(model: string): EngineRequest;
  /** Takes it out of memory once its requests have ended. */
  unload(model: string): EngineRequest;
  /** Path that lists what is in memory. */
  readonly loadedPath: string;
  /** Reads the answer to {@link loadedPath}. @throws Error when it is not such an answer. */
  readLoaded(body: string): readonly string[];
  /** True when both names stand for the same model. */
  same(a: string, b: string): boolean;
}

/** What differs between engines. One file per engine; most speak OpenAI's API. No I/O inside. */
export interface EngineAdapter {
  /** How a new model and a new argument take effect. */
  readonly abilities: EngineAbilities;
  /** @throws EngineError when nothing can be started. */
  start(command: EngineCommand): EngineStart;
  /** Path that answers 200 once the engine can serve; undefined = the list of models alone tells. 404 counts as none. */
  readonly healthPath: string | undefined;
  /** True when any text will do as `x-request-id` of a request; the engine's own log then names the job. */
  readonly takesJobId: boolean;
  /** Path that lists the models that the engine can serve. */
  readonly modelsPath: string;
  /** Reads the answer to {@link modelsPath}. @throws Error when it is not such an answer. */
  readModels(body: string): readonly string[];
  /** Paths that may tell the version, in order; where none does it is unknown. */
  readonly versionPaths: readonly string[];
  /** Reads an answer of {@link versionPaths}; null = not told. @throws Error when it is not such an answer. */
  readVersion(body: string): string | null;
  /** Path of the engine's own load, Prometheus text; undefined = the engine documents none. */
  readonly loadPath: string | undefined;
  /** Reads the answer to {@link loadPath}; null = not told. */
  readLoad(text: string): EngineLoad | null;
  /** Undefined where models come with the command line. */
  readonly live: LiveModels | undefined;
}
