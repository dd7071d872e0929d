import { networkKind, nodeKind, poolKind } from "../../api/v1alpha1/kinds.ts";
import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import { CliError } from "../errors.ts";
import { findSubject } from "../find.ts";
import { type Proposal, type Reader, readPool, readSurroundings } from "../read.ts";
import { networks, nodes, pools } from "../resources.ts";
import { type Subject, shortRef } from "../subject.ts";
import type { Changes } from "./manifest.ts";
import { type HeldBy, type NodePlan, Outlooks, type Surroundings } from "./nodes.ts";
import { type PlanView, planView } from "./view.ts";

/** What `plan` tells; with `-o json` as it is. */
export interface PlansView {
  readonly pools: readonly PlanView[];
  /** Nodes that have no pool. */
  readonly nodes: readonly NodePlan[];
  /** What is left out of the answer, and why. */
  readonly notes: readonly string[];
}

/** Whether a node refuses what it is to do. */
export function isRefused({ pools: of, nodes: alone }: PlansView): boolean {
  return [...of.flatMap(({ nodes: each = [] }) => each), ...alone].some(
    ({ refused }) => refused !== undefined,
  );
}

/** The plan of what a name means. @throws CliError NotFound, Ambiguous, Usage, KubeError */
export async function planOf(
  reader: Reader,
  subject: Subject,
  digest: string | undefined,
  namespace: string,
  now: number,
): Promise<PlansView> {
  const found = await findSubject(reader, subject, namespace);
  if (found.kind === "ResultityNodePool") {
    const view = await planPoolOf(reader, found, now, digest === undefined ? {} : { digest });
    return { pools: [view.plan], nodes: [], notes: view.notes };
  }
  if (found.kind === "ResultityNetwork") {
    const asked = digest ?? pendingOf(found);
    return planNetworkOf(reader, found, now, asked === undefined ? {} : { digest: asked });
  }
  const pool = controllerOf(found);
  const hint =
    pool?.kind === poolKind.kind
      ? `its pool decides when it moves: kubectl resultity plan ${pool.name} -n ${namespace}`
      : `kubectl resultity plan ${shortRef(networkKind.kind, found.spec.networkRef.name)} -n ${namespace} has it among the network's nodes`;
  throw new CliError("Usage", `${shortRef(found.kind, found.metadata.name)} is no pool or network: ${hint}`);
}

function pendingOf({ spec, status }: ResultityNetwork): string | undefined {
  return spec.config.apply === "Approve" ? status?.pending?.digest : undefined;
}

/** The plan of what a manifest would change. @throws KubeError */
export async function planOfChanges(reader: Reader, changes: Changes, now: number): Promise<PlansView> {
  const views: PlansView[] = [];
  const done = new Set<string>();
  const created = new Set(changes.networks.flatMap(({ before, after }) => (before ? [] : [after])));
  const changedNetworks = new Map(changes.networks.map(({ after }) => [keyOf(after), after]));
  const poolsNow = new Map(changes.pools.map(({ after }) => [keyOf(after), after]));
  const nodesNow = new Map(changes.nodes.map(({ after }) => [keyOf(after), after]));
  for (const { before, after } of changes.networks) {
    if (!before) {
      const { name } = after.metadata;
      views.push({
        pools: [],
        nodes: [],
        notes: [`network ${name} is new: what it has its nodes run is known once it is there`],
      });
      continue;
    }
    const view = await planNetworkOf(reader, before, now, { network: after }, poolsNow, nodesNow);
    const { namespace } = before.metadata;
    for (const { name } of view.pools) done.add(`${poolKind.kind} ${namespace}/${name}`);
    for (const { node } of view.nodes) done.add(`${nodeKind.kind} ${namespace}/${node}`);
    views.push(view);
  }
  const networkOf = ({ namespace }: { readonly namespace: string }, { name }: { readonly name: string }) =>
    changedNetworks.get(`${namespace}/${name}`);
  for (const { before, after } of changes.pools) {
    if (done.has(`${poolKind.kind} ${keyOf(after)}`)) continue;
    const network = networkOf(after.metadata, after.spec.template.spec.networkRef);
    const { plan, notes } = await planPoolOf(reader, before ?? after, now, {
      pool: after,
      ...(network ? { network } : {}),
    });
    views.push({ pools: [plan], nodes: [], notes });
  }
  for (const { before, after } of changes.nodes) {
    if (done.has(`${nodeKind.kind} ${keyOf(after)}`)) continue;
    const network = networkOf(after.metadata, after.spec.networkRef);
    if (network && created.has(network)) {
      const { name } = after.metadata;
      views.push({
        pools: [],
        nodes: [{ node: name, does: "unknown", steps: [], interrupts: false }],
        notes: [],
      });
      continue;
    }
    views.push(await planNodeOf(reader, before, after, now, network ? { network } : {}));
  }
  return {
    pools: views.flatMap((view) => view.pools),
    nodes: views.flatMap((view) => view.nodes),
    notes: [...new Set(views.flatMap((view) => view.notes))],
  };
}

async function planPoolOf(
  reader: Reader,
  pool: ResultityNodePool,
  now: number,
  proposal: Proposal,
): Promise<{ readonly plan: PlanView; readonly notes: readonly string[] }> {
  const { digest } = proposal;
  const { pin } = pool.spec.template.spec.config ?? {};
  // What `rollout undo` would write.
  const repinned = digest !== undefined && pin !== undefined ? { pool: pinnedTo(pool, digest) } : {};
  const { seen, around } = await readPool(reader, pool, now, { ...proposal, ...repinned });
  const proposed = proposal.pool !== undefined || proposal.network !== undefined || digest !== undefined;
  return { plan: planView(seen, { around, proposed }), notes: around ? notesOf(around) : [] };
}

function pinnedTo(pool: ResultityNodePool, pin: string): ResultityNodePool {
  const { template } = pool.spec;
  const spec = { ...template.spec, config: { ...template.spec.config, pin } };
  return { ...pool, spec: { ...pool.spec, template: { ...template, spec } } };
}

async function planNetworkOf(
  reader: Reader,
  network: ResultityNetwork,
  now: number,
  proposal: Proposal,
  poolsNow: ReadonlyMap<string, ResultityNodePool> = new Map(),
  nodesNow: ReadonlyMap<string, ResultityNode> = new Map(),
): Promise<PlansView> {
  const { namespace, name } = network.metadata;
  const [{ items: poolList }, { items: nodeList }] = await Promise.all([
    reader.list(pools, { namespace }),
    reader.list(nodes, { namespace }),
  ]);
  const around = await readSurroundings(reader, network, nodeList, now, proposal);
  const notes: string[] = [...notesOf(around)];
  const plans: PlanView[] = [];
  for (const pool of poolList.filter(({ spec }) => spec.template.spec.networkRef.name === name)) {
    const { pin } = pool.spec.template.spec.config ?? {};
    const after = poolsNow.get(keyOf(pool));
    if (pin !== undefined && !after && proposal.digest !== undefined)
      notes.push(
        `pool ${pool.metadata.name} stays at its pin ${pin}: kubectl resultity rollout follow ${pool.metadata.name} -n ${namespace} ends that`,
      );
    const about = { ...proposal, ...(after ? { pool: after } : {}) };
    const { seen, around: of } = await readPool(reader, pool, now, about, nodeList);
    plans.push(
      planView(seen, { around: of, proposed: Object.keys(proposal).length > 0 || after !== undefined }),
    );
  }
  const alone = nodeList.filter(
    (node) => node.spec.networkRef.name === name && controllerOf(node)?.kind !== poolKind.kind,
  );
  const outlooks = new Outlooks(around, now);
  const nodePlans = alone.map((node) => {
    return planAlone(node, nodesNow.get(keyOf(node)) ?? node, around, outlooks);
  });
  return { pools: plans, nodes: nodePlans, notes };
}

async function planNodeOf(
  reader: Reader,
  before: ResultityNode | undefined,
  after: ResultityNode,
  now: number,
  proposal: Proposal,
): Promise<PlansView> {
  const { namespace, name } = after.metadata;
  const network = await reader.find(networks, { namespace, name: after.spec.networkRef.name });
  if (!network) {
    const why = `there is no ResultityNetwork ${after.spec.networkRef.name} in namespace ${namespace}: create it`;
    const refused = { reason: "NetworkNotFound", message: why };
    return {
      pools: [],
      nodes: [{ node: name, does: "none", steps: [], interrupts: false, refused }],
      notes: [],
    };
  }
  const { items } = await reader.list(nodes, { namespace });
  const around = await readSurroundings(reader, network, items, now, proposal);
  const plan = planAlone(before ?? after, after, around, new Outlooks(around, now));
  return { pools: [], nodes: [plan], notes: notesOf(around) };
}

/** A node that has no pool moves by itself: to its pin, else to what its network is at. */
function planAlone(
  before: ResultityNode,
  after: ResultityNode,
  around: Surroundings,
  outlooks: Outlooks,
): NodePlan {
  const { config } = around;
  const pin = after.spec.config?.pin;
  const applied = before.status?.config?.applied;
  const plan = outlooks.plan(before, after.spec, pin ?? config.current);
  const edited = JSON.stringify(before.spec) !== JSON.stringify(after.spec);
  const waits = plan.interrupts && !config.mayRestart && !edited && applied !== (pin ?? config.current);
  const held: HeldBy | undefined = after.spec.replicas === 0 ? "parked" : waits ? "window" : undefined;
  return held === undefined || plan.does === "none" ? plan : { ...plan, held };
}

function notesOf({ problem, config }: Surroundings): readonly string[] {
  const asks =
    config.current === undefined ? undefined : config.snapshots.get(config.current)?.min_agent_version;
  const oldest = [...config.snapshots.values()].map((snapshot) => snapshot.min_agent_version);
  return [
    ...(problem === undefined
      ? []
      : [
          `what configs do to nodes is not known here, so each move counts as one that interrupts jobs: ${problem}`,
        ]),
    ...(asks !== undefined && oldest.some((version) => version !== asks)
      ? [
          `the config asks for agent ${asks} or newer: an older one refuses to stage it (StageFailed), and its node serves on as it is`,
        ]
      : []),
  ];
}
