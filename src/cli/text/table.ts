import type { Screen, Tone } from "./screen.ts";

/** What is in one place of a table. */
export type Cell = string | { readonly text: string; readonly tone: Tone };

const gap = "  ";
/** The last column keeps at least this much of a narrow screen. */
const narrowest = 16;

const textOf = (cell: Cell): string => (typeof cell === "string" ? cell : cell.text);

/**
 * Rows under a heading, columns aligned. An empty cell shows as `-`; a heading of which all cells are empty is left
 * out. The last column is cut at the right edge of the screen; elsewhere than on a screen nothing is.
 */
export function table(
  heading: readonly string[],
  rows: readonly (readonly Cell[])[],
  screen: Screen,
): string {
  const kept = heading.map((_, column) => rows.some((row) => textOf(row[column] ?? "") !== ""));
  const only = <T>(row: readonly T[]) => row.filter((_, column) => kept[column]);
  const top = only(heading).map((text): Cell => ({ text, tone: "heading" }));
  return aligned(
    [top, ...rows.map((row) => only(row).map((cell) => (textOf(cell) === "" ? "-" : cell)))],
    screen,
  );
}

/** Lines whose columns are aligned, the last one as in {@link table}. */
export function aligned(lines: readonly (readonly Cell[])[], screen: Screen): string {
  const columns = Math.max(0, ...lines.map((line) => line.length));
  const widths = Array.from({ length: columns }, (_, column) =>
    Math.max(...lines.map((line) => textOf(line[column] ?? "").length)),
  );
  return lines.map((line) => lineOf(line, widths, screen)).join("\n");
}

function lineOf(line: readonly Cell[], widths: readonly number[], screen: Screen): string {
  const before = widths.slice(0, -1).reduce((sum, width) => sum + width + gap.length, 0);
  const room = screen.columns === undefined ? undefined : Math.max(narrowest, screen.columns - before);
  return line
    .map((cell, column) => {
      const text = textOf(cell);
      const shown = column === line.length - 1 ? cut(text, room) : text.padEnd(widths[column] ?? 0);
      return typeof cell === "string" ? shown : screen.paint(shown, cell.tone);
    })
    .join(gap)
    .trimEnd();
}

function cut(text: string, width: number | undefined): string {
  return width === undefined || text.length <= width ? text : `${text.slice(0, width - 1)}…`;
}
