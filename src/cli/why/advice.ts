import type { NetworkReason, NodeReason, PoolReason } from "../../api/v1alpha1/conditions.ts";
import type { Advice } from "./view.ts";

/** What to look at or do, by the reason of a condition that is not well, where its message alone does not get one there. */

const operatorLog = "kubectl -n resultity-system logs deployment/resultity-operator";

export const nodeAdvice: Readonly<Partial<Record<NodeReason, Advice>>> = {
  PodPending: ({ namespace, name }) => `kubectl -n ${namespace} describe pod ${name}`,
  PodNotCreated: ({ namespace, name }) =>
    `it is made once the config is there (see ConfigApplied); if nothing else is wrong: kubectl -n ${namespace} get events --field-selector regarding.name=${name}`,
  Unschedulable: ({ namespace, name }) => `kubectl -n ${namespace} describe pod ${name}`,
  Parked: ({ namespace, name }) => `to run it: kubectl resultity unpark ${name} -n ${namespace}`,
  NoCapacity: () => "nothing: it is parked until GPUs are lent to it, and comes back by itself",
  StageFailed: ({ namespace, name }) => `kubectl -n ${namespace} logs ${name} -c agent`,
  PrefetchFailed: ({ namespace }) => `kubectl -n ${namespace} describe pods -l resultity.com/prefetch`,
  ImagePullFailed: ({ namespace, name }) => `kubectl -n ${namespace} describe pod ${name}`,
  AgentStarting: ({ namespace, name }) => `kubectl -n ${namespace} logs ${name} -c agent`,
  AgentFailed: ({ namespace, name }) => `kubectl -n ${namespace} logs ${name} -c agent --previous`,
  EngineStarting: ({ namespace, name }) => `kubectl -n ${namespace} logs ${name} -c runtime`,
  EngineFailed: ({ namespace, name }) => `kubectl -n ${namespace} logs ${name} -c runtime`,
  PodNotReady: ({ namespace, name }) => `kubectl -n ${namespace} describe pod ${name}`,
  NotRegistered: ({ namespace, name }) => `kubectl -n ${namespace} logs ${name} -c agent`,
  RegistrationRefused: ({ namespace, name }) => `kubectl -n ${namespace} logs ${name} -c agent`,
  SessionClosed: ({ namespace, name }) => `kubectl -n ${namespace} logs ${name} -c agent`,
  FeedUnavailable: () => `see the network's conditions, and the operator's log: ${operatorLog}`,
  Banned: () => "ask the network why, and to lift it",
  PodCreateRefused: ({ namespace, name }) =>
    `kubectl -n ${namespace} get events --field-selector regarding.name=${name}`,
  PodFailed: ({ namespace, name }) =>
    `kubectl -n ${namespace} get events --field-selector regarding.name=${name}`,
  HostLost: () => "kubectl get nodes",
  GPUFault: ({ namespace, name }) =>
    `see which GPU and what the driver said: kubectl -n ${namespace} get pod ${name} -o jsonpath='{.status.containerStatuses[*].allocatedResourcesStatus}'; a host whose GPUs stay faulty wants a reset or a repair, and is kept free by kubectl cordon meanwhile`,
  AgentUnreachable: ({ namespace, name }) => `kubectl -n ${namespace} logs ${name} -c agent`,
  EphemeralContainer: ({ namespace, name }) => `kubectl -n ${namespace} describe pod ${name}`,
  HostDiskFull: ({ namespace }) =>
    `make room on the host, or lower strategy.rollingUpdate.prefetch.minFreeDisk of the pool: kubectl -n ${namespace} describe pods -l resultity.com/prefetch`,
  KeyRevoked: () => "ask the network why, or give the node another identity",
  NotYetKnown: () => operatorLog,
  PermissionMissing: () => "apply the operator's rights again: kubectl apply -f manifests/install.yaml",
};

/** Reasons whose message says by itself what to do. */
export const plainNodeReasons: ReadonlySet<NodeReason> = new Set([
  "NetworkNotFound",
  "NetworkNotTrusted",
  "NoConfig",
  "NoRuntimeForEngine",
  "ImageNotInConfig",
  "ImageNotAllowed",
  "ModelNotAllowed",
  "DigestNotAllowed",
  "ResizeDeferred",
  "ResizeInfeasible",
  "ResizeFailed",
  "ResizeRefused",
  "IdentityConflict",
  "IdentitySecretInvalid",
  "SpecInvalid",
]);

export const poolAdvice: Readonly<Partial<Record<PoolReason, Advice>>> = {
  MinimumUnavailable: ({ namespace, name }) =>
    `see which nodes are out: kubectl resultity status ${name} -n ${namespace}`,
  Paused: ({ namespace, name }) => `kubectl resultity rollout resume ${name} -n ${namespace}`,
  Stalled: ({ namespace, name }) => `kubectl resultity status ${name} -n ${namespace}`,
  NotYetKnown: () => operatorLog,
  PermissionMissing: () => "apply the operator's rights again: kubectl apply -f manifests/install.yaml",
};

export const networkAdvice: Readonly<Partial<Record<NetworkReason, Advice>>> = {
  EndpointUnreachable: () =>
    "try the address from a pod of the operator's namespace; a NetworkPolicy or proxy may be in the way",
  SequenceWentBack: () => "ask the network: an old release is served, by mistake or by somebody else",
  SignatureInvalid: () => "do not change spec.trust to make this pass: ask the network which root is theirs",
  ThresholdNotMet: () => "ask the network: too few of its keys have signed",
  NotYetKnown: () => operatorLog,
  PermissionMissing: () => "apply the operator's rights again: kubectl apply -f manifests/install.yaml",
};

/** The advice of a reason. Reasons of a later version of the operator have none here. */
export function adviceOf<Reason extends string>(
  table: Readonly<Partial<Record<Reason, Advice>>>,
  reason: string,
  object: Parameters<Advice>[0],
): string | undefined {
  const found = Object.entries<Advice | undefined>(table).find(([known]) => known === reason);
  return found?.[1]?.(object);
}
