import { CodedError, messageOf } from "../lib/errors.ts";
import { isKubeError } from "../kube/errors.ts";
import { group } from "../api/v1alpha1/meta.ts";

/** `Usage`: the command line is wrong. `NotFound`, `Ambiguous`: no object, or several, of the name. */
export type CliErrorCode = "Usage" | "NotFound" | "Ambiguous";

/** What the user can mend. */
export class CliError extends CodedError<CliErrorCode> {}

/**
 * Anything thrown, as one message that says what to do.
 * @param server the API server that was asked, for what went wrong on the way to it
 */
export function explain(thrown: unknown, server: string): string {
  const message = messageOf(thrown);
  if (!isKubeError(thrown)) return message;
  switch (thrown.code) {
    case "Unavailable":
    case "Timeout":
      return `${message}: check that ${server} is the right cluster and can be reached (--context, --kubeconfig)`;
    case "Unauthorized":
      return `${message}: ${server} does not accept your credentials; log in again, or choose others with --context`;
    case "Forbidden":
      return ["create", "update", "patch"].includes(thrown.verb)
        ? `${message}: ask an administrator of the namespace for the ClusterRole edit (of which resultity-edit is a part), or for a network for admin`
        : `${message}: ask an administrator of the namespace for the ClusterRole view, of which resultity-view is a part`;
    case "NotFound":
      return thrown.verb === "list"
        ? `${message}: ${server} does not serve ${group}/v1alpha1; install it (kubectl apply -f manifests/install.yaml), or choose another cluster with --context`
        : message;
    default:
      return message;
  }
}
