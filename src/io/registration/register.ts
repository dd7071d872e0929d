import { type Binding, checkBinding, checkGrant, type Grant } from "../../protocol/binding.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { parsePayload } from "../../protocol/frame.ts";
import { openRegistration, registerSchema, registerTyp } from "../../protocol/http.ts";
import { decodeUtf8, splitJws } from "../../protocol/jws.ts";
import type { VerifyKey } from "../../protocol/keys.ts";
import { checkSkew } from "../../protocol/session/handshake.ts";
import type { KnownNode } from "../nodes.ts";
import { type Heard, Refused, refusing, type RegistrationParts } from "./envelope.ts";

/**
 * Registers a node, or gives it the key that its account grants. In order: form, nonce, MACs of binding and grant by a
 * known account (no signature is checked for strangers), then signature and key. The same node again gets the same answer.
 */
export async function register(
  parts: RegistrationParts,
  text: string,
  urls: readonly string[],
): Promise<Heard> {
  const { clock, nonces, config, nodes, store, log } = parts;
  const now = clock.now();
  const jws = splitJws(text, registerTyp);
  const { nonce } = jws.header;
  if (typeof nonce !== "string" || !nonces.accepts(nonce, now))
    throw new ProtocolError(
      "wrong_challenge",
      "registration: the nonce is not of this service or too old; ask for another",
    );
  const claimed = parsePayload(
    registerSchema,
    decodeUtf8(Buffer.from(jws.payload, "base64url")),
    "registration",
  );
  const { binding, grant } = claimed;
  const wrong = notMinted(parts, binding, grant);
  // Strangers are told nothing of the node that they name.
  const httpSeq = wrong ? 0 : (nodes.get(binding.node_id)?.httpSeq ?? 0);
  const refuse = (error: ProtocolError) => new Refused(binding.node_id, httpSeq, error);
  if (wrong) throw refuse(wrong);
  if (binding.network !== config.network)
    throw refuse(
      new ProtocolError("wrong_network", `binding: this service serves network ${config.network}`),
    );
  const { payload, key } = refusing(refuse, () => {
    const opened = openRegistration(text, urls);
    checkSkew(opened.payload.time, now);
    return opened;
  });
  const known = nodes.get(binding.node_id);
  if (known) return refusingAsync(refuse, () => again(parts, known, binding, grant, key));
  if (nodes.everByKey(key.kid)) throw refuse(anothersKey());
  const row = {
    nodeId: binding.node_id,
    kid: key.kid,
    jwk: key.jwk,
    account: binding.account,
    registeredAt: now,
    httpSeq: 0,
    epoch: 0,
    releaseSequence: 0,
    generation: grant?.generation ?? 0,
    revoked: false,
    former: [],
    banned: null,
    jobsCommitted: 0,
  };
  await store.write([{ put: "node", row }]);
  // Two registrations of one node may have waited for the disk together.
  const node = nodes.get(row.nodeId) ?? nodes.add(row, now);
  log.info({ node: row.nodeId, account: row.account, version: payload.agent_version }, "node registered");
  nodes.changed(node);
  return { node, kid: node.key.kid };
}

const anothersKey = (): ProtocolError =>
  new ProtocolError("wrong_node", "the key is, or was, another node's: make one for this node alone");

function notMinted(
  { accounts }: RegistrationParts,
  binding: Binding,
  grant: Grant | undefined,
): ProtocolError | undefined {
  const accountKey = accounts.keyOf(binding.account);
  if (!accountKey || !checkBinding(accountKey, binding))
    return new ProtocolError("binding", "binding: not minted with the key of the account that it names");
  // That both name one account is checked with the signature.
  if (grant && !checkGrant(accountKey, grant))
    return new ProtocolError("binding", "grant: not minted with the key of the binding's account");
  return undefined;
}

async function refusingAsync<T>(
  refuse: (error: ProtocolError) => Refused,
  check: () => Promise<T>,
): Promise<T> {
  try {
    return await check();
  } catch (error) {
    throw error instanceof ProtocolError ? refuse(error) : error;
  }
}

/** A node that is registered registers again: with its key, or with one that its account grants it. */
async function again(
  parts: RegistrationParts,
  node: KnownNode,
  { account }: Binding,
  grant: Grant | undefined,
  key: VerifyKey,
): Promise<Heard> {
  if (node.account !== account)
    throw new ProtocolError("binding", "the node is registered for another account");
  const current = node.revocation === 0 && key.kid === node.key.kid;
  if (!grant) {
    if (current) return { node, kid: key.kid };
    throw new ProtocolError(
      "unknown_key",
      node.revocation === 0
        ? `the node has another key by now, ${node.key.kid}; a grant of its account can give it this one`
        : `the account has revoked the node's key; a grant of generation ${node.generation + 1} lets it back`,
    );
  }
  if (grant.generation > node.generation) return granted(parts, node, grant.generation, key);
  if (current && grant.generation === node.generation) return { node, kid: key.kid };
  throw new ProtocolError(
    "rollback",
    `grant: its generation is ${grant.generation}, and the node's is ${node.generation}: the account must mint a newer one`,
  );
}

async function granted(
  { nodes, store, log, granted: tell }: RegistrationParts,
  node: KnownNode,
  generation: number,
  key: VerifyKey,
): Promise<Heard> {
  const owner = nodes.everByKey(key.kid);
  if (owner && owner !== node) throw anothersKey();
  if (node.changingKey)
    throw new ProtocolError("sequence", "another change of the node's key is being written; ask again");
  node.changingKey = true;
  const lifts = node.revocation;
  const { kid, jwk } = key;
  try {
    await store.write([{ put: "node-key", nodeId: node.nodeId, kid, jwk, generation }]);
  } finally {
    node.changingKey = false;
  }
  const before = node.key.kid;
  nodes.rekey(node, key, generation, lifts);
  log.warn(
    { node: node.nodeId, account: node.account, before, kid, generation },
    "node's key granted by its account",
  );
  tell(node);
  nodes.changed(node);
  return { node, kid };
}
