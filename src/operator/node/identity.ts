import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { type Client, type JsonPatchOperation, jsonPointer, testUnchanged } from "../../kube/client.ts";
import { isKubeError } from "../../kube/errors.ts";
import { type Draft, type OwnerReference, ownedBy } from "../../kube/object.ts";
import { type Secret, secrets } from "../../kube/resources.ts";
import { mintBinding } from "../../protocol/binding.ts";
import type { FeedNode } from "../../protocol/feed.ts";
import {
  generateKey,
  importPrivateKey,
  type NodeId,
  type PrivateJwk,
  type SigningKey,
  type VerifyKey,
} from "../../protocol/keys.ts";
import { sealDrainToken } from "../../protocol/status.ts";
import { identitySecretOf } from "../context.ts";
import { nodeLabel, networkLabel, nodeManager } from "../names.ts";
import type { NetworkConfig } from "../views.ts";
import {
  encoded,
  entries,
  factsOf,
  firstKeyId,
  rotateKeyAnnotation,
  rotatedAnnotation,
  type SecretFacts,
} from "./identity-secret.ts";
import { planRotation, rotationNote, rotationPatch, type RotationStep } from "./rotation.ts";

export { IdentityError } from "./identity-secret.ts";

/** Who a node is at its network, without the secret. */
export interface Identity {
  readonly nodeId: NodeId;
  /** Its key, and while that is rolled over the next one: either may have signed what the agent says. */
  readonly keys: readonly VerifyKey[];
  /** Token of the pod's `preStop` hook; who reads pods may know it. */
  readonly drainToken: string;
}

/** What owns the Secret, and so when it goes: see {@link ownerOfIdentity}. */
export type IdentityOwner = OwnerReference | undefined;

/**
 * The Secret goes with the node, unless a pool keeps identities for nodes to come back (`identityRetention: Retain`): then
 * with the pool. A Secret that the user names is the user's.
 */
export function ownerOfIdentity(node: ResultityNode, pool: ResultityNodePool | undefined): IdentityOwner {
  if (node.spec.identity?.secretName !== undefined) return undefined;
  return { ...ownedBy(pool?.spec.identityRetention === "Retain" ? pool : node), controller: false };
}

/** Reads who the node is; undefined while it has no identity. @throws {IdentityError} */
export async function readIdentity(
  client: Client,
  node: ResultityNode,
  signal: AbortSignal,
): Promise<Identity | undefined> {
  const secret = await client.find(secrets, refOf(node), { signal });
  if (!secret) return undefined;
  const { nodeId, key, next } = factsOf(secret);
  return identityOf(nodeId, key, next);
}

/** What {@link ensureIdentity} has found and done. */
export interface EnsuredIdentity {
  readonly identity: Identity;
  /** What was done about the key. */
  readonly step: RotationStep["step"];
  /** The key is as it is wanted; else a rotation goes on when the network's view of the node changes. */
  readonly settled: boolean;
}

/**
 * Sees to it that the identity Secret is there and says what the network's root and account are now, and takes one step of a
 * rotation of its key. A new one is created without looking first, unless `expected`: then most likely there is one.
 *
 * @throws {IdentityError} the Secret holds something else than a key.
 */
export async function ensureIdentity(
  client: Client,
  wish: IdentityWish,
  signal: AbortSignal,
): Promise<EnsuredIdentity> {
  const { node, config, owner, expected } = wish;
  const ref = refOf(node);
  const known = expected ? await client.find(secrets, ref, { signal }) : undefined;
  if (known) return refresh(client, known, wish, signal);
  const jwk = generateKey();
  const key = importPrivateKey(jwk);
  try {
    const draft = secretOf(jwk, key.kid, node, config, owner);
    await client.create(secrets, draft, { signal, fieldManager: nodeManager });
    return { identity: identityOf(firstKeyId(key.kid), key, undefined), step: "settled", settled: true };
  } catch (error) {
    if (!isKubeError(error, "AlreadyExists")) throw error;
    return refresh(client, await client.get(secrets, ref, { signal }), wish, signal);
  }
}

/** What {@link ensureIdentity} is to bring about. */
export interface IdentityWish {
  readonly node: ResultityNode;
  readonly config: NetworkConfig;
  readonly owner: IdentityOwner;
  /** The network's view of the node. */
  readonly feed: FeedNode | undefined;
  /** The node had an identity before. */
  readonly expected: boolean;
}

const refOf = (node: ResultityNode) => ({
  namespace: node.metadata.namespace,
  name: identitySecretOf(node),
});

function identityOf(nodeId: NodeId, key: SigningKey, next: SigningKey | undefined): Identity {
  const keys = [key, ...(next ? [next] : [])].map(publicHalf);
  return { nodeId, keys, drainToken: sealDrainToken(nodeId, key) };
}

const publicHalf = ({ kid, jwk, key }: VerifyKey): VerifyKey => ({ kid, jwk, key });

function secretOf(
  jwk: PrivateJwk,
  kid: SigningKey["kid"],
  node: ResultityNode,
  config: NetworkConfig,
  owner: IdentityOwner,
): Draft<Secret> {
  // A key that is made now is new enough for any wish.
  const wish = node.metadata.annotations?.[rotateKeyAnnotation];
  return {
    metadata: {
      ...refOf(node),
      labels: {
        "app.kubernetes.io/name": "resultity",
        [nodeLabel]: node.metadata.name,
        [networkLabel]: node.spec.networkRef.name,
      },
      ...(wish === undefined ? {} : { annotations: { [rotatedAnnotation]: wish } }),
      ...(owner ? { ownerReferences: [owner] } : {}),
    },
    type: "Opaque",
    data: encoded({ [entries.key]: JSON.stringify(jwk), ...sayings(firstKeyId(kid), config) }),
  };
}

/** What the Secret says beside the key. */
function sayings(nodeId: NodeId, { root, account, accountKey }: NetworkConfig): Record<string, string> {
  return {
    [entries.binding]: JSON.stringify(mintBinding(accountKey, root.network, account, nodeId)),
    [entries.root]: JSON.stringify(root.statement),
  };
}

async function refresh(
  client: Client,
  secret: Secret,
  { node, config, owner, feed }: IdentityWish,
  signal: AbortSignal,
): Promise<EnsuredIdentity> {
  const facts = factsOf(secret);
  const operations: JsonPatchOperation[] = [];
  for (const [name, value] of Object.entries(encoded(sayings(facts.nodeId, config)))) {
    if (secret.data?.[name] !== value) operations.push({ op: "add", path: jsonPointer("data", name), value });
  }
  // A Secret that outlived its node (deleted and created again at once) is taken over before it is collected.
  const owners = secret.metadata.ownerReferences ?? [];
  if (owner && owners.length > 0 && !owners.some(({ uid }) => uid === owner.uid)) {
    operations.push({ op: "add", path: "/metadata/ownerReferences", value: [owner] });
  }
  const wanted = node.metadata.annotations?.[rotateKeyAnnotation];
  const step = planRotation(facts, wanted, feed);
  const held = new Set(Object.keys(secret.data ?? {}));
  operations.push(
    ...rotationPatch(facts, step, config, held, generateKey),
    ...rotationNote(step, secret.metadata.annotations),
  );
  const ensured = (now: SecretFacts): EnsuredIdentity => ({
    identity: identityOf(now.nodeId, now.key, now.next),
    step: step.step,
    settled: planRotation(now, wanted, feed).step === "settled",
  });
  if (operations.length === 0) return ensured(facts);
  const written = await client.jsonPatch(secrets, refOf(node), [...testUnchanged(secret), ...operations], {
    signal,
    fieldManager: nodeManager,
  });
  return ensured(factsOf(written));
}
