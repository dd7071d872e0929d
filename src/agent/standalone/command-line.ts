import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { messageOf } from "../../lib/errors.ts";
import { SettingsError, type Setting } from "./setting.ts";
import { agentSettings } from "./settings.ts";
import { parseConfigFile, type SettingSources } from "./sources.ts";

/** A flag that is no setting. */
export interface CommandFlag {
  readonly name: string;
  /** What its value is, for the usage; undefined: a switch. */
  readonly value?: string;
  readonly help: string;
}

/** A command line that has been read. */
export interface CommandLine {
  readonly sources: SettingSources;
  readonly positionals: readonly string[];
  /** Value of a {@link CommandFlag}; "" for a switch that is given. */
  find(name: string): string | undefined;
}

/** Wrong flags. */
export class UsageError extends Error {}

const configFlag: CommandFlag = { name: "config", value: "FILE", help: "YAML file with the settings" };

/**
 * Reads flags, environment and, if one is named, the config file.
 *
 * @throws {UsageError} for wrong flags, {SettingsError} for a config file that cannot be read.
 */
export async function readCommandLine(
  argv: readonly string[],
  env: SettingSources["env"],
  own: readonly CommandFlag[] = [],
): Promise<CommandLine> {
  const settings: readonly Setting<unknown>[] = Object.values(agentSettings);
  const flags = [configFlag, ...own];
  const options = Object.fromEntries([
    ...settings.map(({ flag, value, list }) => [flag, optionOf(value, list)] as const),
    ...flags.map(({ name, value }) => [name, optionOf(value, false)] as const),
    ["help", { type: "boolean", short: "h" }] as const,
  ]);
  let parsed: ReturnType<typeof parseArgs>;
  try {
    parsed = parseArgs({ args: [...argv], options, allowPositionals: true });
  } catch (thrown) {
    throw new UsageError(messageOf(thrown));
  }
  const { values } = parsed;
  const find = (name: string): string | undefined => {
    const value = values[name];
    return typeof value === "string" ? value : value === true ? "" : undefined;
  };
  const path = find("config") ?? (env["RESULTITY_CONFIG"] || undefined);
  const file = path === undefined ? undefined : { path, content: await readConfigFile(path) };
  return { sources: { flags: values, env, file }, positionals: parsed.positionals, find };
}

const optionOf = (value: string | undefined, multiple: boolean) =>
  value === undefined ? ({ type: "boolean" } as const) : ({ type: "string", multiple } as const);

async function readConfigFile(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (thrown) {
    throw new SettingsError("unreadable", `--config ${path} cannot be read: ${messageOf(thrown)}`);
  }
  return parseConfigFile(path, text);
}

/** The lines that describe all settings, and flags of a command's own. */
export function flagLines(own: readonly CommandFlag[] = []): string {
  const settings = Object.values(agentSettings).map(({ flag, value, help }) => ({ name: flag, value, help }));
  return [configFlag, ...own, ...settings]
    .map(({ name, value, help }) => {
      const left = `  --${name}${value === undefined ? "" : ` ${value}`}`;
      return `${left.padEnd(31)} ${help}`;
    })
    .join("\n");
}
