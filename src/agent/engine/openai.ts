import * as z from "zod/mini";
import { modelField, versionField } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import type { EngineAdapter } from "./adapter.ts";
import { renderArgv } from "./argv.ts";

const modelList = z.object({ data: z.array(z.object({ id: z.string() })).check(z.maxLength(1024)) });
const version = z.object({ version: versionField });

/**
 * Any engine that speaks OpenAI's API: vLLM, SGLang, llama.cpp, Ollama's `/v1`. Models come with the command line, so a
 * change of them restarts the engine.
 */
export const openaiAdapter: EngineAdapter = {
  abilities: { modelsLive: false },
  argv: renderArgv,
  modelsPath: "/v1/models",
  readModels(body) {
    const { data } = parsePayload(modelList, body, "engine's /v1/models", { values: 32_768 });
    const models = data.map(({ id }) => id).filter((id) => modelField.safeParse(id).success);
    return { models: models.slice(0, 256) };
  },
  // vLLM's; others answer 404, which means unknown.
  versionPath: "/version",
  readVersion(body) {
    const parsed = version.safeParse(JSON.parse(body));
    return parsed.success ? parsed.data.version : null;
  },
};
