import { CodedError } from "../../lib/errors.ts";
import type { EngineCommand } from "./adapter.ts";

/** The engine cannot be started as configured. */
export class EngineError extends CodedError<"no_command" | "no_model"> {}

/** Engines listen on loopback only: what reaches them comes through the agent. */
export const engineHost = "127.0.0.1";

type Rendered = Omit<EngineCommand, "gpuCount">;

/**
 * Renders a command line. In the runtime's command and the node's arguments `{host}`, `{port}` and `{model}` (the first
 * model) are replaced; an element with `{models}` is repeated for each model.
 *
 * @throws {EngineError} `no_command` when the snapshot's entry has none, `no_model` when `{model}` has nothing to stand for.
 */
export function renderTemplate({ command, args, models, port }: Rendered): readonly string[] {
  if (command.length === 0) {
    throw new EngineError(
      "no_command",
      "the config's runtime entry has no command: the launcher needs one (runtimes[].command)",
    );
  }
  return [...command, ...args].flatMap((element) =>
    element.includes("{models}")
      ? models.map((model) =>
          fill(
            element.replaceAll("{models}", () => model),
            models,
            port,
          ),
        )
      : [fill(element, models, port)],
  );
}

/**
 * {@link renderTemplate} for engines that take `--host` and `--port`, as vLLM, SGLang and llama.cpp do: they are appended
 * if no element has `{port}`.
 *
 * @throws {EngineError} as there.
 */
export function renderArgv(rendered: Rendered): readonly string[] {
  const named = [...rendered.command, ...rendered.args].some((element) => element.includes("{port}"));
  const argv = renderTemplate(rendered);
  return named ? argv : [...argv, "--host", engineHost, "--port", String(rendered.port)];
}

/**
 * True when a command line has one of the flags, as `--flag value`, `--flag=value`, or spelt with underscores, which
 * Python's engines take as well. Short flags (`-tp`) count only as they are.
 */
export function hasFlag(argv: readonly string[], ...flags: readonly string[]): boolean {
  return argv.some((element) => {
    const [name = ""] = element.split("=", 1);
    return flags.includes(name.startsWith("--") ? name.replaceAll("_", "-") : name);
  });
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
