import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import { poolNames } from "../../api/v1alpha1/names.ts";
import { identitySecretOf, networkKeyOf, type OperatorContext } from "../context.ts";
import { sizeText } from "../size.ts";
import type { AgentStatuses } from "./agent-status.ts";
import { type PodFacts, podFacts } from "./facts.ts";
import { mayLeave } from "./leave.ts";
import type { NodeMemories } from "./memory.ts";
import type { NodeObservation } from "./observation.ts";
import { hostView } from "./prefetch/observe.ts";
import { emptyHost } from "./prefetch/plan.ts";
import { fleetHealth } from "./recovery/fleet.ts";
import { hasTurn } from "./turn.ts";

export { hasNoCapacity } from "../capacity.ts";
export { type ContainerFacts, type PodFacts, podFacts } from "./facts.ts";
export type { NodeObservation } from "./observation.ts";

/** What a look at a node needs beside the caches. */
export interface Watched {
  readonly statuses: AgentStatuses;
  readonly memories: NodeMemories;
}

/** Gathers all that is known of a node, from memory alone; undefined when it is gone. */
export function observeNode(
  context: OperatorContext,
  { statuses, memories }: Watched,
  nodeKey: string,
): NodeObservation | undefined {
  const { caches, configs, fleet, clock } = context;
  const node = caches.nodes.store.get(nodeKey);
  if (!node) return undefined;
  const networkKey = networkKeyOf(node);
  const network = caches.networks.store.get(networkKey);
  const known = configs.get(networkKey);
  // What is known may be of a network of this name that is gone.
  const config = known && known.uid === network?.metadata.uid ? known : undefined;
  const live = caches.pods.store.get(nodeKey);
  const pod = live && podFacts(live, node);
  const nodeId = memories.of(nodeKey).identity?.nodeId ?? node.status?.nodeId;
  if (pod?.ready) memories.podReady(nodeKey);
  return {
    now: clock.now(),
    node,
    inPool: controllerOf(node)?.kind === poolNames.kind,
    network,
    config,
    pod,
    agent: statuses.view(nodeKey, pod?.uid),
    mustRead: pod && memories.mustRead(nodeKey, pod.uid),
    host: pod?.host === undefined ? emptyHost : hostView(context, memories, node, pod.host),
    nodeId,
    conflictsWith: olderTwin(context, node, nodeId),
    feed: nodeId === undefined ? undefined : fleet.get(networkKey, nodeId),
    feedLive: fleet.live(networkKey),
    recreateInMs: memories.recreateInMs(nodeKey),
    turn:
      !pod || !config || !network
        ? true
        : hasTurn(caches, memories, node, pod, config, network.spec.agent.image),
    isNeeded: () => !mayLeave(caches, memories, node),
    fleet:
      node.status?.recovery?.cause === undefined
        ? undefined
        : fleetHealth(caches, memories.recovery, node, targetOf(pod), clock.now()),
    hostLook: pod?.host === undefined ? undefined : memories.recovery.hostLook(pod.host),
    resizeRefused:
      pod && memories.resizeRefused(nodeKey, pod.uid, sizeText(node.spec.runtime.resources ?? {})),
  };
}

const targetOf = (pod: PodFacts | undefined): string | null =>
  pod?.desired.ok ? pod.desired.desired.target : null;

/** An older ResultityNode that has the same identity: by the Secret that it names, or by the id that it shows. */
function olderTwin(
  { caches }: OperatorContext,
  node: ResultityNode,
  nodeId: string | undefined,
): string | undefined {
  const { store } = caches.nodes;
  const { namespace } = node.metadata;
  const twins = [
    ...store.byIndex("identity", `${namespace}/${identitySecretOf(node)}`),
    ...(nodeId === undefined ? [] : store.byIndex("nodeId", nodeId)),
  ];
  const older = twins.find((twin) => isOlder(twin, node));
  return older && keyOf(older);
}

function isOlder(a: ResultityNode, b: ResultityNode): boolean {
  const [one, other] = [a.metadata, b.metadata];
  if (one.uid === other.uid || one.deletionTimestamp !== undefined) return false;
  // Times are whole seconds; the UID decides for those that were created together.
  return `${one.creationTimestamp} ${one.uid}` < `${other.creationTimestamp} ${other.uid}`;
}
