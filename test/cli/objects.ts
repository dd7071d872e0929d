import type { Condition, NodeConditionType } from "../../src/api/v1alpha1/conditions.ts";
import type { NetworkStatus, ResultityNetwork } from "../../src/api/v1alpha1/network.ts";
import type { NodeStatus, ResultityNode } from "../../src/api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../src/api/v1alpha1/pool.ts";
import { networkOf } from "../operator/node/network.ts";
import { nodeOf } from "../operator/node/world.ts";

/** Wall time of all tests: an hour after the objects' conditions. */
export const now = Date.parse("2026-01-01T01:00:00Z");
export const digest = (letter: string): string => `sha256:${letter.repeat(64)}`;

/** A condition as of `2026-01-01T00:00:00Z`, given as `"False ImagePullFailed: the image …"`. */
export function condition<Type extends string>(type: Type, said: string): Condition<Type> {
  const match = /^(True|False|Unknown) (\w+)(?:: (.*))?$/.exec(said);
  const status = (["True", "False", "Unknown"] as const).find((word) => word === match?.[1]);
  if (!match || !status) throw new Error(`"${said}" is no condition`);
  return {
    type,
    status,
    reason: match[2] ?? "",
    message: match[3] ?? "",
    observedGeneration: 1,
    lastTransitionTime: "2026-01-01T00:00:00Z",
  };
}

export function node(
  name: string,
  ready: string,
  status: NodeStatus = {},
  more: Partial<Record<NodeConditionType, string>> = {},
): ResultityNode {
  const conditions = Object.entries({ ...more, Ready: ready }).map(([type, said]) =>
    condition(type as NodeConditionType, said),
  );
  return { ...nodeOf({}, name), status: { observedGeneration: 1, ...status, conditions } };
}

export function network(ready: string, status: NetworkStatus = {}): ResultityNetwork {
  return {
    ...networkOf(),
    status: { observedGeneration: 1, ...status, conditions: [condition("Ready", ready)] },
  };
}

/** `child` as one that the pool controls. */
export function controlledBy(pool: ResultityNodePool, child: ResultityNode): ResultityNode {
  const { apiVersion, kind, metadata } = pool;
  const owner = { apiVersion, kind, name: metadata.name, uid: metadata.uid, controller: true };
  return { ...child, metadata: { ...child.metadata, ownerReferences: [owner] } };
}
