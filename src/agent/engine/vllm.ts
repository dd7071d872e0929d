import { abilitiesOf } from "../../protocol/config/engines.ts";
import type { EngineAdapter } from "./adapter.ts";
import { hasFlag, renderArgv } from "./argv.ts";
import { loadFrom } from "./load.ts";
import { openaiAdapter } from "./openai.ts";

/** Flags that say how GPUs are used. With `--config` the file may say it, and flags would win over it. */
const gpuFlags = [
  "--tensor-parallel-size",
  "-tp",
  "--pipeline-parallel-size",
  "-pp",
  "--data-parallel-size",
  "-dp",
  "--config",
];

/**
 * vLLM (`vllm serve`). It splits the model over the node's GPUs unless command or arguments say otherwise, and serves it
 * under the network's name for it. One process serves one base model; models and arguments take effect at start.
 * Endpoints: docs.vllm.ai, "OpenAI-Compatible Server" and "Production Metrics"; /health is 503 once the engine behind
 * the server has died.
 */
export const vllmAdapter: EngineAdapter = {
  ...openaiAdapter,
  abilities: abilitiesOf("vllm"),
  start(command) {
    const argv = [...renderArgv(command)];
    const { gpuCount, models } = command;
    const [model] = models;
    if (gpuCount !== null && gpuCount > 1 && !hasFlag(argv, ...gpuFlags))
      argv.push("--tensor-parallel-size", String(gpuCount));
    if (model !== undefined && !hasFlag(argv, "--served-model-name", "--config"))
      argv.push("--served-model-name", model);
    return { argv, env: {}, envDefaults: {} };
  },
  healthPath: "/health",
  versionPaths: ["/version"],
  loadPath: "/metrics",
  readLoad: (text) => loadFrom(text, "vllm:num_requests_running", "vllm:num_requests_waiting"),
};
