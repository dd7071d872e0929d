import { abilitiesOf } from "../../protocol/config/engines.ts";
import type { EngineAdapter } from "./adapter.ts";
import { hasFlag, renderArgv } from "./argv.ts";
import { loadFrom } from "./load.ts";
import { openaiAdapter } from "./openai.ts";

const gpuFlags = [
  "--tensor-parallel-size",
  "--tp-size",
  "--tp",
  "--pipeline-parallel-size",
  "--pp-size",
  "--pp",
  "--data-parallel-size",
  "--dp-size",
  "--dp",
  "--config",
];

/**
 * SGLang (`python -m sglang.launch_server`). As vLLM; its metrics are off unless asked for. Endpoints: docs.sglang.io,
 * "SGLang Native APIs" and "Production Metrics".
 */
export const sglangAdapter: EngineAdapter = {
  ...openaiAdapter,
  abilities: abilitiesOf("sglang"),
  start(command) {
    const argv = [...renderArgv(command)];
    const { gpuCount, models } = command;
    const [model] = models;
    if (gpuCount !== null && gpuCount > 1 && !hasFlag(argv, ...gpuFlags))
      argv.push("--tp-size", String(gpuCount));
    if (model !== undefined && !hasFlag(argv, "--served-model-name", "--config"))
      argv.push("--served-model-name", model);
    if (!hasFlag(argv, "--enable-metrics")) argv.push("--enable-metrics");
    // Else /health generates a token each time it is asked, which waits behind the jobs of a busy engine.
    return { argv, env: {}, envDefaults: { SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION: "false" } };
  },
  // 503 until the warm-up is over, while /v1/models answers before it.
  healthPath: "/health",
  // Renamed in 2026; releases before it know only the second.
  versionPaths: ["/server_info", "/get_server_info"],
  loadPath: "/metrics",
  // Ranks of tensor parallelism tell the same requests again, series by priority are parts of one without.
  readLoad: (text) =>
    loadFrom(
      text,
      "sglang:num_running_reqs",
      "sglang:num_queue_reqs",
      ({ labels }) => (labels["tp_rank"] ?? "0") === "0" && (labels["priority"] ?? "") === "",
    ),
};
