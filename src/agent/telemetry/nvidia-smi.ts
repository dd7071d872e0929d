import type { GpuReading } from "./gpu.ts";

const columns = [
  "name",
  "uuid",
  "memory.total",
  "memory.used",
  "utilization.gpu",
  "temperature.gpu",
  "power.draw",
] as const;

/** Arguments of `nvidia-smi` for {@link gpusFromSmi}; see `nvidia-smi --help-query-gpu`. */
export const smiArgs: readonly string[] = [
  `--query-gpu=${columns.join(",")}`,
  "--format=csv,noheader,nounits",
];

/**
 * Reads what `nvidia-smi` prints, one line for each GPU. What a GPU or a driver cannot tell it writes in brackets
 * (`[N/A]`, `[Not Supported]`, `[Unknown Error]`). It does not tell of XID errors.
 *
 * @throws Error on a line that is none of these: the tool reports failures on its standard output.
 */
export function gpusFromSmi(text: string): readonly GpuReading[] {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines.map((line) => {
    const cells = line.split(",").map((cell) => cell.trim());
    if (cells.length !== columns.length) throw new Error(`nvidia-smi says: ${line.trim().slice(0, 200)}`);
    const [name = "", uuid = "", total = "", used = "", utilisation = "", temperature = "", power = ""] =
      cells;
    return {
      product: textOf(name),
      uuid: textOf(uuid),
      memoryMib: numberOf(total),
      memoryUsedMib: numberOf(used),
      utilisation: numberOf(utilisation),
      temperatureC: numberOf(temperature),
      powerW: numberOf(power),
      xid: null,
    };
  });
}

const isMissing = (cell: string): boolean => cell === "" || cell === "N/A" || /^\[.*\]$/.test(cell);
const textOf = (cell: string): string | null => (isMissing(cell) ? null : cell);

function numberOf(cell: string): number | null {
  const value = isMissing(cell) ? Number.NaN : Number(cell);
  return Number.isFinite(value) ? value : null;
}
