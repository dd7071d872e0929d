import { group, version } from "../api/v1alpha1/meta.ts";
import { networkNames, nodeNames, poolNames } from "../api/v1alpha1/names.ts";
import type { ResultityNetwork } from "../api/v1alpha1/network.ts";
import type { ResultityNode } from "../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../api/v1alpha1/pool.ts";
import type { Client } from "../kube/client.ts";
import type { EventRecorder } from "../kube/events.ts";
import { type Informer, informerOf } from "../kube/informer.ts";
import {
  type Pod,
  type PodDisruptionBudget,
  podDisruptionBudgets,
  pods,
  type Resource,
} from "../kube/resources.ts";
import { byOwnerUid } from "../kube/store.ts";
import type { Random } from "../lib/backoff.ts";
import type { Clock } from "../lib/clock.ts";
import type { Logger } from "../lib/logger.ts";
import type { Metrics } from "../lib/metrics.ts";
import { identitySecretName, networkLabel, nodeLabel, poolLabel, prefetchLabel } from "./names.ts";
import { trimPod } from "./trim.ts";
import type { Fleet, NetworkConfigs } from "./views.ts";

/** The group's kinds as the API server serves them. */
export const networks: Resource<ResultityNetwork> = {
  group,
  version,
  ...networkNames,
  namespaced: true,
};
export const nodes: Resource<ResultityNode> = {
  group,
  version,
  ...nodeNames,
  namespaced: true,
};
export const pools: Resource<ResultityNodePool> = {
  group,
  version,
  ...poolNames,
  namespaced: true,
};

/**
 * The objects that the controllers read, each watched once for all of them. Indexes: of nodes and pools
 * `network` (`namespace/name` of the ResultityNetwork), of nodes `owner` (UID), `identity` (`namespace/name` of the Secret) and `nodeId`; of
 * pods and budgets `owner`; of pods and prefetches `host` (`namespace/name` of the host), and of prefetches `network`. Of
 * pods they hold what {@link trimPod} keeps. Secrets and ConfigMaps are not cached: they are read by name where they are needed.
 */
export interface Caches {
  readonly networks: Informer<ResultityNetwork>;
  readonly nodes: Informer<ResultityNode>;
  readonly pools: Informer<ResultityNodePool>;
  /** Those with the label resultity.com/node. */
  readonly pods: Informer<Pod>;
  /** Pods with the label resultity.com/prefetch: they bring images to hosts. */
  readonly prefetches: Informer<Pod>;
  /** Those with the label resultity.com/pool. */
  readonly budgets: Informer<PodDisruptionBudget>;
}

/** What the controllers share. Made once by `cmd/operator.ts`, or by a test. */
export interface OperatorContext {
  /** Writes fail with NotLeader unless this process leads. */
  readonly client: Client;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly events: EventRecorder;
  readonly caches: Caches;
  /** Written by the network controller, read by the others. */
  readonly configs: NetworkConfigs;
  readonly fleet: Fleet;
}

/** A controller as `cmd/operator.ts` runs it: until `signal` aborts, and again when leadership comes back. */
export interface Runnable {
  run(signal: AbortSignal): Promise<void>;
}

/** `namespace/name` of the network that a node names. */
export function networkKeyOf(node: ResultityNode): string {
  return `${node.metadata.namespace}/${node.spec.networkRef.name}`;
}

/** Name of the Secret with the node's identity. */
export function identitySecretOf(node: ResultityNode): string {
  return node.spec.identity?.secretName ?? identitySecretName(node.metadata.name);
}

/** Index value of the host that a pod is on, within its namespace; none while it is on none. */
export const hostKeyOf = ({ metadata, spec }: Pod): readonly string[] =>
  spec?.nodeName ? [`${metadata.namespace}/${spec.nodeName}`] : [];

/**
 * Makes the caches. Nothing is read before their informers run.
 *
 * @param namespaces what is watched; all namespaces where it is empty.
 */
export function makeCaches(
  context: Pick<OperatorContext, "client" | "clock" | "random" | "logger" | "metrics">,
  namespaces: readonly string[] = [],
): Caches {
  const { client, clock, random, logger, metrics } = context;
  const shared = { client, clock, random, logger, metrics };
  const caches: Caches = {
    networks: informerOf({ ...shared, resource: networks }, namespaces),
    nodes: informerOf({ ...shared, resource: nodes }, namespaces),
    pools: informerOf({ ...shared, resource: pools }, namespaces),
    pods: informerOf({ ...shared, resource: pods, labelSelector: nodeLabel, trim: trimPod }, namespaces),
    prefetches: informerOf(
      { ...shared, resource: pods, labelSelector: prefetchLabel, trim: trimPod },
      namespaces,
    ),
    budgets: informerOf({ ...shared, resource: podDisruptionBudgets, labelSelector: poolLabel }, namespaces),
  };
  caches.pools.store.addIndex("network", ({ metadata, spec }) => [
    `${metadata.namespace}/${spec.template.spec.networkRef.name}`,
  ]);
  caches.nodes.store.addIndex("network", (node) => [networkKeyOf(node)]);
  caches.nodes.store.addIndex("owner", byOwnerUid);
  caches.nodes.store.addIndex("identity", (node) => [`${node.metadata.namespace}/${identitySecretOf(node)}`]);
  caches.nodes.store.addIndex("nodeId", ({ status }) => (status?.nodeId ? [status.nodeId] : []));
  caches.pods.store.addIndex("owner", byOwnerUid);
  caches.pods.store.addIndex("host", hostKeyOf);
  caches.prefetches.store.addIndex("host", hostKeyOf);
  caches.prefetches.store.addIndex("network", ({ metadata }) => [
    `${metadata.namespace}/${metadata.labels?.[networkLabel] ?? ""}`,
  ]);
  caches.budgets.store.addIndex("owner", byOwnerUid);
  return caches;
}
