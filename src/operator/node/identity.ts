import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { type Client, type JsonPatchOperation, jsonPointer, testUnchanged } from "../../kube/client.ts";
import { isKubeError } from "../../kube/errors.ts";
import { type Draft, type OwnerReference, ownedBy } from "../../kube/object.ts";
import { type Secret, secrets } from "../../kube/resources.ts";
import { CodedError } from "../../lib/errors.ts";
import { mintBinding } from "../../protocol/binding.ts";
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

/** Entries of the identity Secret, as the agent reads them. */
const entries = { key: "key.jwk", binding: "binding.json", root: "root.json" } as const;

/** Who a node is at its network, without the secret. */
export interface Identity {
  readonly nodeId: NodeId;
  readonly key: VerifyKey;
  /** Token of the pod's `preStop` hook; who reads pods may know it. */
  readonly drainToken: string;
}

/** An identity Secret that cannot be used. */
export class IdentityError extends CodedError<"IdentitySecretInvalid"> {}

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
  return secret && identityIn(secret);
}

/**
 * Sees to it that the identity Secret is there and says what the network's root and account are now. A new one is
 * created without looking first, unless `expected`: then most likely there is one.
 *
 * @throws {IdentityError} the Secret holds something else than a key.
 */
export async function ensureIdentity(
  client: Client,
  { node, config, owner, expected }: IdentityWish,
  signal: AbortSignal,
): Promise<Identity> {
  const ref = refOf(node);
  const known = expected ? await client.find(secrets, ref, { signal }) : undefined;
  if (known) return refresh(client, known, node, config, owner, signal);
  const jwk = generateKey();
  const key = importPrivateKey(jwk);
  try {
    const draft = secretOf(jwk, key.kid, node, config, owner);
    await client.create(secrets, draft, { signal, fieldManager: nodeManager });
    return identityOf(key);
  } catch (error) {
    if (!isKubeError(error, "AlreadyExists")) throw error;
    return refresh(client, await client.get(secrets, ref, { signal }), node, config, owner, signal);
  }
}

/** What {@link ensureIdentity} is to bring about. */
export interface IdentityWish {
  readonly node: ResultityNode;
  readonly config: NetworkConfig;
  readonly owner: IdentityOwner;
  /** The node had an identity before. */
  readonly expected: boolean;
}

const refOf = (node: ResultityNode) => ({
  namespace: node.metadata.namespace,
  name: identitySecretOf(node),
});

/** The id of a node whose key has never been rolled over is that key's. */
const nodeIdOf = (kid: string): NodeId => kid as NodeId;

function identityOf(key: SigningKey): Identity {
  const nodeId = nodeIdOf(key.kid);
  return { nodeId, key: publicHalf(key), drainToken: sealDrainToken(nodeId, key) };
}

const publicHalf = ({ kid, jwk, key }: VerifyKey): VerifyKey => ({ kid, jwk, key });

function secretOf(
  jwk: PrivateJwk,
  kid: string,
  node: ResultityNode,
  config: NetworkConfig,
  owner: IdentityOwner,
): Draft<Secret> {
  return {
    metadata: {
      ...refOf(node),
      labels: {
        "app.kubernetes.io/name": "resultity",
        [nodeLabel]: node.metadata.name,
        [networkLabel]: node.spec.networkRef.name,
      },
      ...(owner ? { ownerReferences: [owner] } : {}),
    },
    type: "Opaque",
    data: encoded({ [entries.key]: JSON.stringify(jwk), ...sayings(nodeIdOf(kid), config) }),
  };
}

/** What the Secret says beside the key. */
function sayings(nodeId: NodeId, { root, account, accountKey }: NetworkConfig): Record<string, string> {
  return {
    [entries.binding]: JSON.stringify(mintBinding(accountKey, root.network, account, nodeId)),
    [entries.root]: JSON.stringify(root.statement),
  };
}

const encoded = (data: Record<string, string>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(data).map(([name, text]) => [name, Buffer.from(text).toString("base64")]),
  );

function identityIn(secret: Secret): Identity {
  const { name } = secret.metadata;
  const text = secret.data?.[entries.key];
  try {
    const jwk: PrivateJwk = JSON.parse(Buffer.from(text ?? "", "base64").toString());
    return identityOf(importPrivateKey(jwk));
  } catch {
    // The cause might repeat the key.
    throw new IdentityError(
      "IdentitySecretInvalid",
      `Secret ${name}: entry ${entries.key} is ${text === undefined ? "missing" : "not a private Ed25519 JWK"}; restore it from a backup, or delete the Secret to start over as a new node`,
    );
  }
}

async function refresh(
  client: Client,
  secret: Secret,
  node: ResultityNode,
  config: NetworkConfig,
  owner: IdentityOwner,
  signal: AbortSignal,
): Promise<Identity> {
  const identity = identityIn(secret);
  const operations: JsonPatchOperation[] = [];
  for (const [name, value] of Object.entries(encoded(sayings(identity.nodeId, config)))) {
    if (secret.data?.[name] !== value) operations.push({ op: "add", path: jsonPointer("data", name), value });
  }
  // A Secret that outlived its node (deleted and created again at once) is taken over before it is collected.
  const owners = secret.metadata.ownerReferences ?? [];
  if (owner && owners.length > 0 && !owners.some(({ uid }) => uid === owner.uid)) {
    operations.push({ op: "add", path: "/metadata/ownerReferences", value: [owner] });
  }
  if (operations.length > 0) {
    await client.jsonPatch(secrets, refOf(node), [...testUnchanged(secret), ...operations], {
      signal,
      fieldManager: nodeManager,
    });
  }
  return identity;
}
