import { type CommandFlag, flagLines } from "./command-line.ts";
import type { SettingSources } from "./sources.ts";

/** What a command of the node's owner may use of the world. */
export interface CommandWorld {
  /** Arguments after the command's name. */
  readonly argv: readonly string[];
  readonly env: SettingSources["env"];
  /** Writes a line to stdout. */
  readonly out: (line: string) => void;
  /** Writes a line to stderr. */
  readonly note: (line: string) => void;
  /** Wall time, ms. */
  readonly now: () => number;
}

/** One command of `agent` beside `run`. Resolves to its exit code: 0 nothing wrong, 1 something is. */
export interface AgentCommand {
  /** Its words after `agent`, for the usage. */
  readonly usage: string;
  readonly summary: string;
  /** Flags of its own, beside the settings. */
  readonly flags: readonly CommandFlag[];
  readonly run: (world: CommandWorld) => Promise<0 | 1>;
}

/** Lines of columns, each as wide as its widest cell. */
export function columns(rows: readonly (readonly string[])[]): readonly string[] {
  const widths = (rows[0] ?? []).map((_, at) => Math.max(...rows.map((row) => row[at]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

/** Help of one command. */
export function helpOf({ usage, summary, flags }: AgentCommand): string {
  return `usage: agent ${usage}\n\n${summary}\n\n${flagLines(flags)}`;
}
