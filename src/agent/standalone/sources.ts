import { messageOf } from "../../lib/errors.ts";
import { type Setting, SettingsError, variableOf, WrongValue } from "./setting.ts";

/** Flags as `parseArgs` gives them. */
export type FlagValues = Readonly<
  Record<string, string | boolean | readonly (string | boolean)[] | undefined>
>;

/** Where settings are looked for; what comes first here wins. */
export interface SettingSources {
  readonly flags: FlagValues;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The config file: its path for errors, and its content, parsed from YAML. */
  readonly file: { readonly path: string; readonly content: unknown } | undefined;
}

/** Reads settings from flags over environment over config file. */
export class Settings {
  readonly #sources: SettingSources;
  readonly #leaves: ReadonlyMap<string, unknown>;

  /**
   * @param known every setting; other fields of the file are refused.
   * @throws {SettingsError} `unknown`, `wrong`.
   */
  constructor(sources: SettingSources, known: readonly Setting<unknown>[]) {
    this.#sources = sources;
    this.#leaves = sources.file ? leavesOf(sources.file, known) : new Map();
  }

  /** The value that wins; undefined when nobody gives one. @throws {SettingsError} `wrong`. */
  find<T>(setting: Setting<T>): T | undefined {
    const { flags, env, file } = this.#sources;
    const flag = flags[setting.flag];
    if (flag !== undefined) return this.#read(setting, flag, `--${setting.flag}`);
    const variable = variableOf(setting);
    const given = env[variable];
    // An empty variable is how unit files and manifests unset one.
    if (given !== undefined && given !== "")
      return this.#read(setting, setting.list ? itemsOf(given, variable) : given, variable);
    const leaf = this.#leaves.get(setting.path);
    if (leaf === undefined || leaf === null) return undefined;
    return this.#read(setting, leaf, `${file?.path}: field ${setting.path}`);
  }

  /** The same, which must be there. @throws {SettingsError} `missing` too. */
  require<T>(setting: Setting<T>): T {
    const value = this.find(setting);
    if (value !== undefined) return value;
    const { file } = this.#sources;
    const where = file ? `field ${setting.path} in ${file.path}, or ` : "";
    throw new SettingsError("missing", `--${setting.flag} is missing: set ${where}${variableOf(setting)}`);
  }

  #read<T>(setting: Setting<T>, value: unknown, where: string): T {
    try {
      return setting.read(value);
    } catch (thrown) {
      if (!(thrown instanceof WrongValue)) throw thrown;
      // Values are not repeated: what was put into the wrong field may be a secret.
      throw new SettingsError("wrong", `${where} is wrong: it must be ${thrown.message}`);
    }
  }
}

function itemsOf(given: string, variable: string): readonly unknown[] {
  if (!given.trimStart().startsWith("[")) return given.split(",").map((item) => item.trim());
  try {
    const items: unknown = JSON.parse(given);
    if (Array.isArray(items)) return items;
  } catch {
    // Told below.
  }
  throw new SettingsError(
    "wrong",
    `${variable} is wrong: it must be a list with commas, or a JSON array of texts`,
  );
}

/** Fields of the file by path, all of them known. */
function leavesOf(
  { path, content }: { readonly path: string; readonly content: unknown },
  known: readonly Setting<unknown>[],
): ReadonlyMap<string, unknown> {
  const leaves = new Map<string, unknown>();
  const paths = new Set(known.map((setting) => setting.path));
  const walk = (value: unknown, prefix: string) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      const where = prefix === "" ? "" : `field ${prefix.slice(0, -1)} `;
      if (value === null || value === undefined) return;
      throw new SettingsError("wrong", `${path}: ${where}must be a map of fields`);
    }
    for (const [name, inner] of Object.entries(value)) {
      const at = `${prefix}${name}`;
      if (paths.has(at)) leaves.set(at, inner);
      else if ([...paths].some((other) => other.startsWith(`${at}.`))) walk(inner, `${at}.`);
      else throw unknownField(path, at, prefix, [...paths]);
    }
  };
  walk(content, "");
  return leaves;
}

function unknownField(path: string, at: string, prefix: string, paths: readonly string[]): SettingsError {
  const siblings = new Set(
    paths
      .filter((other) => other.startsWith(prefix))
      .map((other) => other.slice(prefix.length).split(".")[0]),
  );
  const place = prefix === "" ? "fields" : `fields of ${prefix.slice(0, -1)}`;
  return new SettingsError(
    "unknown",
    `${path}: there is no field ${at.slice(0, 100)}; the ${place} are ${[...siblings].join(", ")}`,
  );
}

/**
 * Parses a config file.
 * @throws {SettingsError} `unreadable`
 */
export async function parseConfigFile(path: string, text: string): Promise<unknown> {
  // Only who has a config file pays for the parser's memory.
  const { parse } = await import("yaml");
  try {
    return parse(text, { maxAliasCount: 0, uniqueKeys: true, stringKeys: true }) as unknown;
  } catch (thrown) {
    throw new SettingsError("unreadable", `${path} is no YAML: ${messageOf(thrown)}`);
  }
}
