import type { PoolReason } from "../../api/v1alpha1/conditions.ts";
import { isKubeError } from "../../kube/errors.ts";

/** What the API server refuses until a person has mended it, as a condition says it. */
export interface Refused {
  readonly reason: PoolReason;
  readonly message: string;
}

/** How long to wait before what was refused is tried again, milliseconds. */
export const refusedMs = 30_000;

/** What trying again soon would not change; undefined for all else. */
export function refusalOf(error: unknown): Refused | undefined {
  if (!isKubeError(error, "Forbidden", "Invalid")) return undefined;
  // A namespace that is being deleted refuses everything new, and the pool ends with it.
  if (error.causes.some(({ reason }) => reason === "NamespaceTerminating")) return undefined;
  const missing = / cannot (\w+) resource "([^"]+)"/.exec(error.message);
  if (missing) {
    const message = `the operator may not ${missing[1]} ${missing[2]}: apply the RBAC of manifests/operator`;
    return { reason: "PermissionMissing", message };
  }
  const message = `${error.message}: change what the message names in the pool's template or the namespace's policies`;
  return { reason: "SpecInvalid", message };
}
