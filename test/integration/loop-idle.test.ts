/**
 * Two operators on one cluster, counted in the API server's audit log: what they ask for when nothing is to be done, and
 * that only one of them writes, whatever becomes of the other.
 */
import { readFileSync } from "node:fs";
import { setTimeout as wait } from "node:timers/promises";
import { afterAll, beforeAll, expect, it } from "vitest";
import { buildBundles } from "../loop/build.ts";
import { runLoad } from "../loop/load.ts";
import { isNodeReady, type Loop, type Service, startLoop } from "../loop/loop.ts";
import { AuditTail, isRealWrite, operatorUser, requestLine, startOperator } from "../loop/operator-run.ts";
import { type AuditEntry, type AuditMark, isWrite } from "../testbed/audit.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { until } from "../testbed/until.ts";

/** The second operator has a user of its own with the same rights, so that the audit log tells the two apart. */
const secondUser = "operator-2";
const role = "resultity-operator";
const leaseNamespace = "resultity-system";

let loop: Loop;
let second: Service & { readonly logFile: string };

beforeAll(async () => {
  await buildBundles();
  loop = await startLoop({ hosts: 1, gpusPerHost: 4, tokenDelayMs: 10 });
  await loop.applySamples({ replicas: 2 });
  await loop.untilReady(2);
  const bind = (kind: string, from: string, ...where: readonly string[]) =>
    loop.bed.kubectlOk(["create", kind, secondUser, `--${from}=${role}`, `--user=${secondUser}`, ...where]);
  await bind("clusterrolebinding", "clusterrole");
  await bind("rolebinding", "role", "-n", leaseNamespace);
  const kubeconfig = loop.bed.kubeconfigForUser(secondUser);
  second = await startOperator(loop, { name: "operator-2", kubeconfig });
  await until("the second operator to wait for the lead", () => log().includes("waiting to lead"));
}, 1_500_000);

afterAll(() => loop?.stop());

const log = () => readFileSync(second.logFile, "utf8");

async function asked(mark: AuditMark): Promise<{ first: AuditEntry[]; second: AuditEntry[] }> {
  const entries = await loop.bed.audit.since(mark);
  return {
    first: entries.filter(({ user }) => user === operatorUser),
    second: entries.filter(({ user }) => user === secondUser),
  };
}

const holder = async (): Promise<string> => {
  const path = `/apis/coordination.k8s.io/v1/namespaces/${leaseNamespace}/leases/${role}`;
  const lease = await loop.kube.get<KubeObject & { spec: { holderIdentity: string } }>(path);
  return lease?.spec.holderIdentity ?? "";
};

const scaled = (count: number) =>
  until(
    `${count} Ready nodes`,
    async () => {
      const nodes = await loop.nodes();
      return nodes.length === count && nodes.every(isNodeReady);
    },
    { deadlineMs: 60_000, intervalMs: 200 },
  );

it("writes nothing but the Lease and lists nothing for 60 s, though completions run", async () => {
  await new AuditTail(loop, operatorUser).untilQuiet();
  const mark = await loop.bed.audit.mark();
  // Not a pause for something to happen: what is claimed is that in this time nothing does.
  const minute = wait(60_000);
  const load = await runLoad({
    baseURL: loop.ioURL,
    apiKey: loop.apiKey,
    total: 40,
    concurrency: 4,
    maxTokens: 8,
  });
  expect(load.filter(({ ok }) => !ok)).toEqual([]);
  await minute;

  const { first, second: waiting } = await asked(mark);
  const leases = first.filter(({ resource }) => resource === "leases");
  expect(leases.length).toBeGreaterThan(20);
  expect(first.filter((entry) => isWrite(entry) && entry.resource !== "leases").map(requestLine)).toEqual([]);
  expect(first.filter(({ verb }) => verb === "list").map(requestLine)).toEqual([]);
  // Watches are renewed now and then; what a network names and nobody may watch is read by its name; the operator that
  // waits asks only who leads.
  const asks = (entries: readonly AuditEntry[]) =>
    [...new Set(entries.map(({ verb, resource }) => `${verb} ${resource}`))].filter(
      (request) => !request.startsWith("watch "),
    );
  expect(["get configmaps", "get secrets", "update leases"]).toEqual(expect.arrayContaining(asks(first)));
  expect(asks(waiting)).toEqual(["get leases"]);
});

it("writes alone: one that was stopped and comes back finds another leading, and writes nothing", async () => {
  const leader = await holder();
  const first = loop.operator.child;
  const start = await loop.bed.audit.mark();
  await loop.scale(3);
  await scaled(3);
  const led = await asked(start);
  expect(led.first.filter(isRealWrite).length).toBeGreaterThan(0);
  expect(led.second.filter(isWrite).map(requestLine)).toEqual([]);

  // Stopped as a machine that hangs would be, when a change is to be made. It has no request under way, which the lease could not
  // call back.
  await new AuditTail(loop, operatorUser).untilQuiet();
  first.signal("SIGSTOP");
  await loop.scale(2);
  await until("the other to lead", async () => (await holder()) !== leader, { deadlineMs: 40_000 });
  const taken = await loop.bed.audit.mark();
  await scaled(2);
  // The first thing that it sees when it goes on is work.
  await loop.scale(4);
  first.signal("SIGCONT");
  await until("the first to know", () =>
    readFileSync(`${loop.ioData}/../operator.log`, "utf8").includes("the lead was lost"),
  );
  await scaled(4);
  const { first: woken, second: leading } = await asked(taken);
  expect(leading.filter(isRealWrite).length).toBeGreaterThan(0);
  expect(woken.filter((entry) => isWrite(entry) && entry.code < 300).map(requestLine)).toEqual([]);
  expect(first.running()).toBe(true);
});
