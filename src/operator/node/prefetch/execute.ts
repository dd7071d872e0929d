import { isKubeError, KubeError } from "../../../kube/errors.ts";
import type { Cache, Expectations } from "../../../kube/expectations.ts";
import { controllerOf, type Draft, keyOf, type ObjectRef } from "../../../kube/object.ts";
import { type Pod, pods, type Resource } from "../../../kube/resources.ts";
import { nodeManager } from "../../names.ts";
import type { NodeMemories } from "../memory.ts";
import type { NodeObservation } from "../observation.ts";
import type { Action } from "../plan.ts";
import { prefetchPod } from "./pod.ts";

type Options = { readonly signal: AbortSignal };

/** What of the executor's hands is needed here. */
export interface PrefetchHands {
  readonly context: {
    readonly client: {
      create(
        resource: Resource<Pod>,
        draft: Draft<Pod>,
        options: Options & { fieldManager: string },
      ): Promise<Pod>;
      get(resource: Resource<Pod>, ref: ObjectRef, options: Options): Promise<Pod>;
      delete(
        resource: Resource<Pod>,
        ref: ObjectRef,
        options: Options & { preconditions: { uid: string } },
      ): Promise<void>;
    };
    readonly caches: {
      readonly prefetches: Cache & { readonly store: { getByUid(uid: string): Pod | undefined } };
    };
  };
  readonly expectations: Expectations;
  readonly memories: NodeMemories;
}

/** Creates the pod that brings an image to a host; one that is there already serves as well. */
export async function startPrefetch(
  hands: PrefetchHands,
  { node, network, pod, host: { volumes } }: NodeObservation,
  { role, image, host, name }: Action & { type: "prefetch" },
  signal: AbortSignal,
): Promise<void> {
  const { context, expectations, memories } = hands;
  if (!network) return;
  const { namespace } = node.metadata;
  const options = { signal, fieldManager: nodeManager };
  const make = (base: string | undefined) =>
    context.client.create(pods, prefetchPod({ node, network, role, image, host, base }), options);
  let made: Pod;
  try {
    // The engine's image has a shell, and the host has it.
    made = await make(volumes ? pod?.runtime.image : undefined).catch((error: unknown) => {
      if (!volumes || !refusesVolumes(error)) throw error;
      memories.noVolumesOn("");
      return make(undefined);
    });
  } catch (error) {
    if (!isKubeError(error, "AlreadyExists")) throw error;
    made = await context.client.get(pods, { namespace, name }, { signal });
    if (controllerOf(made)?.uid !== network.metadata.uid) {
      throw new KubeError(
        "AlreadyExists",
        `a pod ${name} exists that the operator did not make: delete or rename it`,
        { reason: "Foreign", verb: "create", resource: "pods" },
      );
    }
  }
  expectations.wrote(keyOf(node), context.caches.prefetches, made);
}

/** An API server that does not know image volumes drops the source, and finds then that the volume has none. */
const refusesVolumes = (error: unknown): boolean =>
  isKubeError(error, "Invalid") && error.causes.some(({ field }) => field?.startsWith("spec.volumes"));

/** Deletes one that is of no use. */
export async function dropPrefetch(
  { context, expectations, memories }: PrefetchHands,
  { node }: NodeObservation,
  { name, uid, noVolumes }: Action & { type: "drop-prefetch" },
  signal: AbortSignal,
): Promise<void> {
  if (noVolumes !== undefined) memories.noVolumesOn(noVolumes);
  const { namespace } = node.metadata;
  try {
    await context.client.delete(pods, { namespace, name }, { preconditions: { uid }, signal });
  } catch (error) {
    if (!isKubeError(error, "NotFound", "Conflict")) throw error;
  }
  const seen = context.caches.prefetches.store.getByUid(uid);
  if (seen) expectations.deleted(keyOf(node), context.caches.prefetches, seen);
}
