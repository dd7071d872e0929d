import { beforeEach, describe, expect, it } from "vitest";
import type { Secret } from "../../../src/kube/resources.ts";
import type { JsonPatchOperation } from "../../../src/kube/client.ts";
import {
  encoded,
  factsOf,
  IdentityError,
  rotatedAnnotation,
} from "../../../src/operator/node/identity-secret.ts";
import {
  planRotation,
  rotationNote,
  rotationPatch,
  type RotationStep,
} from "../../../src/operator/node/rotation.ts";
import { checkGrant, grantSchema, mintBinding } from "../../../src/protocol/binding.ts";
import {
  generateKey,
  importPrivateKey,
  type KeyId,
  type NodeId,
  type PrivateJwk,
} from "../../../src/protocol/keys.ts";
import { configOf, snapshotOf } from "./network.ts";

const config = configOf([snapshotOf("v1")]);
const jwk = generateKey();
const first = importPrivateKey(jwk);
const nodeId = String(first.kid) as NodeId;
const { x } = jwk;
let secret: Secret;

beforeEach(() => {
  const binding = mintBinding(config.accountKey, config.root.network, config.account, nodeId);
  secret = {
    apiVersion: "v1",
    kind: "Secret",
    metadata: {
      name: "gpu-1-identity",
      namespace: "n",
      uid: "u",
      resourceVersion: "1",
      creationTimestamp: "2026-01-01T00:00:00Z",
    },
    data: encoded({ "key.jwk": JSON.stringify(jwk), "binding.json": JSON.stringify(binding) }),
  };
});

const text = (entry: string): string | undefined => {
  const value = secret.data?.[entry];
  return value === undefined ? undefined : Buffer.from(value, "base64").toString();
};
const kidOf = (entry: string): KeyId => {
  const key: PrivateJwk = JSON.parse(text(entry) ?? "{}");
  return importPrivateKey(key).kid;
};

/** What the API server makes of a patch. */
function apply(operations: readonly JsonPatchOperation[]): void {
  const data: Record<string, string> = { ...secret.data };
  const annotations: Record<string, string> = { ...secret.metadata.annotations };
  for (const { op, path, value } of operations.map((each) => ({ value: undefined, ...each }))) {
    const [, where = "", name = "", last = ""] = path.split("/");
    if (where === "data" && op === "remove") delete data[name];
    else if (where === "data") data[name] = String(value);
    else if (last !== "") annotations[last.replaceAll("~1", "/")] = String(value);
  }
  secret = { ...secret, data, metadata: { ...secret.metadata, annotations } };
}

type Feed = Parameters<typeof planRotation>[2];

/** One look of an operator that remembers nothing, to its write. */
function look(wish: string | undefined, feed: Feed): RotationStep["step"] {
  const facts = factsOf(secret);
  const step = planRotation(facts, wish, feed);
  const held = new Set(Object.keys(secret.data ?? {}));
  apply([
    ...rotationPatch(facts, step, config, held, generateKey),
    ...rotationNote(step, secret.metadata.annotations),
  ]);
  return step.step;
}

const at = (kid: KeyId, over: Partial<NonNullable<Feed>> = {}): Feed => ({
  kid,
  revoked: false,
  generation: 0,
  ...over,
});

describe("a rotation", () => {
  it("takes one write to begin and one to end, and is settled then", () => {
    expect(look(undefined, at(first.kid))).toBe("settled");
    expect(look("1", at(first.kid))).toBe("begin");
    const next = kidOf("next.jwk");
    expect([kidOf("key.jwk"), secret.metadata.annotations?.[rotatedAnnotation]]).toEqual([first.kid, "1"]);
    expect(look("1", at(first.kid))).toBe("wait");
    expect(kidOf("next.jwk")).toBe(next);
    expect(look("1", at(next))).toBe("promote");
    expect([kidOf("key.jwk"), text("next.jwk")]).toEqual([next, undefined]);
    expect(JSON.parse(text("former.json") ?? "")).toEqual([{ kty: "OKP", crv: "Ed25519", x }]);
    expect(look("1", at(next))).toBe("settled");
    expect(factsOf(secret)).toMatchObject({ nodeId, key: { kid: next } });
  });

  it("that is under way is ended before the next one begins, whatever is wished meanwhile", () => {
    look("1", at(first.kid));
    const next = kidOf("next.jwk");
    for (const wish of ["2", undefined]) expect(look(wish, at(first.kid))).toBe("wait");
    expect(look("2", at(next))).toBe("promote");
    expect(look("2", at(next))).toBe("begin");
    expect(kidOf("key.jwk")).toBe(next);
  });

  it("waits while the network says nothing of the node", () => {
    expect(look("1", undefined)).toBe("wait");
    expect(text("next.jwk")).toBeUndefined();
  });

  it("of a revoked key replaces it at once, with a grant of the next generation", () => {
    expect(look(undefined, at(first.kid, { revoked: true, generation: 4 }))).toBe("settled");
    expect(look("1", at(first.kid, { revoked: true, generation: 4 }))).toBe("recover");
    const grant = grantSchema.parse(JSON.parse(text("grant.json") ?? ""));
    expect(checkGrant(config.accountKey, grant)).toBe(true);
    expect(grant).toMatchObject({ node_id: nodeId, kid: kidOf("key.jwk"), generation: 5 });
    expect(factsOf(secret).nodeId).toBe(nodeId);
    // The feed still shows the revocation until the agent has registered: that is no new wish.
    expect(look("1", at(first.kid, { revoked: true, generation: 4 }))).toBe("settled");
    const recovered = kidOf("key.jwk");
    expect(look("2", at(recovered, { generation: 5 }))).toBe("begin");
    expect(look("2", at(kidOf("next.jwk"), { generation: 5 }))).toBe("promote");
    // The grant stays: it stands for keys since the first one, where that is lost.
    expect(grantSchema.parse(JSON.parse(text("grant.json") ?? ""))).toEqual(grant);
    expect(JSON.parse(text("former.json") ?? "")).toHaveLength(2);
    expect(factsOf(secret).nodeId).toBe(nodeId);
  });

  it("that a revocation overtakes waits for another wish", () => {
    look("1", at(first.kid));
    const revoked = at(first.kid, { revoked: true });
    expect(look("1", revoked)).toBe("wait");
    expect(look("2", revoked)).toBe("recover");
    expect(text("next.jwk")).toBeUndefined();
  });
});

describe("an identity Secret", () => {
  it("whose binding was left behind by another node is a new node's", () => {
    const other = generateKey();
    apply([{ op: "add", path: "/data/key.jwk", value: encoded({ k: JSON.stringify(other) })["k"] ?? "" }]);
    expect(factsOf(secret).nodeId).toBe(String(importPrivateKey(other).kid));
  });

  it.each([
    ["key.jwk", "restore it"],
    ["next.jwk", "remove it"],
  ])("with a broken %s is refused, with the fix and without its content", (entry, fix) => {
    const broken = { ...jwk, x: "no key" };
    apply([{ op: "add", path: `/data/${entry}`, value: encoded({ k: JSON.stringify(broken) })["k"] ?? "" }]);
    const refused = (() => {
      try {
        return void factsOf(secret);
      } catch (error) {
        return error;
      }
    })();
    expect(refused).toBeInstanceOf(IdentityError);
    expect(String(refused)).toContain(fix);
    expect(String(refused)).not.toContain(jwk.d);
  });
});
