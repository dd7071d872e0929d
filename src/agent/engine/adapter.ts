import type { EngineAbilities } from "../../protocol/config/change.ts";

/** How one engine process is to be started. */
export interface EngineCommand {
  /** Command of the runtime entry, as the snapshot has it. */
  readonly command: readonly string[];
  /** Arguments of the node's spec. */
  readonly args: readonly string[];
  readonly models: readonly string[];
  readonly port: number;
}

/** What an engine says of itself. */
export interface EngineSight {
  /** Models that it serves now. */
  readonly models: readonly string[];
}

/** What differs between engines. One file per engine; most speak OpenAI's API. */
export interface EngineAdapter {
  readonly abilities: EngineAbilities;
  /** Command line, ready for exec. @throws EngineError when nothing can be started. */
  argv(command: EngineCommand): readonly string[];
  /** Path asked for health and models. */
  readonly modelsPath: string;
  /** Reads the answer to {@link modelsPath}. @throws Error when it is not such an answer. */
  readModels(body: string): EngineSight;
  /** Path that tells the version; any failure means unknown. */
  readonly versionPath: string;
  /** Reads the answer to {@link versionPath}; null = unknown. */
  readVersion(body: string): string | null;
}
