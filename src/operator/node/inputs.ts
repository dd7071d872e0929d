import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { mintBinding } from "../../protocol/binding.ts";
import type { NodeId } from "../../protocol/keys.ts";
import { isOpportunistic } from "../capacity.ts";
import { identitySecretOf } from "../context.ts";
import { hashOf } from "../hash.ts";
import { poolLabel } from "../names.ts";
import { once } from "../once.ts";
import type { NetworkConfig } from "../views.ts";

/**
 * Hash of all that only a new pod can change, in two halves: what the node's spec says, and what its network says and
 * all its nodes share. Hashes of inputs, not of the template that is built from them: a new version of the operator
 * must not replace the pods of a fleet.
 */
export function podInputsHash(
  node: ResultityNode,
  config: Pick<NetworkConfig, "root" | "endpoints">,
): string {
  const { spec, metadata } = node;
  const own = hashOf({
    gpu: spec.gpu,
    engine: spec.runtime.engine,
    env: spec.runtime.env ?? [],
    resources: spec.runtime.resources ?? {},
    modelCache: spec.modelCache ?? {},
    podOverrides: spec.podOverrides ?? {},
    identity: identitySecretOf(node),
    network: spec.networkRef.name,
    pool: metadata.labels?.[poolLabel] ?? null,
    // Absent otherwise: the pods of those who never lent need no new hash.
    ...(isOpportunistic(node) ? { capacity: spec.capacity } : {}),
  });
  const shared = hashOf({ id: config.root.network, endpoints: config.endpoints });
  return `${own}-${shared}`;
}

/** The half of a {@link podInputsHash} that says what the node's own spec does. */
export const ownHalf = (hash: string): string => hash.split("-")[0] ?? hash;

const nobody = Buffer.alloc(32).toString("base64url") as NodeId;

/**
 * Hash of what an identity Secret follows: the root, the account, and the wish for which its key was made. Says nothing
 * about the account key.
 */
export function identityInputsHash(config: NetworkConfig, rotate: string | undefined): string {
  return rotate === undefined ? unrotated(config) : identityHash(config, rotate);
}

/** All nodes of a network but those that rotate have the same one, and each look at each asks for it. */
const unrotated = once((config: NetworkConfig) => identityHash(config, undefined));

function identityHash({ root, account, accountKey }: NetworkConfig, rotate: string | undefined): string {
  // The MAC for a node that cannot exist changes with the account key and gives it away no more than any binding.
  const { mac } = mintBinding(accountKey, root.network, account, nobody);
  return hashOf({ root: root.statement, account, mac, rotate });
}
