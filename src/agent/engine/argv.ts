import { CodedError } from "../../lib/errors.ts";
import type { EngineCommand } from "./adapter.ts";

/** The engine cannot be started as configured. */
export class EngineError extends CodedError<"no_command" | "no_model"> {}

/** Engines listen on loopback only: what reaches them comes through the agent. */
export const engineHost = "127.0.0.1";

/**
 * Renders a command line. In the runtime's command and the node's arguments `{host}`, `{port}` and `{model}` (the first
 * model) are replaced; an element with `{models}` is repeated for each model. If no element has `{port}`,
 * `--host 127.0.0.1 --port P` is appended, which vLLM, SGLang and llama.cpp take.
 *
 * @throws {EngineError} `no_command` when the snapshot's entry has none, `no_model` when `{model}` has nothing to stand for.
 */
export function renderArgv({ command, args, models, port }: EngineCommand): readonly string[] {
  if (command.length === 0) {
    throw new EngineError(
      "no_command",
      "the config's runtime entry has no command: the launcher needs one (runtimes[].command)",
    );
  }
  const template = [...command, ...args];
  const named = template.some((element) => element.includes("{port}"));
  const full = named ? template : [...template, "--host", "{host}", "--port", "{port}"];
  return full.flatMap((element) =>
    element.includes("{models}")
      ? models.map((model) => fill(element.replaceAll("{models}", model), models, port))
      : [fill(element, models, port)],
  );
}

function fill(element: string, models: readonly string[], port: number): string {
  if (element.includes("{model}") && models.length === 0) {
    throw new EngineError("no_model", `the engine's command line asks for {model}, but no model is approved`);
  }
  return element
    .replaceAll("{host}", engineHost)
    .replaceAll("{port}", String(port))
    .replaceAll("{model}", () => models[0] ?? "");
}
