import * as z from "zod/mini";
import { abilitiesOf } from "../../protocol/config/engines.ts";
import { versionField } from "../../protocol/fields.ts";
import type { EngineAdapter } from "./adapter.ts";
import { renderArgv } from "./argv.ts";
import { loadFrom } from "./load.ts";
import { openaiAdapter } from "./openai.ts";

const props = z.object({ build_info: versionField });
const openapi = z.object({ info: z.object({ version: versionField }) });

/**
 * llama.cpp's `llama-server`, or the server of `llama-cpp-python`, which speaks the same API with other flags. What
 * llama-server needs goes by environment, so no flag is added that the other one would refuse; it takes all GPUs that it
 * sees by itself. Endpoints: tools/server/README.md of llama.cpp.
 */
export const llamacppAdapter: EngineAdapter = {
  ...openaiAdapter,
  abilities: abilitiesOf("llamacpp"),
  start(command) {
    const [model] = command.models;
    return {
      argv: renderArgv(command),
      env: {},
      envDefaults: {
        LLAMA_ARG_ENDPOINT_METRICS: "1",
        ...(model !== undefined && { LLAMA_ARG_ALIAS: model }),
      },
    };
  },
  // 503 while the model loads, when /v1/models answers already.
  healthPath: "/health",
  // llama-cpp-python refuses every request whose id is no UUID, with HTTP 400 and no word why (0.3.36).
  takesJobId: false,
  versionPaths: ["/props", "/openapi.json"],
  readVersion(body) {
    const answer: unknown = JSON.parse(body);
    const server = props.safeParse(answer);
    if (server.success) return server.data.build_info;
    const python = openapi.safeParse(answer);
    return python.success ? python.data.info.version : null;
  },
  loadPath: "/metrics",
  readLoad: (text) => loadFrom(text, "llamacpp:requests_processing", "llamacpp:requests_deferred"),
};
