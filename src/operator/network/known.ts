import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { Release } from "../../protocol/config/release.ts";
import type { Snapshot } from "../../protocol/config/snapshot.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { takeInputs } from "./inputs.ts";
import { bytesIn, newKnowledge } from "./knowledge.ts";
import type { Inputs } from "./observe.ts";
import { Refusal } from "./refusal.ts";

/** What of a network's config can be believed by who reads the spec and the ConfigMap, and nothing else. */
export interface KnownConfig {
  readonly release: Release | undefined;
  readonly snapshots: ReadonlyMap<ConfigDigest, Snapshot>;
  /** Size of a snapshot; undefined for one that is not there. */
  readonly bytes: (digest: ConfigDigest) => number | undefined;
  /** Why there is less than there should be; undefined where nothing is amiss. */
  readonly problem: string | undefined;
}

/** Reads what the operator has put into the network's ConfigMap, with the operator's own checks: whoever alters it convinces nobody. */
export function knownConfig(network: ResultityNetwork, inputs: Omit<Inputs, "accountKey">): KnownConfig {
  const knowledge = newKnowledge(network.metadata.uid, network.status?.config?.releaseSequence ?? 0);
  takeInputs(knowledge, { ...inputs, accountKey: new Refusal("AccountSecretNotFound", "not asked for") });
  const { root, stored } = knowledge.findings;
  const missing = inputs.configMap?.ours
    ? undefined
    : "the operator has put no config of the network into a ConfigMap yet";
  const snapshots = new Map(
    [...knowledge.snapshots].map(([digest, { snapshot }]) => [digest, snapshot] as const),
  );
  return {
    release: knowledge.release?.release,
    snapshots,
    bytes: bytesIn(knowledge),
    problem: root?.message ?? stored?.message ?? missing,
  };
}
