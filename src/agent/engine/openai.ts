import * as z from "zod/mini";
import { abilitiesOf } from "../../protocol/config/engines.ts";
import { modelField, versionField } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import type { EngineAdapter } from "./adapter.ts";
import { renderArgv } from "./argv.ts";

const modelList = z.object({ data: z.array(z.object({ id: z.string() })).check(z.maxLength(1024)) });
const version = z.object({ version: versionField });

/** Models that go into reports; an engine may list others, which nobody can ask for. */
export function knownModels(names: readonly string[]): readonly string[] {
  return names.filter((name) => modelField.safeParse(name).success).slice(0, 256);
}

/** Any engine that speaks OpenAI's API and takes models with the command line, so a change of them restarts it. */
export const openaiAdapter: EngineAdapter = {
  abilities: abilitiesOf("openai"),
  start: (command) => ({ argv: renderArgv(command), env: {}, envDefaults: {} }),
  healthPath: undefined,
  takesJobId: true,
  modelsPath: "/v1/models",
  readModels(body) {
    const { data } = parsePayload(modelList, body, "engine's /v1/models", { values: 32_768 });
    return knownModels(data.map(({ id }) => id));
  },
  versionPaths: ["/version"],
  readVersion(body) {
    const parsed = version.safeParse(JSON.parse(body));
    return parsed.success ? parsed.data.version : null;
  },
  loadPath: undefined,
  readLoad: () => null,
  live: undefined,
};
