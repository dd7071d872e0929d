/** Vectors of key rollover and of grants: how a node comes to another key. */
import { type Grant, mintBinding, mintGrant } from "../../src/protocol/binding.ts";
import { paths, pingTyp, registerTyp } from "../../src/protocol/http.ts";
import { signJws } from "../../src/protocol/jws.ts";
import type { SigningKey } from "../../src/protocol/keys.ts";
import { keyChangeTyp, newKeyTyp, sealKeyChange } from "../../src/protocol/rollover.ts";
import {
  account,
  accountKey,
  agentVersion,
  baseUrl,
  bytes32,
  type Case,
  jwkOf,
  keys,
  network,
  nodeId,
  now,
  otherNodeId,
} from "./fixed.ts";

const { node, next, otherNode, stranger } = keys;
const url = `${baseUrl}${paths.keyChange}`;

/** A change with any of its parts replaced. */
function change({
  typ = keyChangeTyp,
  signer = node,
  header = {},
  payload = {},
  inner = {},
}: {
  readonly typ?: string;
  readonly signer?: SigningKey;
  readonly header?: object;
  readonly payload?: object;
  readonly inner?: {
    readonly typ?: string;
    readonly signer?: SigningKey;
    readonly header?: object;
    readonly payload?: object;
  };
}): string {
  const says = { node_id: nodeId, old_kid: node.kid, time: now, ...inner.payload };
  const key = inner.signer ?? next;
  const made = signJws(inner.typ ?? newKeyTyp, JSON.stringify(says), key, {
    url,
    jwk: key.jwk,
    ...inner.header,
  });
  const asks = { node_id: nodeId, time: now, new: made, ...payload };
  return signJws(typ, JSON.stringify(asks), signer, { url, seq: 3, ...header });
}

const swapped = (body: string, part: 0 | 1 | 2, by: string): string =>
  body
    .split(".")
    .map((text, at) => (at === part ? by : text))
    .join(".");

function changes(): Case[] {
  const of = (name: string, verdict: string, body: string): Case => ({ name, verdict, body });
  const whole = sealKeyChange({ nodeId, from: node, to: next, time: now }, url, 3);
  const innerOf = (body: string): string => {
    const payload: { new: string } = JSON.parse(
      Buffer.from(body.split(".")[1] ?? "", "base64url").toString(),
    );
    return payload.new;
  };
  const elsewhere = `http://evil.test${paths.keyChange}`;
  return [
    of("as it should be", "valid", whole),
    of("outer for another URL", "wrong_audience", change({ header: { url: elsewhere } })),
    of("inner for another URL", "wrong_audience", change({ inner: { header: { url: elsewhere } } })),
    of("inner without URL", "wrong_audience", change({ inner: { header: { url: undefined } } })),
    of("no seq", "sequence", change({ header: { seq: undefined } })),
    of("outer by the new key", "unknown_key", change({ signer: next })),
    of(
      "inner by the old key, jwk of the new one",
      "unknown_key",
      change({ inner: { signer: node, header: { jwk: next.jwk } } }),
    ),
    of("both by the old key", "rollback", change({ inner: { signer: node } })),
    of(
      "both by the new key",
      "unknown_key",
      change({ signer: next, inner: { payload: { old_kid: next.kid } } }),
    ),
    of("inner without jwk", "schema", change({ inner: { header: { jwk: undefined } } })),
    of("a private key as jwk", "schema", change({ inner: { header: { jwk: jwkOf("next") } } })),
    of(
      "a jwk of another curve",
      "schema",
      change({ inner: { header: { jwk: { ...next.jwk, crv: "X25519" } } } }),
    ),
    of(
      "a jwk that is not the key that signed",
      "unknown_key",
      change({ inner: { header: { jwk: stranger.jwk } } }),
    ),
    of("inner names the wrong kid", "unknown_key", change({ inner: { header: { kid: node.kid } } })),
    of(
      "an inner signature that is spoiled",
      "bad_signature",
      change({ payload: { new: swapped(innerOf(whole), 2, "A".repeat(86)) } }),
    ),
    of("an outer signature that is spoiled", "bad_signature", swapped(whole, 2, "A".repeat(86))),
    of(
      "an inner of another node",
      "wrong_node",
      change({ inner: { payload: { node_id: otherNodeId, old_kid: otherNode.kid } } }),
    ),
    of(
      "an inner that is to follow another key",
      "unknown_key",
      change({ inner: { payload: { old_kid: otherNode.kid } } }),
    ),
    of("an inner with the typ of the outer", "wrong_typ", change({ inner: { typ: keyChangeTyp } })),
    of("the inner alone", "wrong_typ", innerOf(whole)),
    of("a ping around it", "wrong_typ", change({ typ: pingTyp })),
    of("a change inside a change", "wrong_typ", change({ payload: { new: whole } })),
    of("no inner", "schema", change({ payload: { new: undefined } })),
    of("an inner that is no JWS", "malformed", change({ payload: { new: "next" } })),
    of("no old_kid", "schema", change({ inner: { payload: { old_kid: undefined } } })),
  ];
}

/** Requests to one service, in this order; it knows node and other-node by their first keys, and has heard seq 2. */
function steps(): object[] {
  const third = stranger;
  const of = (from: SigningKey, to: SigningKey, seq: number): string =>
    sealKeyChange({ nodeId, from, to, time: now }, url, seq);
  const first = of(node, next, 3);
  const say = (name: string, verdict: string, body: string, kid: SigningKey, httpSeq: number): object => ({
    name,
    verdict,
    body,
    kid: kid.kid,
    http_seq: httpSeq,
  });
  return [
    say("a seq that was there before", "sequence", of(node, next, 2), node, 2),
    say("to the key of another node", "wrong_node", of(node, otherNode, 3), node, 2),
    say("the change", "valid", first, next, 3),
    say("the same bytes again: the answer was lost", "valid", first, next, 3),
    say("the same change signed again", "valid", of(node, next, 4), next, 3),
    say("another change by the old key", "unknown_key", of(node, third, 5), next, 3),
    say("back to a key that it has had", "rollback", of(next, node, 5), next, 3),
    say("a replayed seq by the new key", "sequence", of(next, third, 3), next, 3),
    say("the next change", "valid", of(next, third, 9), third, 9),
    say("the first change once more", "unknown_key", first, third, 9),
  ];
}

const grant = mintGrant(accountKey, { network, account, node_id: nodeId, kid: next.kid, generation: 1 });

function grants(): Case[] {
  const of = (name: string, verdict: string, with_: object = {}): Case => ({
    name,
    verdict,
    grant: { ...grant, ...with_ },
  });
  const binding = mintBinding(accountKey, network, account, nodeId);
  return [
    of("as minted", "valid"),
    of("another network", "binding", { network: "mainnet" }),
    of("another account", "binding", { account: "other" }),
    of("another node", "binding", { node_id: otherNodeId }),
    of("another key", "binding", { kid: stranger.kid }),
    of("another generation", "binding", { generation: 2 }),
    of("the MAC of a binding", "binding", { mac: binding.mac }),
    of("generation 0", "schema", { generation: 0 }),
    of("generation as text", "schema", { generation: "1" }),
    of("no kid", "schema", { kid: undefined }),
  ];
}

function registrations(registerUrl: string): Case[] {
  const nonce = bytes32("registration nonce");
  const binding = mintBinding(accountKey, network, account, nodeId);
  const of = (name: string, verdict: string, given: Partial<Grant> | undefined, key = next): Case => ({
    name,
    verdict,
    body: signJws(
      registerTyp,
      JSON.stringify({
        binding,
        ...(given && { grant: { ...grant, ...given } }),
        agent_version: agentVersion,
        time: now,
      }),
      key,
      { url: registerUrl, nonce, jwk: key.jwk },
    ),
  });
  return [
    of("with the key that the grant names", "valid", {}),
    of("with that key, and no grant", "wrong_node", undefined),
    of("with the first key, and a grant for another", "wrong_node", {}, node),
    of("with the grant of a stranger's key", "wrong_node", {}, stranger),
    of("a grant of another node", "wrong_node", { node_id: otherNodeId }),
    of("a grant of another account", "wrong_node", { account: "other" }),
    of("a grant of another network", "wrong_network", { network: "mainnet" }),
  ];
}

export function rolloverVectors(): object {
  const registerUrl = `${baseUrl}${paths.register}`;
  return {
    about:
      "`changes`: each alone, POSTed to `url`; the node `node_id` has key `kid` and no other. `steps`: the same, one after another to one service that knows `node` and `other-node` of keys.json by these keys and has heard seq 2 of `node_id`; after each, `kid` and `http_seq` of its signed answer (`unknown_key` is refused without one). `grants` under `account_key`. `registrations` to `register_url`: what stands in them, not their MACs.",
    url,
    node_id: nodeId,
    kid: node.kid,
    new_kid: next.kid,
    changes: changes(),
    steps: steps(),
    account_key: accountKey.toString("base64url"),
    grant_input: ["rn1.grant", network, account, nodeId, next.kid, "1"].join("\n"),
    grants: grants(),
    register_url: registerUrl,
    registrations: registrations(registerUrl),
  };
}
