import { readFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as wait } from "node:timers/promises";
import { parse } from "yaml";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import { nodes } from "../../../src/operator/context.ts";
import { nodeManager, poolManager } from "../../../src/operator/names.ts";
import { events, type Pod, pods, type Secret, secrets } from "../../../src/kube/resources.ts";
import { buildBundles } from "../../loop/build.ts";
import { isRealWrite, operatorUser } from "../../loop/operator-run.ts";
import type { AuditEntry } from "../../testbed/control-plane.ts";
import type { Supervisor } from "../../testbed/processes.ts";
import { until } from "../../testbed/until.ts";
import type { Bench, BenchSetting } from "../bench.ts";
import { alone, compare, pairs, type Sample } from "../figures.ts";
import { cpuSeconds } from "../usage.ts";
import type { BareJob, BareWrite } from "./bare-client.ts";
import { FleetStand, namespace, type OperatorProcess } from "./stand.ts";

/** Nodes of the bare client at once: more made it no faster. */
const parallel = 32;
/** A status that is yet to settle is written by then, ms. */
const settledMs = 8_000;
const deadlineMs = 600_000;

const group = `/apis/resultity.com/v1alpha1/namespaces/${namespace}`;
const core = `/api/v1/namespaces/${namespace}`;

/** What the operator wrote for one node, as the bare client is to write it. */
type Recipe = readonly BareWrite[];

/** Times, writes and looks of a fleet that is made. */
export const fleetCreate: Bench = {
  name: "fleet-create",
  what: "a pool's nodes made and brought to Ready, against a ReplicaSet of kube-controller-manager as shipped, and against a bare client doing the same writes",
  async run(setting) {
    const count = setting.quick ? 100 : 1_000;
    const rounds = setting.quick ? 1 : 3;
    await buildBundles();
    let recipe: Recipe = [];
    const ours = async () => {
      const made = await operatorArm(setting, count);
      recipe = made.recipe;
      return made.sample;
    };
    const bare: Sample[] = [];
    // The first round shows what there is to write.
    const measured = await pairs(rounds, ours, async () => {
      bare.push(await bareArm(setting, count, recipe));
      return replicaSetArm(setting, count);
    });
    const against = "a ReplicaSet of kube-controller-manager";
    const half = { at: "most", ratio: 0.5 } as const;
    const most = { at: "least", ratio: 0.85 } as const;
    const same = { ours: measured.ours, peer: bare };
    return {
      figures: [
        compare(measured, "seconds", {
          name: `${count} nodes to Ready, ${count} pods to ready`,
          unit: "s",
          against,
          target: half,
        }),
        compare(measured, "cpu", {
          name: "CPU of the operator, of the controller manager",
          unit: "s",
          against,
        }),
        compare(same, "writesPerSecond", {
          name: "writes per second",
          unit: "/s",
          against: "a bare client",
          target: most,
        }),
        compare(same, "apiServerCpu", { name: "CPU of the API server", unit: "s", against: "a bare client" }),
        alone(measured.ours, "writesEach", "writes of the node controller for each node (target ≤ 3)", ""),
        alone(measured.ours, "looksEach", "reconciles of the node controller for each node (target ≤ 5)", ""),
        alone(measured.ours, "allWritesEach", "writes for each node with the pool's, events left out", ""),
      ],
      notes: [
        "Hosts are played: a pod is bound and is ready at once, for both alike. The ReplicaSet's pods are ready when its pods are; ours when the ResultityNodes are, which takes the agent's signed word, a Secret with a key, and the pool's order.",
        `The bare client does the writes that the operator did for each node (it creates the ResultityNode, tells its target, makes Secret and pod, writes its status and an event), ${parallel} nodes at once, and looks at nothing.`,
      ],
    };
  },
};

/** The operator makes a pool. */
async function operatorArm({ processes, say }: BenchSetting, count: number) {
  await using stand = await FleetStand.start(processes, { asShipped: true, refreshSeconds: 60 });
  const operator = await stand.startOperator();
  await until(
    "the network's config",
    async () => {
      const network = await stand.kube.get<ResultityNode>(`${group}/resultitynetworks/testnet`);
      return network?.status?.config !== undefined;
    },
    { deadlineMs: 60_000, giveUp: operator.child.requireRunning },
  );
  const mark = await stand.bed.audit.mark();
  const apiServer = stand.bed.component("apiserver").pid;
  const [cpu, apiServerCpu, looks] = [
    cpuSeconds(operator.child.pid),
    cpuSeconds(apiServer),
    await looksOf(operator),
  ];
  const started = performance.now();
  await stand.createPool(count, { maxUnavailable: "10%" });
  await stand.untilReady(count, deadlineMs, say);
  const seconds = (performance.now() - started) / 1000;
  const ended = Date.now();
  const used = {
    cpu: cpuSeconds(operator.child.pid) - cpu,
    apiServerCpu: cpuSeconds(apiServer) - apiServerCpu,
  };
  await wait(settledMs);
  const entries = (await stand.bed.audit.since(mark)).filter(({ user }) => user === operatorUser);
  const writes = entries.filter(isRealWrite);
  const told = entries.filter(
    ({ resource, code, time }) => resource === "events" && code < 300 && time < ended,
  ).length;
  const sample = {
    ...used,
    seconds,
    // What each node needs, and what was told of it: the rest of what is written shows how it stands meanwhile.
    writesPerSecond: (writesOfNode * count + told) / seconds,
    writesEach: writes.filter(isNodes).length / count,
    allWritesEach: writes.length / count,
    looksEach: ((await looksOf(operator)) - looks) / count,
  };
  say(
    `operator: ${count} nodes in ${seconds.toFixed(1)} s, ${used.cpu.toFixed(1)} s of CPU, ${sample.writesEach.toFixed(2)} writes and ${sample.looksEach.toFixed(2)} looks each`,
  );
  const recipe = await recipeOf(stand);
  await operator.child.stop();
  return { sample, recipe };
}

const looksOf = (operator: OperatorProcess) =>
  operator.metric("controller_runtime_reconcile_total", 'controller="node"');

/** Writes of the node controller. */
const isNodes = ({ resource, uri }: AuditEntry): boolean =>
  ["secrets", "pods"].includes(resource) ||
  (resource === "resultitynodes" && uri.includes(`fieldManager=${nodeManager}`));

/** One ReplicaSet with as many pods, of the same form. */
async function replicaSetArm({ processes, say }: BenchSetting, count: number): Promise<Sample> {
  await using stand = await FleetStand.start(processes, { asShipped: true, refreshSeconds: 60 });
  const manager = stand.bed.component("controller-manager").pid;
  const cpu = cpuSeconds(manager);
  const started = performance.now();
  const labels = { app: "peer" };
  await stand.kube.create(`/apis/apps/v1/namespaces/${namespace}/replicasets`, {
    apiVersion: "apps/v1",
    kind: "ReplicaSet",
    metadata: { name: "peer" },
    spec: {
      replicas: count,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: { containers: [{ name: "runtime", image: "registry.test/engine:1" }] },
      },
    },
  });
  await until(`${count} ready pods`, () => stand.hosts.ready === count, {
    deadlineMs,
    giveUp: stand.hosts.requireWell,
  });
  const seconds = (performance.now() - started) / 1000;
  const used = cpuSeconds(manager) - cpu;
  say(`controller manager: ${count} pods in ${seconds.toFixed(1)} s, ${used.toFixed(1)} s of CPU`);
  return { seconds, cpu: used };
}

/** Of a recipe but the last, which is an event. */
const writesOfNode = 5;

/** What was written for the first node that an event tells of, as it stands in the API server. */
async function recipeOf({ client }: FleetStand): Promise<Recipe> {
  const told = (await client.list(events, { namespace })).items.find(
    ({ regarding }) => regarding.kind === "ResultityNode",
  );
  if (!told) throw new Error("no event tells of a node");
  const { name } = told.regarding;
  const [node, secret, pod] = await Promise.all([
    client.get<ResultityNode>(nodes, { namespace, name }),
    client.get<Secret>(secrets, { namespace, name: `${name}-identity` }),
    client.get<Pod>(pods, { namespace, name }),
  ]);
  const meta = ({ labels, annotations }: Pod["metadata"]) => ({ labels, annotations, namespace });
  const typed = { apiVersion: "resultity.com/v1alpha1", kind: "ResultityNode" };
  const owner = (of: string) => [{ ...typed, name: "{name}", uid: `{uid of ${of}}`, controller: true }];
  const made = `${group}/resultitynodes`;
  const { target, ...config } = node.status?.config ?? {};
  const apply = "application/apply-patch+yaml";
  const statusOf = (manager: string) => `${made}/{name}/status?force=true&fieldManager=${manager}`;
  // Who the node is, which no two can be.
  const { nodeId: _nodeId, ...status } = node.status ?? {};
  const { nodeName: _host, ...podSpec } = pod.spec ?? { containers: [] };
  const recipe: [path: string, type: string, body: object][] = [
    [made, "", { ...typed, metadata: { ...meta(node.metadata), name: "{name}" }, spec: node.spec }],
    [
      statusOf(poolManager),
      apply,
      { ...typed, metadata: { name: "{name}", namespace }, status: { config: { target } } },
    ],
    [
      `${core}/secrets`,
      "",
      {
        apiVersion: "v1",
        kind: "Secret",
        metadata: { ...meta(secret.metadata), name: "{name}-identity" },
        type: "Opaque",
        data: secret.data,
      },
    ],
    [
      `${core}/pods`,
      "",
      {
        apiVersion: "v1",
        kind: "Pod",
        metadata: { ...meta(pod.metadata), name: "{name}", ownerReferences: owner(made) },
        spec: podSpec,
      },
    ],
    [
      statusOf(nodeManager),
      apply,
      { ...typed, metadata: { name: "{name}", namespace }, status: { ...status, config } },
    ],
    [
      `/apis/events.k8s.io/v1/namespaces/${namespace}/events`,
      "",
      {
        ...told,
        metadata: { namespace, name: "{name}.1" },
        regarding: { ...told.regarding, name: "{name}", uid: `{uid of ${made}}` },
      },
    ],
  ];
  return recipe.map(([path, type, body]) => ({
    method: type ? "PATCH" : "POST",
    path,
    type: type || "application/json",
    body: JSON.stringify(body).replaceAll(name, "{name}"),
  }));
}

/** The same writes by a client that does nothing else. */
async function bareArm({ processes, say }: BenchSetting, count: number, writes: Recipe): Promise<Sample> {
  await using stand = await FleetStand.start(processes, { asShipped: true, refreshSeconds: 60 });
  const config: { users: readonly { user: { token: string } }[] } = parse(
    readFileSync(stand.operatorKubeconfig, "utf8"),
  );
  const job: BareJob = {
    server: stand.bed.server,
    ca: stand.bed.ca,
    token: config.users[0]?.user.token ?? "",
    names: Array.from({ length: count }, (_, at) => `chat-${at}`),
    parallel,
    writes,
  };
  const apiServer = stand.bed.component("apiserver").pid;
  const before = cpuSeconds(apiServer);
  const started = performance.now();
  await runBare(processes, job);
  await until(`${count} ready pods`, () => stand.hosts.ready === count, {
    deadlineMs,
    giveUp: stand.hosts.requireWell,
  });
  const seconds = (performance.now() - started) / 1000;
  const apiServerCpu = cpuSeconds(apiServer) - before;
  say(`bare client: the same ${writes.length * count} writes in ${seconds.toFixed(1)} s`);
  return { writesPerSecond: (writes.length * count) / seconds, apiServerCpu };
}

async function runBare(processes: Supervisor, job: BareJob): Promise<void> {
  const child = processes.spawn({
    name: "bare client",
    command: process.execPath,
    args: [join(import.meta.dirname, "bare-client.ts")],
  });
  const { stdin, stdout, stderr } = child.process;
  if (!stdin || !stdout || !stderr) throw new Error("the process has no pipes");
  stdin.end(JSON.stringify(job));
  const said = Promise.all([text(stdout), text(stderr)]);
  const { code } = await child.exited;
  const [, problem] = await said;
  if (code !== 0) throw new Error(`the bare client failed: ${problem.slice(-800)}`);
}
