/**
 * Condition types and reasons of the three kinds, and the one way to set a condition. Polarity: `Draining` and
 * `Degraded` are well when False, all others when True. `Ready` sums the others up: its reason and message are those
 * of the first condition that is not well, so one column answers "is it well, and if not why".
 */
export const networkConditionTypes = ["Reachable", "Trusted", "Fresh", "Ready"] as const;
export const nodeConditionTypes = [
  "Scheduled",
  "ConfigApplied",
  "RuntimeReady",
  "Registered",
  "Connected",
  "Draining",
  "Degraded",
  "Ready",
] as const;
export const poolConditionTypes = ["Available", "Progressing", "Ready"] as const;

export type NetworkConditionType = (typeof networkConditionTypes)[number];
export type NodeConditionType = (typeof nodeConditionTypes)[number];
export type PoolConditionType = (typeof poolConditionTypes)[number];

/** Reasons a ResultityNetwork gives. */
export const networkReasons = [
  // Reachable
  "EndpointAnswers",
  "EndpointUnreachable",
  "EndpointRefused",
  // Trusted
  "Verified",
  "RootNotFound",
  "RootInvalid",
  "SignatureInvalid",
  "ThresholdNotMet",
  "OtherNetwork",
  "SequenceWentBack",
  "SnapshotInvalid",
  "PinNotAllowed",
  // Fresh
  "Current",
  "ExpiresSoon",
  "ApprovalNeeded",
  "Expired",
  // Ready
  "AllWell",
  "AccountSecretNotFound",
  "AccountSecretInvalid",
  "TooManyDigests",
  // any
  "NotYetKnown",
  "PermissionMissing",
  "SpecInvalid",
] as const;

/** Reasons a ResultityNode gives. */
export const nodeReasons = [
  // Scheduled
  "PodScheduled",
  "PodPending",
  "PodNotCreated",
  "Unschedulable",
  "Parked",
  "ResizeDeferred",
  "ResizeInfeasible",
  "ResizeFailed",
  "ResizeRefused",
  "NoCapacity",
  // ConfigApplied
  "Applied",
  "NetworkNotFound",
  "NetworkNotTrusted",
  "NoConfig",
  "NoRuntimeForEngine",
  "ImageNotInConfig",
  "ImageNotAllowed",
  "ModelNotAllowed",
  "DigestNotAllowed",
  "Waiting",
  "Staging",
  "StageFailed",
  "PrefetchFailed",
  "HostDiskFull",
  "Moving",
  // RuntimeReady
  "ModelsLoaded",
  "ImagePullFailed",
  "AgentStarting",
  "AgentFailed",
  "EngineStarting",
  "EngineFailed",
  "PodNotReady",
  // Registered
  "AccountBound",
  "NotRegistered",
  "RegistrationRefused",
  "KeyRevoked",
  // Connected
  "SessionOpen",
  "SessionClosed",
  "FeedUnavailable",
  "Banned",
  // Draining
  "NotDraining",
  "ConfigChange",
  "ScaleDown",
  "SpecChange",
  "Evicted",
  "Deleted",
  // Degraded
  "NothingWrong",
  "PodFailed",
  "PodCreateRefused",
  "IdentityConflict",
  "IdentitySecretInvalid",
  "AgentUnreachable",
  "HostLost",
  "GPUFault",
  "EphemeralContainer",
  // Ready
  "AllWell",
  // any
  "NotYetKnown",
  "PermissionMissing",
  "SpecInvalid",
] as const;

/** Reasons a ResultityNodePool gives. */
export const poolReasons = [
  // Available
  "MinimumAvailable",
  "MinimumUnavailable",
  "ScaledToZero",
  "NoCapacity",
  // Progressing
  "NewestConfig",
  "RollingOut",
  "Scaling",
  "Paused",
  "Partitioned",
  "Canary",
  "CanaryFailed",
  "RolledBack",
  "MaintenanceWindow",
  "WaitingForNode",
  "Stalled",
  "NetworkNotFound",
  "NetworkNotTrusted",
  // Ready
  "AllWell",
  // any
  "NotYetKnown",
  "PermissionMissing",
  "SpecInvalid",
] as const;

export type NetworkReason = (typeof networkReasons)[number];
export type NodeReason = (typeof nodeReasons)[number];
export type PoolReason = (typeof poolReasons)[number];

/** Longest message that a condition may carry; {@link setCondition} cuts what is longer. */
export const maxMessageLength = 2048;

/** One condition, as it stands in a status. */
export interface Condition<Type extends string = string> {
  type: Type;
  status: "True" | "False" | "Unknown";
  observedGeneration: number;
  /** RFC 3339 in whole seconds, as Kubernetes writes it. */
  lastTransitionTime: string;
  reason: string;
  message: string;
}

/** A condition as a controller computes it: without the time, which follows from what was there before. */
export interface NewCondition<Type extends string, Reason extends string> {
  readonly type: Type;
  readonly status: Condition["status"];
  readonly reason: Reason;
  readonly message: string;
  readonly observedGeneration: number;
}

/**
 * `current` with `next` in place of the condition of its type, or added at the end. `lastTransitionTime` becomes `now`
 * only when the status changed. Answers `current` itself when nothing changed, so a caller can tell by identity that
 * there is nothing to write.
 * @param now Wall time in milliseconds since the Unix epoch.
 */
export function setCondition<Type extends string, Reason extends string>(
  current: readonly Condition<Type>[],
  next: NewCondition<NoInfer<Type>, Reason>,
  now: number,
): readonly Condition<Type>[] {
  const at = current.findIndex(({ type }) => type === next.type);
  const before = current[at];
  const condition: Condition<Type> = {
    type: next.type,
    status: next.status,
    observedGeneration: next.observedGeneration,
    lastTransitionTime: before?.status === next.status ? before.lastTransitionTime : rfc3339(now),
    reason: next.reason,
    message: truncate(next.message),
  };
  if (before === undefined) return [...current, condition];
  const same =
    before.status === condition.status &&
    before.reason === condition.reason &&
    before.message === condition.message &&
    before.observedGeneration === condition.observedGeneration;
  return same ? current : current.with(at, condition);
}

/** The condition of `type`, or undefined while nobody has set it. */
export function findCondition<Type extends string>(
  list: readonly Condition<Type>[] | undefined,
  type: NoInfer<Type>,
): Condition<Type> | undefined {
  return list?.find((condition) => condition.type === type);
}

/** Whether the condition of `type` is there and True. */
export function isTrue<Type extends string>(
  list: readonly Condition<Type>[] | undefined,
  type: NoInfer<Type>,
): boolean {
  return findCondition(list, type)?.status === "True";
}

/** Wall time in ms as RFC 3339 in whole seconds, as Kubernetes writes it. */
export function rfc3339(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, "Z");
}

function truncate(message: string): string {
  return message.length <= maxMessageLength ? message : `${message.slice(0, maxMessageLength - 1)}…`;
}
