import { ProtocolError } from "../../protocol/codes.ts";
import { openRequest } from "../../protocol/http.ts";
import { splitJws } from "../../protocol/jws.ts";
import type { KeyId, VerifyKey } from "../../protocol/keys.ts";
import { keyChangeSchema, keyChangeTyp, openNewKey } from "../../protocol/rollover.ts";
import { checkSkew } from "../../protocol/session/handshake.ts";
import type { KnownNode } from "../nodes.ts";
import { type Heard, openOfNode, refusing, type RegistrationParts, takeRate } from "./envelope.ts";

/** Most keys that a node may have had since its account's last grant: each is kept for ever, on the disk and in memory. */
const maxFormer = 1024;

/**
 * Rolls a node's key over. The new key is on the disk, together with the request's seq, before anyone is told of it: a
 * keeper of keys that saw it too early would drop the only one that is good after a power cut.
 */
export async function changeKey(
  parts: RegistrationParts,
  ip: string,
  text: string,
  urls: readonly string[],
): Promise<Heard> {
  const { nodes, store, clock, log } = parts;
  const before = nodes.byKey(splitJws(text, keyChangeTyp).header.kid);
  if (!before) return answeredBefore(parts, ip, text, urls);
  const form = { ip, typ: keyChangeTyp, schema: keyChangeSchema, urls };
  const { node, payload, url, seq, refuse } = openOfNode(parts, text, form);
  const next = refusing(refuse, () => {
    const opened = openNewKey(payload.new, { url, nodeId: node.nodeId, kid: node.key.kid });
    checkSkew(opened.time, clock.now());
    checkNew(node, nodes.everByKey(opened.key.kid));
    return opened.key;
  });
  const { nodeId, generation, revocation } = node;
  const old = node.key.kid;
  node.httpSeq = seq;
  node.changingKey = true;
  try {
    await store.write([
      { put: "http-seq", nodeId, seq },
      { put: "node-key", nodeId, kid: next.kid, jwk: next.jwk, generation },
    ]);
  } finally {
    node.changingKey = false;
  }
  nodes.rekey(node, next, generation, revocation);
  node.heardAt = clock.now();
  log.info({ node: nodeId, before: old, kid: next.kid }, "node's key rolled over");
  nodes.changed(node);
  return { node, kid: next.kid };
}

function checkNew(node: KnownNode, owner: KnownNode | undefined): void {
  if (owner === node)
    throw new ProtocolError("rollback", "new key: the node has had it before; make another one");
  if (owner) throw new ProtocolError("wrong_node", "new key: it is, or was, another node's");
  if (node.changingKey)
    throw new ProtocolError("sequence", "another change of the node's key is being written; ask again");
  if (node.former.filter(({ generation }) => generation === node.generation).length >= maxFormer)
    throw new ProtocolError(
      "not_allowed",
      `new key: the node has had ${maxFormer} keys since its account's last grant; have the account grant it one`,
    );
}

/** The answer to a change was lost, and the node asks again by the key that it had: nothing is left to do or to keep. */
async function answeredBefore(
  { nodes, rates }: RegistrationParts,
  ip: string,
  text: string,
  urls: readonly string[],
): Promise<Heard> {
  const unknown = () => new ProtocolError("unknown_key", "no node is registered with this key");
  let speaker: KnownNode | undefined;
  const { payload, key, url } = openRequest(text, keyChangeTyp, keyChangeSchema, {
    urls,
    keyFor: ({ header }) => {
      speaker = nodes.everByKey(header.kid);
      const former = speaker && formerKey(speaker, header.kid);
      if (!speaker || !former) throw unknown();
      takeRate(rates.node, ip, speaker);
      return former;
    },
  });
  const node = speaker;
  if (!node || node.revocation !== 0 || payload.node_id !== node.nodeId) throw unknown();
  const next = openNewKey(payload.new, { url, nodeId: node.nodeId, kid: key.kid });
  if (next.key.kid !== node.key.kid) throw unknown();
  return { node, kid: next.key.kid };
}

const formerKey = ({ former }: KnownNode, kid: KeyId): VerifyKey | undefined =>
  former.find(({ key }) => key.kid === kid)?.key;
