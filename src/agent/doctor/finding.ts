/** How a check went. `warn`: it works, or cannot be told, but a person should look. */
export type Verdict = "ok" | "warn" | "fail";

/** What one check has found, for people: no secret is ever in it. */
export interface Finding {
  /** What was looked at, one word. */
  readonly check: string;
  readonly verdict: Verdict;
  readonly text: string;
  /** What to do; empty when all is well. */
  readonly fix: string;
}

export const ok = (check: string, text: string): Finding => ({ check, verdict: "ok", text, fix: "" });
export const warn = (check: string, text: string, fix: string): Finding => ({
  check,
  verdict: "warn",
  text,
  fix,
});
export const fail = (check: string, text: string, fix: string): Finding => ({
  check,
  verdict: "fail",
  text,
  fix,
});

/** One line for a finding. */
export function lineOf({ check, verdict, text, fix }: Finding): string {
  const line = `${verdict.padEnd(5)} ${check.padEnd(9)} ${text}`;
  return (fix === "" ? line : `${line}; fix: ${fix}`).replaceAll(/\s+/g, (space) =>
    space.includes("\n") ? " " : space,
  );
}
