import type { EngineAbilities } from "./change.ts";

/**
 * Engines that load and unload models while they serve. All others take models at start only; every engine takes its
 * arguments at start only.
 */
const loadsModelsLive: ReadonlySet<string> = new Set(["ollama"]);

/**
 * What an engine can take without a restart, by the name that configs and specs call it. Operator and agent plan with
 * the same answer; an unknown engine can take nothing.
 */
export function abilitiesOf(engine: string): EngineAbilities {
  return { modelsLive: loadsModelsLive.has(engine) };
}
