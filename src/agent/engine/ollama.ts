import * as z from "zod/mini";
import { abilitiesOf } from "../../protocol/config/engines.ts";
import { countField } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import type { EngineAdapter } from "./adapter.ts";
import { engineHost, renderTemplate } from "./argv.ts";
import { knownModels, openaiAdapter } from "./openai.ts";

const modelList = z.object({ models: z.array(z.object({ name: z.string() })).check(z.maxLength(1024)) });

/** A failure comes with HTTP 200 once the first line is out. */
const pullLine = z.object({
  status: z.optional(z.string()),
  error: z.optional(z.string()),
  digest: z.optional(z.string().check(z.maxLength(256))),
  total: z.optional(countField),
  completed: z.optional(countField),
});

const defaultTag = ":latest";
const withoutDefaultTag = (name: string): string =>
  name.endsWith(defaultTag) ? name.slice(0, -defaultTag.length) : name;

function namesIn(body: string, what: string): readonly string[] {
  const { models } = parsePayload(modelList, body, what, { values: 65_536 });
  return models.map(({ name }) => name);
}

/**
 * Ollama (`ollama serve`): models are pulled, loaded and unloaded while it serves, arguments (which are environment
 * variables) take effect at start. It has no metrics. API: docs.ollama.com, "API" and "FAQ".
 */
export const ollamaAdapter: EngineAdapter = {
  ...openaiAdapter,
  abilities: abilitiesOf("ollama"),
  start: (command) => ({
    argv: renderTemplate(command),
    env: { OLLAMA_HOST: `${engineHost}:${command.port}` },
    envDefaults: {
      // The agent says what is unloaded; a job that names no time would else set it to five minutes.
      OLLAMA_KEEP_ALIVE: "-1",
      // Else a start deletes what a pull that was cut off has fetched so far.
      OLLAMA_NOPRUNE: "1",
    },
  }),
  healthPath: undefined,
  modelsPath: "/api/tags",
  // A model without a tag is the one tagged latest, and configs may write either.
  readModels(body) {
    const names = namesIn(body, "engine's /api/tags");
    return knownModels([...new Set(names.flatMap((name) => [name, withoutDefaultTag(name)]))]);
  },
  versionPaths: ["/api/version"],
  live: {
    pull: (model) => ({ path: "/api/pull", body: { model, stream: true } }),
    readPull(line) {
      const {
        error,
        status,
        digest,
        total,
        completed = 0,
      } = parsePayload(pullLine, line, "engine's /api/pull");
      if (error !== undefined) throw new Error(error.slice(0, 300));
      if (status === "success") return "done";
      return digest === undefined || total === undefined
        ? undefined
        : { part: digest, bytes: completed, total };
    },
    // Without a prompt nothing is generated.
    load: (model) => ({ path: "/api/generate", body: { model, keep_alive: -1, stream: false } }),
    unload: (model) => ({ path: "/api/generate", body: { model, keep_alive: 0, stream: false } }),
    loadedPath: "/api/ps",
    readLoaded: (body) => namesIn(body, "engine's /api/ps"),
    same: (a, b) => withoutDefaultTag(a) === withoutDefaultTag(b),
  },
};
