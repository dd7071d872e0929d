import { type Client, type JsonPatchOperation, jsonPointer, testUnchanged } from "../../kube/client.ts";
import { isKubeError, KubeError } from "../../kube/errors.ts";
import type { Cache, Expectations } from "../../kube/expectations.ts";
import { keyOf } from "../../kube/object.ts";
import { type Pod, pods } from "../../kube/resources.ts";
import { messageOf } from "../../lib/errors.ts";
import { canonical } from "../hash.ts";
import { inputsHashAnnotation, nodeManager } from "../names.ts";
import { sizeOf, sizeText } from "../size.ts";
import { podInputsHash } from "./inputs.ts";
import type { NodeMemories } from "./memory.ts";
import type { NodeObservation } from "./observation.ts";
import { resourcesAnnotation, runtimeContainer } from "./pod-parts.ts";

/** What of the executor's hands is needed here. */
export interface ResizeHands {
  readonly context: { readonly client: Client; readonly caches: { readonly pods: Cache } };
  readonly expectations: Expectations;
  readonly memories: NodeMemories;
}

/** When to look again at a pod to which the API server does not give the new size: the plan then has another way. */
const soonMs = 1;

/**
 * Gives the running pod the CPU and memory of its node's spec, then says on the pod what it was made for. A crash between the
 * two has the first done again, which changes nothing. Returns when to look again, if the API server does not serve it or
 * finds that this pod cannot have it: that is remembered.
 *
 * @throws {KubeError} `Conflict` when the pod is another by now; what the policies of the namespace forbid.
 */
export async function resizePod(
  { context, expectations, memories }: ResizeHands,
  { node, config, pod: seen }: NodeObservation,
  signal: AbortSignal,
): Promise<number | undefined> {
  if (!config || !seen) return undefined;
  const { client, caches } = context;
  const { namespace, name } = node.metadata;
  const ref = { namespace, name };
  const resources = node.spec.runtime.resources ?? {};
  const options = { signal, fieldManager: nodeManager };
  // The cache keeps no resources, and what webhooks have added to them stays.
  const live = await client.get(pods, ref, { signal });
  if (live.metadata.uid !== seen.uid)
    throw new KubeError("Conflict", `pod ${name} is another than the one that was looked at`);
  try {
    const operations = [...testUnchanged(live), ...sizeOperations(live, sizeOf(resources))];
    for (const dryRun of [true, false])
      await client.jsonPatch(pods, ref, operations, { ...options, subresource: "resize", dryRun });
  } catch (error) {
    const lost = isKubeError(error, "Invalid") && error.causes.length === 0;
    if (lost) throw new KubeError("Conflict", `pod ${name} changed since it was looked at`, { cause: error });
    if (!isForGood(error)) throw error;
    memories.refuseResize(keyOf(node), seen.uid, sizeText(resources), messageOf(error));
    return soonMs;
  }
  const said = {
    [inputsHashAnnotation]: podInputsHash(node, config),
    [resourcesAnnotation]: canonical(resources),
  };
  const annotated = await client.jsonPatch(
    pods,
    ref,
    [
      { op: "test", path: "/metadata/uid", value: seen.uid },
      ...Object.entries(said).map(
        ([key, value]): JsonPatchOperation => ({
          op: "add",
          path: jsonPointer("metadata", "annotations", key),
          value,
        }),
      ),
    ],
    options,
  );
  expectations.wrote(keyOf(node), caches.pods, annotated);
  return undefined;
}

/**
 * Whether this pod cannot have the size where it is: the API server does not serve `pods/resize`, its validation refuses the
 * change, or (1.37 on) its admission finds that the host is too small.
 */
function isForGood(error: unknown): error is KubeError {
  if (isKubeError(error, "NotFound", "MethodNotAllowed", "Invalid")) return true;
  const told = ["NodeCapacity", "UnsupportedPlatform"];
  return isKubeError(error, "Forbidden") && error.causes.some(({ reason = "" }) => told.includes(reason));
}

function sizeOperations({ spec }: Pod, size: ReturnType<typeof sizeOf>): JsonPatchOperation[] {
  const at = spec?.containers.findIndex(({ name }) => name === runtimeContainer) ?? -1;
  const resources = spec?.containers[at]?.resources ?? {};
  const value = {
    ...resources,
    requests: { ...resources.requests, ...size.requests },
    limits: { ...resources.limits, ...size.limits },
  };
  return [
    { op: "test", path: jsonPointer("spec", "containers", at, "name"), value: runtimeContainer },
    { op: "add", path: jsonPointer("spec", "containers", at, "resources"), value },
  ];
}
