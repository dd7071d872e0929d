import { describe, expect, it } from "vitest";
import type { PublicJwk } from "../../src/protocol/keys.ts";
import { maxFormerKeys, withFormer } from "../../src/protocol/rollover.ts";

const key = (n: number): PublicJwk => ({ kty: "OKP", crv: "Ed25519", x: `key-${n}` });

describe("withFormer", () => {
  it("adds a key as the newest, and once", () => {
    expect(withFormer([], key(0))).toEqual([key(0)]);
    expect(withFormer([key(0), key(1)], key(2))).toEqual([key(0), key(1), key(2)]);
    expect(withFormer([key(0), key(1)], key(1))).toEqual([key(0), key(1)]);
  });

  it("stays within its bound, keeps the first and drops the oldest of the others", () => {
    let former: readonly PublicJwk[] = [];
    for (let n = 0; n < maxFormerKeys + 3; n++) former = withFormer(former, key(n));
    expect(former).toHaveLength(maxFormerKeys);
    expect([former[0], former[1], former.at(-1)]).toEqual([key(0), key(4), key(maxFormerKeys + 2)]);
  });
});
