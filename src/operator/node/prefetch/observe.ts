import type { ResultityNode } from "../../../api/v1alpha1/node.ts";
import type { PoolSpec } from "../../../api/v1alpha1/pool.ts";
import { controllerOf, keyOf } from "../../../kube/object.ts";
import { networkKeyOf, type OperatorContext } from "../../context.ts";
import { bytesOf } from "../../quantity.ts";
import { defaultParallel } from "../../pool/window.ts";
import { agentContainer, runtimeContainer } from "../pod-parts.ts";
import type { NodeMemories } from "../memory.ts";
import { type PrefetchFacts, prefetchFacts } from "./facts.ts";
import type { HostView } from "./plan.ts";

type Prefetch = NonNullable<PoolSpec["strategy"]["rollingUpdate"]["prefetch"]>;

/** What the caches show of the images of a host, for one of its nodes. */
export function hostView(
  { caches }: OperatorContext,
  memories: NodeMemories,
  node: ResultityNode,
  host: string,
): HostView {
  const hostKey = `${node.metadata.namespace}/${host}`;
  const prefetches = caches.prefetches.store.byIndex("host", hostKey).map(prefetchFacts);
  const others = caches.pods.store.byIndex("host", hostKey).filter((pod) => keyOf(pod) !== keyOf(node));
  const { minFreeDisk } = prefetchOf(caches, node);
  return {
    images: others.flatMap(runningImages),
    prefetches,
    room: hasRoom(caches, memories, node),
    volumes: memories.volumesOn(host),
    ...(minFreeDisk === undefined ? {} : { minFreeBytes: bytesOf(minFreeDisk) }),
  };
}

/** Images that run in a pod of ours as its spec names them. */
function runningImages({ spec, status }: Parameters<typeof prefetchFacts>[0]): readonly string[] {
  const pairs = [
    [agentContainer, spec?.initContainers, status?.initContainerStatuses],
    [runtimeContainer, spec?.containers, status?.containerStatuses],
  ] as const;
  return pairs.flatMap(([name, specs, statuses]) => {
    const image = specs?.find((container) => container.name === name)?.image;
    const seen = statuses?.find((container) => container.name === name);
    // The spec may be newer than what runs.
    const digest = image?.split("@")[1];
    const runs = seen?.state?.running !== undefined && digest !== undefined;
    return runs && [seen.image, seen.imageID].some((of) => of?.includes(digest)) ? [image ?? ""] : [];
  });
}

/** What the node's pool asks for. */
function prefetchOf(caches: OperatorContext["caches"], node: ResultityNode): Partial<Prefetch> {
  const owner = controllerOf(node);
  return (owner && caches.pools.store.getByUid(owner.uid)?.spec.strategy.rollingUpdate.prefetch) ?? {};
}

function hasRoom(caches: OperatorContext["caches"], memories: NodeMemories, node: ResultityNode): boolean {
  const networkKey = networkKeyOf(node);
  const { namespace } = node.metadata;
  const most = prefetchOf(caches, node).maxParallel ?? defaultParallel;
  const begun = memories.fetchesBegun(
    networkKey,
    (name) => caches.prefetches.store.get(`${namespace}/${name}`) !== undefined,
  );
  const busy = (state: PrefetchFacts["state"]) => state !== "present" && state !== "going";
  const seen = caches.prefetches.store.byIndex("network", networkKey).map(prefetchFacts);
  return seen.filter(({ state }) => busy(state)).length + begun < most;
}
