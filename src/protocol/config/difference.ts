import type { Snapshot } from "./snapshot.ts";

/** Most lines of a difference, and most characters of each. */
export const maxDifferences = 32;
const maxLine = 256;

/**
 * What changes from one config to another, a line each, for a person who is to approve it. The order follows what it costs:
 * runtimes, models, limits, and what is applied live. More than {@link maxDifferences} are cut, and the last line says so.
 */
export function snapshotDifference(from: Snapshot | undefined, to: Snapshot): readonly string[] {
  const lines = [
    ...runtimeLines(from?.runtimes ?? [], to.runtimes),
    ...modelLines(from?.models ?? [], to.models),
    ...changed("max_jobs", from?.limits.max_jobs, to.limits.max_jobs),
    ...changed("max_output_bytes", from?.limits.max_output_bytes, to.limits.max_output_bytes),
    ...changed("min_agent_version", from?.min_agent_version, to.min_agent_version),
    ...changed("participation testnet", from?.participation.testnet, to.participation.testnet),
    ...changed("participation mainnet", from?.participation.mainnet, to.participation.mainnet),
    ...setLines("subcloud", from?.subclouds ?? [], to.subclouds),
  ].map((line) => (line.length <= maxLine ? line : `${line.slice(0, maxLine - 1)}…`));
  if (lines.length <= maxDifferences) return lines;
  const kept = lines.slice(0, maxDifferences - 1);
  return [...kept, `and ${lines.length - kept.length} more`];
}

type Scalar = string | number | boolean;

function changed(what: string, from: Scalar | undefined, to: Scalar): string[] {
  if (from === to) return [];
  return [from === undefined ? `${what} ${to}` : `${what} ${from} → ${to}`];
}

function setLines(what: string, from: readonly string[], to: readonly string[]): string[] {
  return [
    ...to.filter((name) => !from.includes(name)).map((name) => `${what} ${name} added`),
    ...from.filter((name) => !to.includes(name)).map((name) => `${what} ${name} removed`),
  ];
}

type Runtime = Snapshot["runtimes"][number];

/** An entry is the same one if it is for the same engine and GPUs. */
const runtimeName = ({ engine, gpu_products: products }: Runtime): string =>
  products.length === 0 ? engine : `${engine} on ${products.join(", ")}`;

function runtimeLines(from: readonly Runtime[], to: readonly Runtime[]): string[] {
  const before = new Map(from.map((entry) => [runtimeName(entry), entry]));
  const lines = to.flatMap((entry) => {
    const name = runtimeName(entry);
    const old = before.get(name);
    before.delete(name);
    if (!old) return [`runtime ${name} added: ${entry.image}`];
    // Two lines: one must not hide the other from who approves, and a long one is cut.
    const sameStart = JSON.stringify({ ...old, image: "" }) === JSON.stringify({ ...entry, image: "" });
    return [
      ...(old.image === entry.image ? [] : [`runtime ${name}: ${old.image} → ${entry.image}`]),
      ...(sameStart ? [] : [`runtime ${name}: other command`]),
    ];
  });
  return [...lines, ...[...before.keys()].map((name) => `runtime ${name} removed`)];
}

type Model = Snapshot["models"][number];

function modelLines(from: readonly Model[], to: readonly Model[]): string[] {
  const before = new Map(from.map((model) => [model.name, model]));
  const after = new Map(to.map((model) => [model.name, model]));
  const same = (name: string) => JSON.stringify(before.get(name)) === JSON.stringify(after.get(name));
  return [
    ...setLines("model", [...before.keys()], [...after.keys()]),
    ...[...after.keys()]
      .filter((name) => before.has(name) && !same(name))
      .map((name) => `model ${name}: other engines or files`),
  ];
}
