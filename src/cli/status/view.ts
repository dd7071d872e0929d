import { findCondition } from "../../api/v1alpha1/conditions.ts";
import type { Kind } from "../../api/v1alpha1/kinds.ts";
import { networkKind, nodeKind, poolKind } from "../../api/v1alpha1/kinds.ts";
import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { controllerOf } from "../../kube/object.ts";
import { CliError } from "../errors.ts";
import { type Subject, shortRef } from "../subject.ts";
import { type Verdict, verdictOf } from "../verdict.ts";

/** What was listed. */
export interface Listed {
  readonly networks: readonly ResultityNetwork[];
  readonly pools: readonly ResultityNodePool[];
  readonly nodes: readonly ResultityNode[];
}

export interface NetworkRow {
  readonly namespace: string;
  readonly name: string;
  readonly environment: string;
  /** Digest that nodes move to. */
  readonly config?: string;
  readonly version?: string;
  readonly releaseSequence?: number;
  /** RFC 3339. */
  readonly expiresAt?: string;
  readonly pinned: boolean;
  readonly nodes?: { readonly total: number; readonly ready: number; readonly connected: number };
  readonly ready: Verdict;
}

export interface PoolRow {
  readonly namespace: string;
  readonly name: string;
  readonly network: string;
  readonly wanted: number;
  /** Those that a person, or want of capacity, has parked. */
  readonly parked: number;
  /** Nodes whose pod serves; that are in service; that have the newest template and config. */
  readonly readyNodes: number;
  readonly availableNodes: number;
  readonly updatedNodes: number;
  readonly target?: string;
  readonly waitingOn?: { readonly node: string; readonly reason: string; readonly since?: string };
  readonly paused: boolean;
  readonly ready: Verdict;
}

export interface NodeRow {
  readonly namespace: string;
  readonly name: string;
  readonly network: string;
  readonly pool?: string;
  readonly host?: string;
  readonly engine: string;
  /** Image that the kubelet runs. */
  readonly image?: string;
  readonly target?: string;
  readonly applied?: string;
  readonly connected: "True" | "False" | "Unknown";
  readonly ready: Verdict;
}

/** What `status` tells; with `-o json` as it is. */
export interface StatusView {
  readonly networks: readonly NetworkRow[];
  readonly pools: readonly PoolRow[];
  readonly nodes: readonly NodeRow[];
}

/** All that was listed, by namespace and name. */
export function statusView({ networks, pools, nodes }: Listed): StatusView {
  return {
    networks: networks.map(networkRow).sort(byName),
    pools: pools.map(poolRow).sort(byName),
    nodes: nodes.map(nodeRow).sort(byName),
  };
}

/** What has the name, and what belongs to it in either direction. @throws CliError NotFound */
export function narrow(listed: Listed, { kind, name }: Subject, namespace: string): Listed {
  const called =
    (wanted: Kind["kind"]) =>
    ({ metadata }: { readonly metadata: { readonly name: string } }) =>
      (kind === undefined || kind === wanted) && metadata.name === name;
  const networks = listed.networks.filter(called(networkKind.kind));
  const pools = listed.pools.filter(called(poolKind.kind));
  const nodes = listed.nodes.filter(called(nodeKind.kind));
  if (networks.length + pools.length + nodes.length === 0) throw notFound({ kind, name }, namespace);
  const networkNames = new Set(networks.map(({ metadata }) => metadata.name));
  const poolNames = new Set(pools.map(({ metadata }) => metadata.name));
  const allNodes = new Set([
    ...nodes,
    ...listed.nodes.filter(
      (node) => networkNames.has(node.spec.networkRef.name) || poolNames.has(poolOf(node) ?? ""),
    ),
  ]);
  const poolsOfNodes = new Set(nodes.map(poolOf));
  const allPools = listed.pools.filter(
    (pool) =>
      pools.includes(pool) || networkNames.has(networkOf(pool)) || poolsOfNodes.has(pool.metadata.name),
  );
  const named = new Set([...pools.map(networkOf), ...nodes.map(({ spec }) => spec.networkRef.name)]);
  return {
    networks: listed.networks.filter(
      (network) => networks.includes(network) || named.has(network.metadata.name),
    ),
    pools: allPools,
    nodes: [...allNodes],
  };
}

/** The error of a name that nothing has. */
export function notFound({ kind, name }: Subject, namespace: string): CliError {
  const what = kind ? shortRef(kind, name) : `network, pool or node "${name}"`;
  return new CliError(
    "NotFound",
    `there is no ${what} in namespace ${namespace}: "kubectl resultity status -n ${namespace}" shows what there is; -n chooses another namespace`,
  );
}

/** Name of the pool that controls a node. */
export function poolOf(node: ResultityNode): string | undefined {
  const owner = controllerOf(node);
  return owner?.kind === poolKind.kind ? owner.name : undefined;
}

const networkOf = (pool: ResultityNodePool): string => pool.spec.template.spec.networkRef.name;

const collator = new Intl.Collator("en", { numeric: true });

function byName(
  a: { readonly namespace: string; readonly name: string },
  b: { readonly namespace: string; readonly name: string },
): number {
  return collator.compare(a.namespace, b.namespace) || collator.compare(a.name, b.name);
}

function networkRow(network: ResultityNetwork): NetworkRow {
  const { metadata, spec, status } = network;
  const { config } = status ?? {};
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    environment: spec.environment,
    ...(config
      ? {
          config: config.digest,
          version: config.version,
          releaseSequence: config.releaseSequence,
          expiresAt: config.expiresAt,
        }
      : {}),
    pinned: spec.config.pin !== undefined,
    ...(status?.nodes ? { nodes: status.nodes } : {}),
    ready: verdictOf(network),
  };
}

function poolRow(pool: ResultityNodePool): PoolRow {
  const { metadata, spec, status } = pool;
  const { waitingOn, target } = status?.rollout ?? {};
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    network: networkOf(pool),
    wanted: spec.replicas,
    parked: status?.parkedReplicas ?? 0,
    readyNodes: status?.readyReplicas ?? 0,
    availableNodes: status?.availableReplicas ?? 0,
    updatedNodes: status?.updatedReplicas ?? 0,
    ...(target === undefined ? {} : { target }),
    ...(waitingOn
      ? {
          waitingOn: {
            node: waitingOn.node,
            reason: waitingOn.reason,
            ...(waitingOn.since === undefined ? {} : { since: waitingOn.since }),
          },
        }
      : {}),
    paused: spec.strategy.paused,
    ready: verdictOf(pool),
  };
}

function nodeRow(node: ResultityNode): NodeRow {
  const { metadata, spec, status } = node;
  const pool = poolOf(node);
  const { target, applied } = status?.config ?? {};
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    network: spec.networkRef.name,
    ...(pool === undefined ? {} : { pool }),
    ...(status?.hostName === undefined ? {} : { host: status.hostName }),
    engine: spec.runtime.engine,
    ...(status?.runtime ? { image: status.runtime.image } : {}),
    ...(target === undefined ? {} : { target }),
    ...(applied === undefined ? {} : { applied }),
    connected: findCondition(status?.conditions, "Connected")?.status ?? "Unknown",
    ready: verdictOf(node),
  };
}
