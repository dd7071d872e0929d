/**
 * What a creation, a roll and a deletion cost the API server, counted in its audit log, and how often the node controller looks
 * at each node: on hosts that really run the pods, so that every state on the way is there to be told.
 */
import { afterAll, beforeAll, expect, it } from "vitest";
import { settleMs } from "../../src/operator/node/pace.ts";
import { buildBundles } from "../loop/build.ts";
import { isNodeReady, type Loop, startLoop } from "../loop/loop.ts";
import { AuditTail, isRealWrite, operatorUser, startOperator } from "../loop/operator-run.ts";
import type { AuditEntry } from "../testbed/audit.ts";
import { until } from "../testbed/until.ts";

const nodes = 4;

let loop: Loop;
let tail: AuditTail;
let metricsURL: string;

beforeAll(async () => {
  await buildBundles();
  loop = await startLoop({ hosts: 2, gpusPerHost: 2, tokenDelayMs: 10 });
  await loop.operator.kill();
  const kubeconfig = await loop.bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
  const flags = ["--no-leader-elect"];
  ({ metricsURL } = await startOperator(loop, { name: "operator-counted", kubeconfig, flags }));
  tail = new AuditTail(loop, operatorUser);
}, 1_500_000);

afterAll(() => loop?.stop());

/** Reconciles of the node controller so far. */
async function reconciles(): Promise<number> {
  const text = await (await fetch(metricsURL)).text();
  const lines = text.split("\n").filter((line) => /^controller_runtime_reconcile_total\{.*"node"/.test(line));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

/** Writes of the node controller: its own, and not what the pool does to its nodes. */
const isNodes = (entry: AuditEntry): boolean =>
  isRealWrite(entry) &&
  (["secrets", "pods"].includes(entry.resource) ||
    (entry.resource === "resultitynodes" && entry.uri.includes("fieldManager=resultity-node")));

/** Does something, waits until nothing more follows, and counts what it took for each node. */
async function costOf(name: string, begin: () => Promise<unknown>, done: () => Promise<boolean>) {
  await tail.untilQuiet();
  const [from, looked] = [tail.entries.length, await reconciles()];
  const begun = performance.now();
  await begin();
  await until(name, done, { deadlineMs: 90_000, intervalMs: 200 });
  // What lasts for longer than a status may be kept back is told: once on the way, and more often on a slow machine.
  const tookMs = performance.now() - begun;
  const passing = Math.max(1, Math.floor(tookMs / settleMs));
  await tail.untilQuiet();
  const entries = tail.entries.slice(from);
  const writes = entries.filter(isNodes).map(kindOf);
  const all = entries.filter(isRealWrite).map(kindOf);
  return {
    each: writes.length / nodes,
    passing,
    reconciles: ((await reconciles()) - looked) / nodes,
    writes: countOf(writes),
    all: countOf(all),
  };
}

const kindOf = ({ verb, resource, subresource }: AuditEntry): string =>
  `${verb} ${resource}${subresource && `/${subresource}`}`;

function countOf(kinds: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const kind of kinds) counts[kind] = (counts[kind] ?? 0) + 1;
  return counts;
}

it("costs few writes and looks per node to create and to roll", async () => {
  const created = await costOf(
    "create",
    () => loop.applySamples({ replicas: nodes }),
    async () => (await loop.nodes()).filter(isNodeReady).length === nodes,
  );
  const rolled = await costOf(
    "roll",
    () => loop.publish("v2"),
    async () => {
      const digests = new Set((await loop.nodes()).map(({ status }) => status?.config?.applied));
      return (
        digests.size === 1 &&
        !digests.has(loop.firstDigest) &&
        (await loop.nodes()).filter(isNodeReady).length === nodes
      );
    },
  );
  // Secret, pod, status: 3; and what passes.
  expect(created.writes).toMatchObject({ "create secrets": nodes, "create pods": nodes });
  // Each look plans anew; a state on the way that is not looked at costs nothing.
  expect(created.reconciles, JSON.stringify(created)).toBeLessThanOrEqual(13);
  expect(rolled.reconciles, JSON.stringify(rolled)).toBeLessThanOrEqual(26);
  expect(created.each, JSON.stringify(created)).toBeLessThan(3.5 + created.passing);
  // Stage, tell, patch, confirm: 4; out of service and back: 2; and a pod for each host that brings the image, and goes: 1.
  expect(rolled.each, JSON.stringify(rolled)).toBeLessThan(10.5);
});
