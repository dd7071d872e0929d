import { networks } from "../../../src/operator/context.ts";
import { buildBundles } from "../../loop/build.ts";
import { until } from "../../testbed/until.ts";
import type { Bench } from "../bench.ts";
import { type Figure, type Sample, sampled } from "../figures.ts";
import { cpuSeconds } from "../usage.ts";
import { audited, operatorWrote } from "./audit.ts";
import type { HostTimes, Outage } from "./hosts.ts";
import { FleetStand, namespace, type OperatorProcess } from "./stand.ts";

/** What a fleet's roll is like. */
export interface Roll {
  readonly size: number;
  /** Nodes that may be out of service at once. */
  readonly window: number;
  readonly times: HostTimes;
}

/** Percentage of a pool that may be out of service, in all benches. */
export const windowPercent = 10;
const deadlineMs = 7_200_000;

/** Rolls a pool whose nodes are all ready to config `version`; resolves when the last runs it. */
export async function rollPool(
  stand: FleetStand,
  operator: OperatorProcess,
  { size, window, times }: Roll,
  version: string,
  say: (line: string) => void,
): Promise<Sample> {
  stand.hosts.times = times;
  // The operator asks soon for what is new.
  const spec = { config: { refreshIntervalSeconds: 5 } };
  await stand.client.mergePatch(networks, { namespace, name: "testnet" }, { spec });
  const first = stand.hosts.outages.length;
  const mark = await stand.bed.audit.mark();
  const [cpu, looks] = [cpuSeconds(operator.child.pid), await looksOf(operator)];
  const digest = stand.publish(version);
  let said = performance.now();
  await until(
    `${size} nodes that run ${version}`,
    () => {
      if (stand.at(digest) === size) return true;
      if (performance.now() - said > 15_000) {
        said = performance.now();
        say(`  ${stand.at(digest)} of ${size} nodes have moved`);
      }
      return false;
    },
    { deadlineMs, giveUp: stand.hosts.requireWell, intervalMs: 20 },
  );
  const end = performance.now();
  const outages = stand.hosts.outages.slice(first);
  const seconds = (end - stand.toldSince(digest)) / 1000;
  const ideal = idealSeconds(
    outages.map(({ pod }) => lengthOf(stand, pod)),
    window,
  );
  const over = outages.map(({ pod, from, until: to }) => to - from - lengthOf(stand, pod) * 1000);
  const writes = await audited(stand.bed, mark, operatorWrote);
  const sample = {
    seconds,
    ideal,
    ratio: seconds / ideal,
    // What a place in the window stands empty, or full of a node that waits for us, each time that it is taken.
    lostEach: (seconds - ideal) / (size / window),
    idleOver: over.reduce((sum, each) => sum + each, 0) / over.length / 1000,
    restartsEach: outages.length / size,
    most: mostAtOnce(outages),
    writesEach: writes.length / size,
    looksEach: ((await looksOf(operator)) - looks) / size,
    cpu: cpuSeconds(operator.child.pid) - cpu,
  };
  say(
    `${size} nodes, ${window} at once, ${times.drainMs / 1000} + ${times.startMs / 1000} s each: ${seconds.toFixed(1)} s, ideal ${ideal.toFixed(1)} s; most out of service at once ${sample.most}; ${sample.writesEach.toFixed(1)} writes, ${sample.looksEach.toFixed(1)} looks, ${((1000 * sample.cpu) / size).toFixed(0)} ms of CPU each`,
  );
  return sample;
}

const looksOf = (operator: OperatorProcess) =>
  operator.metric("controller_runtime_reconcile_total", 'controller="node"');

/** Seconds that a node's drain and its engine's start take. */
function lengthOf({ hosts }: FleetStand, pod: string): number {
  const { drain, start } = hosts.timesOf(pod);
  return (drain + start) / 1000;
}

/**
 * How long the window takes at best: each place is taken again the moment that it is free, by the next node in the order in which they
 * really went.
 */
export function idealSeconds(lengths: readonly number[], window: number): number {
  const places = Array.from({ length: window }, () => 0);
  for (const length of lengths) {
    const at = places.indexOf(Math.min(...places));
    places[at] = (places[at] ?? 0) + length;
  }
  return Math.max(...places);
}

function mostAtOnce(outages: readonly Outage[]): number {
  const steps = outages.flatMap<readonly [number, number]>(({ from, until: to }) => [
    [from, 1],
    [to, -1],
  ]);
  steps.sort(([a], [b]) => a - b);
  let [now, most] = [0, 0];
  for (const [, step] of steps) most = Math.max(most, (now += step));
  return most;
}

/** The figures of one roll. */
export function rollFigures(size: number, sample: Sample): readonly Figure[] {
  const one = (name: string, what: string, unit: string) =>
    ({ name: what, unit, against: "", ours: sampled(sample, name) }) satisfies Figure;
  const ratio = sampled(sample, "ratio");
  return [
    {
      name: `roll of ${size} nodes`,
      unit: "s",
      ours: sampled(sample, "seconds"),
      against: "the ideal window",
      peer: sampled(sample, "ideal"),
      ratio,
      target: { at: "most", ratio: 1.03 },
    },
    one("lostEach", `lost at each turn of the window, ${size} nodes`, "s"),
    one("idleOver", `out of service for longer than drain and start, ${size} nodes`, "s"),
    one("most", `most out of service at once, ${size} nodes`, ""),
    one("restartsEach", `restarts of each node, ${size} nodes`, ""),
    one("writesEach", `writes for each node of ${size}`, ""),
    one("looksEach", `reconciles for each node of ${size}`, ""),
  ];
}

/** Rolls of small fleets, which have a stand of their own each. */
export const fleetRoll: Bench = {
  name: "fleet-roll",
  what: "time that a pool's roll to another engine image takes, against the ideal sliding window",
  async run({ processes, quick, say, nodes }) {
    await buildBundles();
    const times: HostTimes = quick
      ? { drainMs: 2_000, startMs: 4_000, pullMs: 0, spread: 0.2 }
      : { drainMs: 10_000, startMs: 20_000, pullMs: 0, spread: 0.2 };
    const figures: Figure[] = [];
    for (const size of nodes ? [nodes] : quick ? [40] : [100, 1_000]) {
      await using stand = await FleetStand.start(processes, { asShipped: false, refreshSeconds: 5 });
      const operator = await stand.startOperator();
      await stand.createPool(size, { maxUnavailable: `${windowPercent}%`, prefetch: { maxParallel: 64 } });
      await stand.untilReady(size, deadlineMs, say);
      const window = Math.max(1, Math.floor((size * windowPercent) / 100));
      figures.push(...rollFigures(size, await rollPool(stand, operator, { size, window, times }, "v2", say)));
      await operator.child.stop();
    }
    return { figures, notes: [rollNote(times)] };
  },
};

/** What the ideal is. */
export const rollNote = ({ drainMs, startMs, spread }: HostTimes): string =>
  `Played hosts: a node drains ${drainMs / 1000} s and its next engine starts in ${startMs / 1000} s, by up to ${100 * spread} % more or less, each node by its own. The ideal takes a place in the window again in the moment in which it is free; ours begins when the first node is told and ends when the last is Ready. Images are on the hosts at once.`;
