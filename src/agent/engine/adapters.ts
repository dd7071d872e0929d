import type { EngineAdapter } from "./adapter.ts";
import { llamacppAdapter } from "./llamacpp.ts";
import { ollamaAdapter } from "./ollama.ts";
import { openaiAdapter } from "./openai.ts";
import { sglangAdapter } from "./sglang.ts";
import { vllmAdapter } from "./vllm.ts";

const adapters: ReadonlyMap<string, EngineAdapter> = new Map([
  ["vllm", vllmAdapter],
  ["sglang", sglangAdapter],
  ["llamacpp", llamacppAdapter],
  ["ollama", ollamaAdapter],
]);

/** The adapter of an engine by the name that configs call it; any other is taken for one that speaks OpenAI's API. */
export function adapterOf(engine: string): EngineAdapter {
  return adapters.get(engine) ?? openaiAdapter;
}
