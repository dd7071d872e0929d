import type { NodeSpec } from "../../api/v1alpha1/node.ts";
import type { CallOptions, Client } from "../../kube/client.ts";
import { KubeError } from "../../kube/errors.ts";
import type { Draft } from "../../kube/object.ts";
import { type Pod, pods } from "../../kube/resources.ts";

type Gpu = NodeSpec["gpu"];

/** What a pod has of its node's resource claims (Dynamic Resource Allocation): the claims, and the runtime's use of them. */
export function claimsOf({ claims = [] }: Gpu) {
  return {
    pod: claims.map(({ name, resourceClaimName, resourceClaimTemplateName }) => ({
      name,
      ...(resourceClaimName === undefined ? {} : { resourceClaimName }),
      ...(resourceClaimTemplateName === undefined ? {} : { resourceClaimTemplateName }),
    })),
    runtime: claims.map(({ name, request }) => ({ name, ...(request === undefined ? {} : { request }) })),
  };
}

/** The GPUs for people: `2 nvidia.com/gpu`, or the claims that give them. */
export function gpuText({ count, resourceName, claims = [] }: Gpu): string {
  if (claims.length === 0) return `${count} ${resourceName}`;
  const named = claims.map(({ resourceClaimName, resourceClaimTemplateName = "" }) =>
    resourceClaimName === undefined
      ? `ResourceClaimTemplate ${resourceClaimTemplateName}`
      : `ResourceClaim ${resourceClaimName}`,
  );
  return `the devices of ${named.join(" and ")}`;
}

/**
 * An API server that does not know resource claims drops them, and the engine would run without its GPUs: tried before a pod
 * is there.
 *
 * @throws {KubeError} `Invalid` where they are dropped; what the creation would answer.
 */
export async function checkClaimsServed(
  client: Pick<Client, "create">,
  draft: Draft<Pod>,
  options: CallOptions,
): Promise<void> {
  const wanted = draft.spec?.resourceClaims?.length ?? 0;
  if (wanted === 0) return;
  const tried = await client.create(pods, draft, { ...options, dryRun: true });
  if (tried.spec?.resourceClaims?.length === wanted) return;
  throw new KubeError(
    "Invalid",
    "spec.gpu.claims: this cluster does not serve resource claims (Kubernetes 1.34, or the feature gate DynamicResourceAllocation); name the GPUs by spec.gpu.resourceName",
    { verb: "create", resource: "pods" },
  );
}
