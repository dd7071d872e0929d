import { setTimeout as wait } from "node:timers/promises";
import { buildBundles } from "../../loop/build.ts";
import type { AuditEntry } from "../../testbed/control-plane.ts";
import { until } from "../../testbed/until.ts";
import type { Bench } from "../bench.ts";
import type { Figure } from "../figures.ts";
import { cpuSeconds, memoryOf } from "../usage.ts";
import { audited, ofOperator, operatorWrote } from "./audit.ts";
import type { HostTimes } from "./hosts.ts";
import { rollFigures, rollNote, rollPool, windowPercent } from "./roll.ts";
import { seedNodes } from "./seed.ts";
import { FleetStand, type OperatorProcess } from "./stand.ts";

const deadlineMs = 7_200_000;
/** Without a write for this long the operator has nothing left to do, ms: longer than it keeps a status back. */
const quietMs = 12_000;
/** For how long the long form looks at a fleet that stands still, minutes; without `--minutes` it is less. */
const longMinutes = 10;

/** One fleet, grown step by step: what it costs to stand still, to start again, to hold in memory, and to roll. */
export const fleetLife: Bench = {
  name: "fleet",
  what: "one pool grown to 10,000 nodes: memory, restarts, what a fleet costs that stands still, and its roll against the ideal window",
  async run({ processes, quick, say, nodes, minutes = quick ? 0.2 : 2 }) {
    await buildBundles();
    const sizes = nodes ? [nodes] : quick ? [50, 100] : [1_000, 2_000, 10_000];
    const largest = sizes.at(-1) ?? 0;
    const figures: Figure[] = [];
    const add = (name: string, ours: number, unit: string) => figures.push({ name, unit, against: "", ours });
    await using stand = await FleetStand.start(processes, { asShipped: false, refreshSeconds: 60 });
    let operator = await stand.startOperator();
    await stand.createPool(1, { maxUnavailable: `${windowPercent}%`, prefetch: { maxParallel: 64 } });
    await stand.untilReady(1, deadlineMs);
    let made = 1;
    for (const size of sizes) {
      await operator.child.stop();
      say(`${size - made} more nodes are put into etcd`);
      await seedNodes(stand, made, size);
      await stand.scalePool(size);
      await stand.untilReady(size, deadlineMs, say);
      made = size;
      // Takes note of them: the pool's counts and its disruption budget.
      operator = await stand.startOperator();
      await untilLooked(operator, size);
      await untilQuiet(stand);
      const { restarted, sample } = await restart(stand, operator, size);
      operator = restarted;
      const { rss, peak } = memoryOf(operator.child.pid);
      say(
        `restart at ${size}: first decision after ${sample.first.toFixed(2)} s, all looked at after ${sample.all.toFixed(1)} s and ${sample.cpu.toFixed(1)} s of CPU, ${sample.mib.toFixed(0)} MiB read, ${sample.writes} writes; ${rss.toFixed(0)} MiB resident, at most ${peak.toFixed(0)}`,
      );
      add(`restart at ${size} nodes: until the first decision`, sample.first, "s");
      add(`restart at ${size} nodes: until all were looked at`, sample.all, "s");
      add(`restart at ${size} nodes: CPU until then`, sample.cpu, "s");
      add(`restart at ${size} nodes: read from the API server`, sample.mib, "MiB");
      add(`restart at ${size} nodes: writes but the Lease (target 0)`, sample.writes, "");
      add(`the operator with ${size} nodes: resident${size === 1_000 ? " (target ≤ 128)" : ""}`, rss, "MiB");
      add(`the operator with ${size} nodes: most resident`, peak, "MiB");
    }
    say(
      `${largest} nodes stand still for ${minutes} min${minutes < longMinutes ? ` (the long form: --minutes ${longMinutes})` : ""}`,
    );
    for (const [name, count] of await steady(stand, operator, minutes, say)) {
      say(`  ${name}: ${count}`);
      add(`${name}, ${largest} nodes`, count, "");
    }
    const times: HostTimes = rollTimes(largest, quick);
    const window = Math.max(1, Math.floor((largest * windowPercent) / 100));
    figures.push(
      ...rollFigures(largest, await rollPool(stand, operator, { size: largest, window, times }, "v2", say)),
    );
    await operator.child.stop();
    return {
      figures,
      notes: [
        `Of a fleet that stands still, the counts are those of ${minutes} min, from the audit log${minutes < longMinutes ? `; ${longMinutes} min are ${(longMinutes / minutes).toFixed(0)} times as long` : ""}. GETs of the operator are its look at what the network's spec points at, every minute.`,
        rollNote(times),
      ],
    };
  },
};

/** Large fleets have longer times: it is their number in a second that the machine has to bear, not how many there are. */
function rollTimes(size: number, quick: boolean): HostTimes {
  const scale = quick ? 0.2 : Math.max(1, size / 2_500);
  return { drainMs: 10_000 * scale, startMs: 20_000 * scale, pullMs: 0, spread: 0.2 };
}

async function untilQuiet({ bed }: FleetStand): Promise<void> {
  await until(
    "the operator to have nothing to write",
    async () => {
      const mark = await bed.audit.mark();
      await wait(quietMs);
      return (await audited(bed, mark, operatorWrote)).length === 0;
    },
    { deadlineMs: 600_000 },
  );
}

/** Resolves when the node controller has looked as often at its nodes. */
async function untilLooked(operator: OperatorProcess, times: number): Promise<void> {
  await until(
    `${times} looks at nodes`,
    async () => (await operator.metric("controller_runtime_reconcile_total", 'controller="node"')) >= times,
    { deadlineMs, intervalMs: 100, giveUp: operator.child.requireRunning },
  );
}

/** Ends the operator and starts it again. */
async function restart(stand: FleetStand, before: OperatorProcess, size: number) {
  await before.child.stop();
  const mark = await stand.bed.audit.mark();
  const started = performance.now();
  const restarted = await stand.startOperator();
  const since = () => (performance.now() - started) / 1000;
  await untilLooked(restarted, 1);
  const first = since();
  const mib = restarted.received() / 2 ** 20;
  await untilLooked(restarted, size);
  const all = since();
  const cpu = cpuSeconds(restarted.child.pid);
  await untilQuiet(stand);
  const writes = (await audited(stand.bed, mark, operatorWrote)).length;
  return { restarted, sample: { first, all, cpu, mib, writes } };
}

/** What is asked of the API server while nothing happens. */
async function steady(
  stand: FleetStand,
  operator: OperatorProcess,
  minutes: number,
  say: (line: string) => void,
): Promise<ReadonlyMap<string, number>> {
  const asked = () => operator.metric("resultity_operator_agent_status_requests_total");
  const [mark, cpu, questions] = [
    await stand.bed.audit.mark(),
    cpuSeconds(operator.child.pid),
    await asked(),
  ];
  for (let left = minutes; left > 0; left--) {
    await wait(Math.min(1, left) * 60_000);
    say(`  ${Math.max(0, left - 1)} min left`);
  }
  const used = cpuSeconds(operator.child.pid) - cpu;
  const entries = await audited(stand.bed, mark, ({ user }) => user.startsWith("system:"));
  const mine = entries.filter(ofOperator);
  const count = (verb: string, of: readonly AuditEntry[]) => of.filter((entry) => entry.verb === verb).length;
  // The hosts and this bench are not the project's, and what they ask is no cost of it.
  // Nor is what the garbage collector asks once of each object that is new: who owns it.
  const others = entries.filter((entry) => !ofOperator(entry) && !entry.user.endsWith("garbage-collector"));
  return new Map([
    ["writes but the Lease (target 0)", mine.filter(operatorWrote).length],
    ["LISTs (target 0)", count("list", mine)],
    ["GETs", count("get", mine)],
    ["watches that were begun anew", count("watch", mine)],
    [
      "writes of the Lease",
      mine.filter(({ resource, verb }) => resource === "leases" && verb === "update").length,
    ],
    ["questions to agents", (await asked()) - questions],
    ["CPU of the operator, s", used],
    [
      "GETs by Kubernetes' own controllers for it",
      others.filter(({ verb, group }) => verb === "get" && group === "resultity.com").length,
    ],
  ]);
}
