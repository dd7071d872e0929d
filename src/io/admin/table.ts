/** What would move the cursor or colour the terminal; some of what is shown was written by nodes. */
// oxlint-disable-next-line no-control-regex -- they are what it is about
const control = /[\u0000-\u001f\u007f-\u009f]/g;

/** Rows in columns as wide as their widest cell, two spaces apart. Control characters become `?`. */
export function table(head: readonly string[], cells: readonly (readonly string[])[]): string {
  const rows = cells.map((row) => row.map((cell) => cell.replaceAll(control, "?")));
  const widths = head.map((title, at) => Math.max(title.length, ...rows.map((row) => row[at]?.length ?? 0)));
  return [head, ...rows]
    .map((row) =>
      row
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
