/** One sample of a Prometheus text exposition. */
export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** Name, labels if any, value; a timestamp may follow. */
const sampleLine = /^([A-Za-z_:][\w:]*)\s*(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*$/;
const labelPair = /\s*([A-Za-z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)/y;

/**
 * Samples of the wanted names, in the order of the text. Lines that are no samples are passed over: the text comes from
 * a process that is not ours. Format: Prometheus text 0.0.4, "Text format details".
 */
export function readSamples(text: string, wanted: ReadonlySet<string>): readonly Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const [, name = "", inner = "", number = ""] = sampleLine.exec(line) ?? [];
    if (!wanted.has(name)) continue;
    const value = numberOf(number);
    const labels = labelsOf(inner);
    if (value !== undefined && labels !== undefined) samples.push({ name, labels, value });
  }
  return samples;
}

/** NaN and infinities measure nothing. */
function numberOf(text: string): number | undefined {
  const value = Number(text);
  return Number.isFinite(value) ? value : undefined;
}

function labelsOf(inner: string): Record<string, string> | undefined {
  const labels: Record<string, string> = {};
  labelPair.lastIndex = 0;
  while (labelPair.lastIndex < inner.length) {
    const match = labelPair.exec(inner);
    if (!match) return undefined;
    const [, name = "", escaped = ""] = match;
    labels[name] = escaped.replace(/\\(.)/g, (_, char: string) => (char === "n" ? "\n" : char));
  }
  return labels;
}
