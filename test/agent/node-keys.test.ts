import { beforeEach, describe, expect, it } from "vitest";
import { type FolderKeys, NodeKeys } from "../../src/agent/node-keys.ts";
import { mintGrant } from "../../src/protocol/binding.ts";
import { generateKey, importPrivateKey, type NodeId, type SigningKey } from "../../src/protocol/keys.ts";
import { accountKey } from "../io/registration/world.ts";

const fresh = (): SigningKey => importPrivateKey(generateKey());
const first = fresh();
const next = fresh();
const nodeId = String(first.kid) as NodeId;
const folder = (over: Partial<FolderKeys> = {}): FolderKeys => ({
  key: first,
  next: undefined,
  former: [],
  grant: undefined,
  ...over,
});
const grantOf = (key: SigningKey) =>
  mintGrant(accountKey, {
    network: "testnet",
    account: "acme",
    node_id: nodeId,
    kid: key.kid,
    generation: 1,
  });

let keys: NodeKeys;
beforeEach(() => {
  keys = new NodeKeys(nodeId, folder());
});

const wanted = () => keys.wanted?.kid;
const known = () => keys.known.map(({ kid }) => kid);

describe("a node's keys", () => {
  it("go through a rollover: wanted, taken up, made the only one", () => {
    expect([keys.current.kid, wanted()]).toEqual([first.kid, undefined]);
    expect(keys.take(folder({ next }))).toBe(false);
    expect([keys.current.kid, wanted()]).toEqual([first.kid, next.kid]);
    keys.use(next);
    expect([keys.current.kid, wanted()]).toEqual([next.kid, undefined]);
    expect(keys.held.map(({ kid }) => kid)).toEqual([next.kid, first.kid]);
    expect(keys.take(folder({ key: next, former: [first] }))).toBe(false);
    expect(keys.held.map(({ kid }) => kid)).toEqual([next.kid]);
    expect(known()).toEqual(expect.arrayContaining([first.kid, next.kid]));
  });

  it("stay known though the folder has forgotten them: a pod's hook keeps its token", () => {
    keys.take(folder({ next }));
    keys.take(folder({ key: next }));
    expect(known()).toContain(first.kid);
  });

  it("follow the folder where it no longer has the current one", () => {
    const recovered = fresh();
    expect(keys.take(folder({ key: recovered, grant: grantOf(recovered) }))).toBe(true);
    expect(keys.current.kid).toBe(recovered.kid);
  });

  it("are tried one after another when the service knows one of them only", () => {
    keys.take(folder({ next }));
    expect(keys.useAnother(new Set([first.kid]))).toBe(true);
    expect(keys.current.kid).toBe(next.kid);
    expect(keys.useAnother(new Set([first.kid, next.kid]))).toBe(false);
    expect(keys.current.kid).toBe(next.kid);
  });

  it("register by the first one, or by the one that a grant names", () => {
    expect(keys.registration).toEqual({ key: first, grant: undefined });
    keys.take(folder({ next }));
    keys.use(next);
    expect(keys.registration).toEqual({ key: first, grant: undefined });
    const grant = grantOf(next);
    keys.take(folder({ key: next, former: [first], grant }));
    expect(keys.registration).toEqual({ key: next, grant });
    // Rolled over since the grant: that says nothing of the key now.
    keys.take(folder({ key: fresh(), former: [first, next], grant }));
    expect(keys.registration).toBeUndefined();
  });
});
