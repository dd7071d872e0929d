import { parseArgs } from "node:util";
import { CodedError } from "../../lib/errors.ts";

/** Why a command did not do what was asked. `usage` exits with 2, the others with 1. */
export class CommandError extends CodedError<"usage" | "refused" | "unavailable"> {}

/** A flag of a command. */
export interface Flag {
  readonly name: string;
  /** What its value is, for the help: `DIR`, `30d`. Without it the flag takes none. */
  readonly value?: string;
  readonly help: string;
  readonly required?: boolean;
  readonly multiple?: boolean;
  readonly default?: string;
  /** Environment variable that stands in for it. */
  readonly env?: string;
}

/** What a command has been called with. */
export class Arguments {
  readonly #flags: ReadonlyMap<string, readonly string[]>;
  readonly #switches: ReadonlySet<string>;
  readonly positionals: readonly string[];

  constructor(
    flags: ReadonlyMap<string, readonly string[]>,
    switches: ReadonlySet<string>,
    positionals: readonly string[],
  ) {
    this.#flags = flags;
    this.#switches = switches;
    this.positionals = positionals;
  }

  /** Value of a flag that is required or has a default. */
  get(name: string): string {
    const value = this.#flags.get(name)?.[0];
    if (value === undefined) throw new CommandError("usage", `--${name} is missing`);
    return value;
  }

  find(name: string): string | undefined {
    return this.#flags.get(name)?.[0];
  }

  all(name: string): readonly string[] {
    return this.#flags.get(name) ?? [];
  }

  has(name: string): boolean {
    return this.#switches.has(name);
  }

  /** A positional argument. */
  at(index: number): string {
    return this.positionals[index] ?? "";
  }
}

/** What a command may use of the world. */
export interface CommandContext {
  readonly args: Arguments;
  /** Writes a line to stdout. */
  readonly out: (line: string) => void;
  /** Writes a line to stderr. */
  readonly note: (line: string) => void;
  /** Wall time, ms. */
  readonly now: () => number;
}

/** One command of `io`. */
export interface Command {
  /** `keys init`. */
  readonly name: string;
  /** Names of the positional arguments, all of them required. */
  readonly positionals: readonly string[];
  readonly summary: string;
  /** More for its own help: an example, what comes next. */
  readonly details?: string;
  readonly flags: readonly Flag[];
  readonly run: (context: CommandContext) => Promise<void> | void;
}

/** Id of a node or key that begins with a dash, as one in 64 does: no flag is that long. It is marked so as to be taken for none. */
const idPattern = /^-[A-Za-z0-9_][A-Za-z0-9_-]{41}$/;
const idMark = "id:";
const unmarked = (word: string): string => (word.startsWith(`${idMark}-`) ? word.slice(idMark.length) : word);

/**
 * Reads a command's arguments; flags win over the environment, that over defaults.
 * @throws {CommandError} `usage`
 */
export function readArguments(
  command: Command,
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Arguments {
  const options = Object.fromEntries(
    command.flags.map(({ name, value }) => [
      name,
      value === undefined ? ({ type: "boolean" } as const) : ({ type: "string", multiple: true } as const),
    ]),
  );
  let parsed: ReturnType<typeof parseArgs>;
  try {
    parsed = parseArgs({
      args: argv.map((word) => (idPattern.test(word) ? `${idMark}${word}` : word)),
      options,
      allowPositionals: true,
    });
  } catch (error) {
    throw new CommandError("usage", error instanceof Error ? error.message : String(error));
  }
  if (parsed.positionals.length !== command.positionals.length)
    throw new CommandError(
      "usage",
      `takes ${command.positionals.join(" ") || "no arguments"} beside its flags`,
    );
  const flags = new Map<string, readonly string[]>();
  const switches = new Set<string>();
  for (const flag of command.flags) {
    const given = parsed.values[flag.name];
    if (flag.value === undefined) {
      if (given === true) switches.add(flag.name);
      continue;
    }
    const values = Array.isArray(given) ? given.map((value) => unmarked(String(value))) : fallback(flag, env);
    if (values.length > 1 && !flag.multiple)
      throw new CommandError("usage", `--${flag.name} may be given once`);
    if (flag.required && values.length === 0)
      throw new CommandError("usage", `--${flag.name} ${flag.value} is missing: ${flag.help}`);
    flags.set(flag.name, values);
  }
  return new Arguments(flags, switches, parsed.positionals.map(unmarked));
}

function fallback(flag: Flag, env: Readonly<Record<string, string | undefined>>): readonly string[] {
  const value = (flag.env === undefined ? undefined : env[flag.env]) ?? flag.default;
  if (value === undefined) return [];
  return flag.multiple ? value.split(",").map((item) => item.trim()) : [value];
}

/** Help of one command. */
export function helpOf(command: Command): string {
  const flags = command.flags.map((flag) => {
    const left = `  --${flag.name}${flag.value === undefined ? "" : ` ${flag.value}`}`;
    const notes = [
      flag.required ? "required" : "",
      flag.multiple ? "may be repeated" : "",
      flag.default === undefined ? "" : `default ${flag.default}`,
      flag.env === undefined ? "" : `env ${flag.env}`,
    ].filter((note) => note !== "");
    return `${left.padEnd(28)} ${flag.help}${notes.length > 0 ? ` (${notes.join(", ")})` : ""}`;
  });
  const positionals = command.positionals.map((name) => ` ${name}`).join("");
  return [
    `usage: io ${command.name}${positionals}${command.flags.length > 0 ? " [flags]" : ""}`,
    "",
    command.summary,
    ...(command.details === undefined ? [] : ["", command.details]),
    ...(flags.length > 0 ? ["", "flags:", ...flags] : []),
  ].join("\n");
}

/** A duration such as `90s`, `30m`, `24h`, `14d` in ms. @throws {CommandError} `usage` */
export function durationOf(text: string, flag: string): number {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text) ?? [];
  const scale = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
  if (
    amount === undefined ||
    !(unit === "ms" || unit === "s" || unit === "m" || unit === "h" || unit === "d")
  )
    throw new CommandError("usage", `--${flag}: ${text} is no duration; write 500ms, 90s, 30m, 24h or 14d`);
  return Math.round(Number(amount) * scale[unit]);
}

/** The `--data` flag that commands which talk to the service share. */
export const dataFlag: Flag = {
  name: "data",
  value: "DIR",
  help: "data folder of the service",
  required: true,
  env: "RESULTITY_DATA",
};
