import { CodedError } from "../../lib/errors.ts";
import type { EngineCommand } from "./adapter.ts";

/** The engine cannot be started as configured. */
export class EngineError extends CodedError<"no_command" | "no_model"> {}

/** Engines listen on loopback only: what reaches them comes through the agent. */
export const engineHost = "127.0.0.1";

type Rendered = Omit<EngineCommand, "gpuCount">;

/**
 * Renders a command line. In the runtime's command and the node's arguments `{host}`, `{port}`, `{model}` (the first
 * model) and `{model_path}` (the folder of its files) are replaced; an element with `{models}` is repeated for each model,
 * with that one's folder.
 *
 * @throws {EngineError} `no_command` when the snapshot's entry has none, `no_model` when `{model}` or `{model_path}` has
 *   nothing to stand for.
 */
export function renderTemplate({ command, args, models, modelPaths, port }: Rendered): readonly string[] {
  if (command.length === 0) {
    throw new EngineError(
      "no_command",
      "the config's runtime entry has no command: the launcher needs one (runtimes[].command)",
    );
  }
  const [first] = models;
  return [...command, ...args].flatMap((element) =>
    element.includes("{models}")
      ? models.map((model) =>
          fill(
            element.replaceAll("{models}", () => model),
            { first, of: model, modelPaths, port },
          ),
        )
      : [fill(element, { first, of: first, modelPaths, port })],
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

interface Fillings {
  readonly first: string | undefined;
  /** Model whose folder `{model_path}` is. */
  readonly of: string | undefined;
  readonly modelPaths: Readonly<Record<string, string>>;
  readonly port: number;
}

function fill(element: string, { first, of, modelPaths, port }: Fillings): string {
  if (element.includes("{model}") && first === undefined) {
    throw new EngineError("no_model", `the engine's command line asks for {model}, but no model is approved`);
  }
  const path = of === undefined || !Object.hasOwn(modelPaths, of) ? undefined : modelPaths[of];
  if (element.includes("{model_path}") && path === undefined) {
    throw new EngineError(
      "no_model",
      `the engine's command line asks for {model_path}, but the config names no files of ${of ?? "any model"} (models[].files)`,
    );
  }
  return element
    .replaceAll("{host}", engineHost)
    .replaceAll("{port}", String(port))
    .replaceAll("{model_path}", () => path ?? "")
    .replaceAll("{model}", () => first ?? "");
}
