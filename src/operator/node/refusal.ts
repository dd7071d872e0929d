import type { NodeConditionType, NodeReason } from "../../api/v1alpha1/conditions.ts";
import { opportunisticPriorityClass } from "../../api/v1alpha1/names.ts";
import { isKubeError } from "../../kube/errors.ts";
import { IdentityError } from "./identity.ts";
import type { NodeObservation } from "./observation.ts";
import type { Action, Notes } from "./plan.ts";

/** The condition for a refusal that trying again soon would not change; undefined for all else. */
export function refusalOf(o: NodeObservation, action: Action, error: unknown): Notes | undefined {
  const about: NodeConditionType =
    action.type === "rehearse-image" || action.type === "patch-image" || action.type === "prefetch"
      ? "ConfigApplied"
      : action.type === "resize"
        ? "Scheduled"
        : "Degraded";
  // A pod that is not given another size serves on.
  const note = (reason: NodeReason, message: string): Notes => ({
    [about]: { status: about === "ConfigApplied" ? "False" : "True", reason, message },
  });
  if (error instanceof IdentityError) return note("IdentitySecretInvalid", error.message);
  if (!isKubeError(error, "Forbidden", "Invalid", "BadRequest", "AlreadyExists")) return undefined;
  if (error.code === "AlreadyExists" && error.reason !== "Foreign") return undefined;
  // A namespace that is being deleted refuses everything new; so does the owner's end, soon.
  if (isKubeError(error, "Forbidden") && error.causes.some(({ reason }) => reason === "NamespaceTerminating"))
    return {};
  const missing = / cannot (\w+) resource "([^"]+)"/.exec(error.message);
  if (missing) {
    return note(
      "PermissionMissing",
      `the operator may not ${missing[1]} ${missing[2]}: apply the RBAC of manifests/operator`,
    );
  }
  const fix = error.message.includes(`no PriorityClass with name ${opportunisticPriorityClass}`)
    ? "apply manifests/operator/15-priority-class.yaml, which belongs to the installation"
    : "change what the message names in the ResultityNode's spec or the namespace's policies";
  const reason =
    action.type === "create-pod"
      ? "PodCreateRefused"
      : action.type === "prefetch"
        ? "PrefetchFailed"
        : action.type === "resize"
          ? "ResizeRefused"
          : "SpecInvalid";
  return note(reason, `${error.message} (node ${o.node.metadata.name}): ${fix}`);
}
