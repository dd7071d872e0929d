import { Controller } from "../../../kube/controller.ts";
import { Expectations } from "../../../kube/expectations.ts";
import { isKubeError } from "../../../kube/errors.ts";
import { controllerOf, keyOf } from "../../../kube/object.ts";
import { exceptStatus, mapped, own } from "../../../kube/sources.ts";
import { type Pod, pods } from "../../../kube/resources.ts";
import { poolNames } from "../../../api/v1alpha1/names.ts";
import { hostKeyOf, networkKeyOf, type OperatorContext, type Runnable } from "../../context.ts";
import { networkLabel } from "../../names.ts";
import { podFacts } from "../facts.ts";
import { imagesAhead } from "../scene.ts";
import { prefetchFacts } from "./facts.ts";

/**
 * Takes away what brought an image to a host once no node there has yet to run it. Nodes make them; that nobody needs one any
 * more is told from the objects alone, so one is left behind neither by a crash nor by a node that goes.
 */
export function prefetchController(context: OperatorContext): Runnable {
  const { caches, configs, clock, random, logger, metrics } = context;
  const onHost = (pod: Pod) =>
    hostKeyOf(pod).flatMap((host) => caches.prefetches.store.byIndex("host", host).map(keyOf));
  const ofNetwork = (networkKey: string) => caches.prefetches.store.byIndex("network", networkKey).map(keyOf);
  const expectations = new Expectations(clock);
  return new Controller({
    name: "prefetch",
    expectations,
    sources: [
      own(caches.prefetches, exceptStatus),
      mapped(caches.pods, onHost),
      mapped(caches.nodes, (node) => {
        const pod = caches.pods.store.get(keyOf(node));
        return pod ? onHost(pod) : [];
      }),
      mapped(caches.networks, (network) => ofNetwork(keyOf(network)), exceptStatus),
      {
        name: "network configs",
        synced: () => caches.networks.synced(),
        attach: (add) =>
          configs.subscribe((networkKey) => {
            for (const key of ofNetwork(networkKey))
              add(key, `network ${networkKey}: what is verified changed`);
          }),
      },
    ],
    reconcile: (key, signal) => collect(context, expectations, key, signal),
    concurrency: 4,
    clock,
    random,
    logger,
    metrics,
  });
}

async function collect(
  { client, caches, logger, ...context }: OperatorContext,
  expectations: Expectations,
  key: string,
  signal: AbortSignal,
): Promise<void> {
  const prefetch = caches.prefetches.store.get(key);
  if (!prefetch) expectations.forget(key);
  if (!prefetch || prefetch.metadata.deletionTimestamp !== undefined) return;
  if (isNeeded({ caches, ...context }, prefetch)) return;
  const { namespace, name, uid } = prefetch.metadata;
  logger.info(
    { pod: key, image: prefetchFacts(prefetch).image },
    "no node on the host has yet to run the image: deleted",
  );
  try {
    await client.delete(pods, { namespace, name }, { preconditions: { uid }, signal });
  } catch (error) {
    if (!isKubeError(error, "NotFound", "Conflict")) throw error;
  }
  expectations.deleted(key, caches.prefetches, prefetch);
}

/** Whether a node on the host has yet to run the image, or might. */
function isNeeded(
  { caches, configs, clock }: Pick<OperatorContext, "caches" | "configs" | "clock">,
  prefetch: Pod,
): boolean {
  const { image } = prefetchFacts(prefetch);
  const networkName = prefetch.metadata.labels?.[networkLabel];
  const now = clock.now();
  return hostKeyOf(prefetch)
    .flatMap((host) => caches.pods.store.byIndex("host", host))
    .some((pod) => {
      const node = caches.nodes.store.get(keyOf(pod));
      if (!node || node.spec.networkRef.name !== networkName) return false;
      const network = caches.networks.store.get(networkKeyOf(node));
      const known = configs.get(networkKeyOf(node));
      const config = known && known.uid === network?.metadata.uid ? known : undefined;
      const inPool = controllerOf(node)?.kind === poolNames.kind;
      const ahead = imagesAhead({ node, inPool, network, config, now }, podFacts(pod, node));
      return ahead === undefined || ahead.includes(image);
    });
}
