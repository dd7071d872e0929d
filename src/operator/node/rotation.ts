import { type JsonPatchOperation, jsonPointer } from "../../kube/client.ts";
import { mintGrant } from "../../protocol/binding.ts";
import type { FeedNode } from "../../protocol/feed.ts";
import { importPrivateKey, type PrivateJwk } from "../../protocol/keys.ts";
import { withFormer } from "../../protocol/rollover.ts";
import type { NetworkConfig } from "../views.ts";
import { encoded, entries, rotatedAnnotation, type SecretFacts } from "./identity-secret.ts";

/** The next thing to do about a node's key. */
export type RotationStep =
  /** There is nothing to do. */
  | { readonly step: "settled" }
  /** The network has to say something first. */
  | { readonly step: "wait" }
  /** Puts a new key beside the present one, for the agent to roll over to. */
  | { readonly step: "begin"; readonly wish: string }
  /** The network has the new key: it takes the place of the old one. */
  | { readonly step: "promote" }
  /** The present key is revoked: a new one takes its place, with the account's grant. */
  | { readonly step: "recover"; readonly wish: string; readonly generation: number };

/**
 * Decides about a node's key. Pure, and without memory: how far a rotation has come stands in the Secret and in the network's
 * view of the node, so an operator that was killed at any point goes on.
 *
 * @param wish value of the node's annotation `resultity.com/rotate-key`.
 * @param feed the network's view of the node; it shows a key only when that is on the network's disk.
 */
export function planRotation(
  { next, rotated }: Pick<SecretFacts, "next" | "rotated">,
  wish: string | undefined,
  feed: Pick<FeedNode, "kid" | "revoked" | "generation"> | undefined,
): RotationStep {
  if (next && feed?.kid === next.kid) return { step: "promote" };
  const wanted = wish !== undefined && wish !== rotated;
  // A key that is revoked cannot be rolled over, nor can what was begun with it be ended.
  if (wanted && feed?.revoked) return { step: "recover", wish, generation: feed.generation + 1 };
  if (next || (wanted && !feed)) return { step: "wait" };
  return wanted ? { step: "begin", wish } : { step: "settled" };
}

/** What a step changes in the Secret, in one write. @param fresh a key that nobody has had. */
export function rotationPatch(
  { nodeId, key, next, former }: SecretFacts,
  step: RotationStep,
  config: NetworkConfig,
  held: ReadonlySet<string>,
  fresh: () => PrivateJwk,
): readonly JsonPatchOperation[] {
  const put = (entry: string, value: unknown): JsonPatchOperation => ({
    op: "add",
    path: jsonPointer("data", entry),
    value: encoded({ [entry]: JSON.stringify(value) })[entry] ?? "",
  });
  const drop = (entry: string): readonly JsonPatchOperation[] =>
    held.has(entry) ? [{ op: "remove", path: jsonPointer("data", entry) }] : [];
  const before = withFormer(former, key.jwk);
  switch (step.step) {
    case "settled":
    case "wait":
      return [];
    case "begin":
      return [put(entries.next, fresh())];
    case "promote":
      if (!next) return [];
      return [
        put(entries.key, next.privateKey.export({ format: "jwk" })),
        put(entries.former, before),
        ...drop(entries.next),
      ];
    case "recover": {
      const jwk = fresh();
      const { kid } = importPrivateKey(jwk);
      const { root, account, accountKey } = config;
      const { generation } = step;
      const grant = { network: root.network, account, node_id: nodeId, kid, generation };
      return [
        put(entries.key, jwk),
        put(entries.grant, mintGrant(accountKey, grant)),
        put(entries.former, before),
        ...drop(entries.next),
      ];
    }
    default:
      return step satisfies never;
  }
}

/** Notes on the Secret for which wish its newest key was made. */
export function rotationNote(
  step: RotationStep,
  annotations: Readonly<Record<string, string>> | undefined,
): readonly JsonPatchOperation[] {
  if (!("wish" in step)) return [];
  return [
    ...(annotations ? [] : [{ op: "add", path: "/metadata/annotations", value: {} } as const]),
    { op: "add", path: jsonPointer("metadata", "annotations", rotatedAnnotation), value: step.wish },
  ];
}
