import { describe, expect, it } from "vitest";
import {
  checkAllowed,
  type Release,
  signRelease,
  verifyRelease,
} from "../../../src/protocol/config/release.ts";
import { parseStatement, rotateRoot, signRoot, trustRoot } from "../../../src/protocol/config/root.ts";
import { digestOf, openSnapshot } from "../../../src/protocol/config/snapshot.ts";
import { cosignStatement } from "../../../src/protocol/config/statement.ts";
import { expectCode } from "../errors.ts";
import { makeNetwork, makeSnapshot, newKey } from "../network.ts";

describe("release", () => {
  it("is believed with signatures of two distinct config keys", () => {
    const net = makeNetwork();
    expect(verifyRelease(net.releaseStatement, net.root, 0)).toEqual(net.release);
    expect(verifyRelease(net.releaseStatement, net.root, net.release.sequence).sequence).toBe(5);
  });

  it("may be signed on two machines, one after the other", () => {
    const net = makeNetwork();
    const half = signRelease(net.release, [net.configKeys[0]]);
    expectCode("threshold", () => verifyRelease(half, net.root, 0));
    const whole = cosignStatement("rn1.release", half, net.configKeys[2]);
    expect(verifyRelease(whole, net.root, 0).sequence).toBe(5);
    expect(cosignStatement("rn1.release", whole, net.configKeys[2]).signatures).toHaveLength(2);
  });

  const cases: readonly [string, string, (net: ReturnType<typeof makeNetwork>) => void][] = [
    [
      "B24 one signature where two are needed",
      "threshold",
      (net) => verifyRelease(signRelease(net.release, [net.configKeys[0]]), net.root, 0),
    ],
    [
      "B24 two signatures by the same key",
      "threshold",
      (net) => verifyRelease(signRelease(net.release, [net.configKeys[0], net.configKeys[0]]), net.root, 0),
    ],
    [
      "B24 signatures by keys of another role",
      "threshold",
      (net) => verifyRelease(signRelease(net.release, net.rootKeys), net.root, 0),
    ],
    [
      "B24 signatures by unknown keys",
      "threshold",
      (net) => verifyRelease(signRelease(net.release, [newKey(), newKey()]), net.root, 0),
    ],
    ["B24 a lower sequence", "rollback", (net) => verifyRelease(net.releaseStatement, net.root, 6)],
    [
      "B24 another network",
      "wrong_network",
      (net) =>
        verifyRelease(signRelease({ ...net.release, network: "mainnet" }, net.configKeys), net.root, 0),
    ],
    [
      "current that is not allowed",
      "schema",
      (net) => {
        const release: Release = { ...net.release, current: digestOf(Buffer.from("other")) };
        verifyRelease(signRelease(release, net.configKeys), net.root, 0);
      },
    ],
    [
      "a digest that is allowed twice, until two different times",
      "schema",
      (net) => {
        const { digest, now, release } = net;
        const allowed = [...release.allowed, { digest, expires: now + 1 }];
        verifyRelease(signRelease({ ...release, allowed }, net.configKeys), net.root, 0);
      },
    ],
    [
      "a torn signature beside two good ones",
      "bad_signature",
      (net) => {
        const whole = signRelease(net.release, net.configKeys);
        const torn = whole.signatures.map((entry, at) =>
          at === 0 ? { ...entry, signature: whole.signatures[1]?.signature ?? "" } : entry,
        );
        verifyRelease({ ...whole, signatures: torn }, net.root, 0);
      },
    ],
  ];
  it.each(cases)("is refused with %s", (_name, code, run) => {
    expectCode(code as never, () => run(makeNetwork()));
  });

  it("allows a digest until it expires, and no other", () => {
    const { release, digest, now } = makeNetwork();
    expect(checkAllowed(release, digest, now)).toBe(release.allowed[0]?.expires);
    expectCode("expired", () => checkAllowed(release, digest, release.allowed[0]?.expires ?? 0));
    expectCode("not_allowed", () => checkAllowed(release, digestOf(Buffer.from("withdrawn")), now));
  });
});

describe("root", () => {
  it("survives its way through text", () => {
    const { rootStatement, network } = makeNetwork();
    expect(trustRoot(parseStatement(JSON.stringify(rootStatement), "root.json"), network).version).toBe(1);
  });

  it("is refused when signed by fewer of its own keys than it asks for, or for another network", () => {
    const net = makeNetwork();
    expectCode("threshold", () => trustRoot(signRoot(net.rootPayload, [net.rootKeys[0]])));
    expectCode("wrong_network", () => trustRoot(net.rootStatement, "mainnet"));
  });

  it("rotates to version N+1 when both N and N+1 have signed", () => {
    const net = makeNetwork();
    const fresh = [newKey(), newKey()] as const;
    const next = {
      ...net.rootPayload,
      version: 2,
      keys: [...net.rootPayload.keys, ...fresh.map(({ jwk }) => jwk)],
      roles: { ...net.rootPayload.roles, root: { threshold: 2, kids: fresh.map(({ kid }) => kid) } },
    };
    expect(rotateRoot(net.root, signRoot(next, [...net.rootKeys.slice(0, 2), ...fresh])).version).toBe(2);
    expectCode("threshold", () => rotateRoot(net.root, signRoot(next, fresh)));
    expectCode("threshold", () => rotateRoot(net.root, signRoot(next, net.rootKeys)));
    const jump = { ...next, version: 3 };
    expectCode("rollback", () => rotateRoot(net.root, signRoot(jump, [...net.rootKeys, ...fresh])));
  });

  it("is refused when a role names a key that is not listed, or has fewer distinct keys than its threshold", () => {
    const net = makeNetwork();
    const unlisted = { ...net.rootPayload.roles, delegation: { threshold: 1, kids: [newKey().kid] } };
    expectCode("schema", () => trustRoot(signRoot({ ...net.rootPayload, roles: unlisted }, net.rootKeys)));
    const twice = {
      ...net.rootPayload.roles,
      config: { threshold: 2, kids: [net.configKeys[0].kid, net.configKeys[0].kid] },
    };
    expectCode("schema", () => trustRoot(signRoot({ ...net.rootPayload, roles: twice }, net.rootKeys)));
  });
});

describe("snapshot", () => {
  it("opens under its digest only, and for its network only", () => {
    const net = makeNetwork();
    expect(openSnapshot(net.snapshotBytes, net.digest, net.network)).toEqual(net.snapshot);
    const altered = Buffer.concat([net.snapshotBytes, Buffer.from(" ")]);
    expectCode("digest_mismatch", () => openSnapshot(altered, net.digest, net.network));
    expectCode("wrong_network", () => openSnapshot(net.snapshotBytes, net.digest, "mainnet"));
  });

  it("B28 refuses an image without a digest and B25 model names that leave their folder", () => {
    const bad = (change: object) => {
      const bytes = Buffer.from(JSON.stringify({ ...makeSnapshot("testnet"), ...change }));
      return expectCode("schema", () => openSnapshot(bytes, digestOf(bytes), "testnet")).message;
    };
    const runtime = { ...makeSnapshot("testnet").runtimes[0], image: "registry.test/engine:latest" };
    expect(bad({ runtimes: [runtime] })).toContain("runtimes.0.image");
    for (const name of ["../x", "a/../b", "/etc/passwd", "a\u0000b", "x".repeat(65_536)]) {
      expect(bad({ models: [{ name, engines: [] }] })).toContain("models.0.name");
    }
  });
});
