import { CodedError } from "../../lib/errors.ts";

/** A setting that cannot be used. The message names where it was read, the field and the fix. */
export class SettingsError extends CodedError<"unknown" | "wrong" | "missing" | "unreadable"> {}

/** One setting: where it is written and what it may be. */
export interface Setting<T> {
  /** Place in the config file, such as `drain.timeout`. */
  readonly path: string;
  /** Flag without its dashes; the environment variable is `RESULTITY_` and the flag in capitals. */
  readonly flag: string;
  /** What its value is, for the usage: `DIR`. Undefined: a switch, which takes none. */
  readonly value: string | undefined;
  readonly help: string;
  /** True: the flag may be repeated, the environment variable holds commas or a JSON array. */
  readonly list: boolean;
  /** Text instead of the type's own spelling is read too, because flags and environment have nothing else. */
  readonly read: (value: unknown) => T;
}

/** Thrown by {@link Setting.read}: how the value must look, as the end of a sentence. */
export class WrongValue extends Error {}

type Naming = readonly [path: string, flag: string, value: string, help: string];

const one = <T>([path, flag, value, help]: Naming, read: (value: unknown) => T): Setting<T> => ({
  path,
  flag,
  value,
  help,
  list: false,
  read,
});

/** Text that `pattern` describes. @param form what it must be, for the error. */
export const text = (pattern: RegExp, form: string, ...naming: Naming): Setting<string> =>
  one(naming, (value) => matching(value, pattern, form));

function matching(value: unknown, pattern: RegExp, form: string): string {
  if (typeof value === "string" && pattern.test(value)) return value;
  throw new WrongValue(form);
}

/** Text of which `read` makes something. */
export const parsed = <T>(read: (text: string) => T, form: string, ...naming: Naming): Setting<T> =>
  one(naming, (value) => {
    if (typeof value !== "string") throw new WrongValue(form);
    return read(value);
  });

/** Items, each as `pattern` says. */
export const list = (pattern: RegExp, form: string, ...naming: Naming): Setting<readonly string[]> => ({
  ...one(naming, (value) => {
    if (!Array.isArray(value)) throw new WrongValue(`a list, each item ${form}`);
    return value.map((item: unknown) => matching(item, pattern, `a list, each item ${form}`));
  }),
  list: true,
});

/** A whole number from `least` to `most`. */
export const whole = (least: number, most: number, ...naming: Naming): Setting<number> =>
  one(naming, (value) => {
    const number = typeof value === "string" && /^\d{1,15}$/.test(value) ? Number(value) : value;
    if (typeof number === "number" && Number.isSafeInteger(number) && number >= least && number <= most)
      return number;
    throw new WrongValue(`a whole number from ${least} to ${most}`);
  });

/** `true` or `false`. A flag without a value when `bare`. */
export const truth = (bare: boolean, ...[path, flag, value, help]: Naming): Setting<boolean> => ({
  path,
  flag,
  value: bare ? undefined : value,
  help,
  list: false,
  read(given) {
    if (given === true || given === "true") return true;
    if (given === false || given === "false") return false;
    throw new WrongValue("true or false");
  },
});

const units = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 } as const;
/** Longest duration: a timer of the platform cannot be set for longer. */
const longestMs = 24 * 3_600_000;

/** A duration such as `90s`, in milliseconds; at most a day. */
export const duration = (...naming: Naming): Setting<number> =>
  one(naming, (value) => {
    const [, amount, unit] = /^(\d{1,9})(ms|s|m|h)$/.exec(String(value)) ?? [];
    const ms =
      unit === "ms" || unit === "s" || unit === "m" || unit === "h" ? Number(amount) * units[unit] : NaN;
    if (ms <= longestMs) return ms;
    throw new WrongValue("a duration of at most a day, such as 500ms, 30s, 10m or 2h");
  });

/** Name of the environment variable of a setting. */
export function variableOf({ flag }: Pick<Setting<unknown>, "flag">): string {
  return `RESULTITY_${flag.toUpperCase().replaceAll("-", "_")}`;
}
