/**
 * What the kinds are called, and the few values beside it that programs need at run time without the schemas: those take 10 MiB
 * of a process that loads them.
 */
export const networkNames = { kind: "ResultityNetwork", plural: "resultitynetworks" } as const;
export const nodeNames = { kind: "ResultityNode", plural: "resultitynodes" } as const;
export const poolNames = { kind: "ResultityNodePool", plural: "resultitynodepools" } as const;

/** Longest `spec.drain.timeoutSeconds`. The pod's termination grace period must be longer, since it cannot change. */
export const maxDrainTimeoutSeconds = 3600;

/** Children are `<pool>-<n>` with n from 0 to this less one. */
export const maxPoolReplicas = 10_000;

/** The PriorityClass of pods on lent GPUs. It is installed with the operator (manifests/operator). */
export const opportunisticPriorityClass = "resultity-opportunistic";
