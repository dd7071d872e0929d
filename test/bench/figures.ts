/** What one arm of a pair has measured, by name. */
export type Sample = Readonly<Record<string, number>>;

/** What a figure is to reach: a ratio to the peer. */
export interface Target {
  readonly at: "most" | "least";
  readonly ratio: number;
}

/** One line of the table: ours against a peer that ran beside it. */
export interface Figure {
  readonly name: string;
  /** Unit of `ours` and `peer`. */
  readonly unit: string;
  /** Median of our runs. */
  readonly ours: number;
  /** Name of the peer; "" where nothing is compared. */
  readonly against: string;
  /** Median of the peer's runs. */
  readonly peer?: number;
  /** Median of the pairs' ratios, ours to peer's. */
  readonly ratio?: number;
  /** Smallest and largest of the pairs' ratios. */
  readonly range?: readonly [number, number];
  readonly target?: Target;
}

/** The middle value; of an even number the mean of the two. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length / 2;
  const upper = sorted[Math.floor(half)];
  if (upper === undefined) throw new Error("no values: a median of nothing");
  return Number.isInteger(half) ? ((sorted[half - 1] ?? upper) + upper) / 2 : upper;
}

/** The value below which `share` (0 to 1) of the others lie; NaN of none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

/** Samples of both arms, the n-th of each taken side by side. */
export interface Pairs {
  readonly ours: readonly Sample[];
  readonly peer: readonly Sample[];
}

/**
 * Runs both arms `count` times, in the order ab ba ab …, so that a machine that slows down or warms up hurts neither more.
 */
export async function pairs(
  count: number,
  ours: () => Promise<Sample>,
  peer: () => Promise<Sample>,
): Promise<Pairs> {
  const got: { ours: Sample[]; peer: Sample[] } = { ours: [], peer: [] };
  for (let at = 0; at < count; at++) {
    if (at % 2 === 0) got.ours.push(await ours());
    got.peer.push(await peer());
    if (at % 2 === 1) got.ours.push(await ours());
  }
  return got;
}

/** What a sample says of one thing. @throws Error where it says nothing */
export const sampled = (sample: Sample, name: string): number => {
  const value = sample[name];
  if (value === undefined) throw new Error(`no ${name} was measured`);
  return value;
};

/** Compares what both arms have measured under one name. */
export function compare(
  { ours, peer }: Pairs,
  sample: string,
  line: Pick<Figure, "name" | "unit" | "against"> & { readonly target?: Target },
): Figure {
  const mine = ours.map((one) => sampled(one, sample));
  const theirs = peer.map((one) => sampled(one, sample));
  const ratios = mine.map((value, at) => value / (theirs[at] ?? Number.NaN));
  return {
    ...line,
    ours: median(mine),
    peer: median(theirs),
    ratio: median(ratios),
    range: [Math.min(...ratios), Math.max(...ratios)],
  };
}

/** A figure that has no peer. */
export function alone(samples: readonly Sample[], sample: string, name: string, unit: string): Figure {
  return { name, unit, against: "", ours: median(samples.map((one) => sampled(one, sample))) };
}

/** Whether a figure reaches its target; undefined = it has none. */
export function reached({ ratio, target }: Figure): boolean | undefined {
  if (target === undefined || ratio === undefined) return undefined;
  return target.at === "most" ? ratio <= target.ratio : ratio >= target.ratio;
}

const digits = (value: number): string =>
  Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(2);

/** The figures as a Markdown table. */
export function table(figures: readonly Figure[]): string {
  const rows = figures.map((figure) => {
    const { name, unit, ours, against, peer, ratio, range, target } = figure;
    const wanted = target === undefined ? "" : `${target.at === "most" ? "≤" : "≥"} ${target.ratio}`;
    const said = reached(figure);
    return [
      name,
      `${digits(ours)} ${unit}`,
      peer === undefined ? "" : `${digits(peer)} ${unit} (${against})`,
      ratio === undefined
        ? ""
        : `${digits(ratio)}${range ? ` (${digits(range[0])} to ${digits(range[1])})` : ""}`,
      said === undefined ? wanted : `${wanted}: ${said ? "reached" : "missed"}`,
    ];
  });
  const lines = [
    ["figure", "ours", "peer", "ratio (range)", "target"],
    ["---", "--:", "--:", "--:", "---"],
    ...rows,
  ];
  return lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}
