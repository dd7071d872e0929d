import { randomBytes, sign } from "node:crypto";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { CompactSign, calculateJwkThumbprint, compactVerify, importJWK } from "jose";
import { describe, expect, it } from "vitest";
import { openFrame, sealFrame } from "../../src/protocol/frame.ts";
import { signJws, splitJws, verifyJws } from "../../src/protocol/jws.ts";
import { generateKey, importPrivateKey, importPublicKey } from "../../src/protocol/keys.ts";
import { maxFrameBytes, type Payload } from "../../src/protocol/messages.ts";
import { expectCode } from "./errors.ts";
import { newKey, random16 } from "./network.ts";

const key = newKey();
const goodbye: Payload<"goodbye"> = { sid: random16(), seq: 1, reason: "drained" };

describe("compact JWS", () => {
  it("is what an independent library verifies, thumbprint included", async () => {
    const jws = signJws("rn1.test", '{"a":1}', key);
    const { payload, protectedHeader } = await compactVerify(jws, await importJWK({ ...key.jwk }, "Ed25519"));
    expect(new TextDecoder().decode(payload)).toBe('{"a":1}');
    expect(protectedHeader).toEqual({ alg: "Ed25519", kid: key.kid, typ: "rn1.test" });
    expect(await calculateJwkThumbprint({ ...key.jwk })).toBe(key.kid);
  });

  it("verifies what an independent library signed", async () => {
    const secret = generateKey();
    const other = importPrivateKey(secret);
    const jws = await new CompactSign(new TextEncoder().encode("hello"))
      .setProtectedHeader({ alg: "Ed25519", kid: other.kid, typ: "rn1.test" })
      .sign(await importJWK({ ...secret }, "Ed25519"));
    expect(verifyJws(splitJws(jws, "rn1.test"), other)).toBe("hello");
  });

  it("refuses private keys whose halves do not belong together, without repeating them", () => {
    const a = generateKey();
    const error = expectCode("malformed", () => importPrivateKey({ ...a, x: generateKey().x }));
    expect(error.message).not.toContain(a.d);
  });

  it("refuses a public key with another spelling of the same bytes", () => {
    const last = key.jwk.x.slice(-1);
    const next = String.fromCharCode(last.charCodeAt(0) + 1);
    expectCode("malformed", () => importPublicKey({ ...key.jwk, x: key.jwk.x.slice(0, -1) + next }));
  });
});

describe("splitJws", () => {
  it("keeps no frame that strangers send, only short headers", () => {
    setFlagsFromString("--expose-gc");
    const collect: unknown = runInNewContext("gc");
    const heap = (): number => {
      if (typeof collect === "function") collect();
      return process.memoryUsage().heapUsed / 1024 / 1024;
    };
    const before = heap();
    for (let at = 0; at < 1_000; at++) {
      const kid = randomBytes(32).toString("base64url");
      const header = Buffer.from(JSON.stringify({ alg: "Ed25519", kid, typ: "rn1.test" })).toString(
        "base64url",
      );
      // From bytes, as it comes from a socket.
      const text = Buffer.from(`${header}.${"A".repeat(100 * 1024)}.${"A".repeat(86)}`).toString("latin1");
      expect(splitJws(text, "rn1.test").header.kid).toBe(kid);
    }
    expect(heap() - before).toBeLessThan(20);
  });
});

describe("openFrame", () => {
  const frame = sealFrame("goodbye", goodbye, key);
  const [header = "", payload = "", signature = ""] = frame.split(".");
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const open = (text: string) => openFrame(text, ["goodbye"], key);

  it("returns what was sealed", () => {
    expect(open(frame).payload).toEqual(goodbye);
  });

  const flipped = (text: string) => (text.startsWith("A") ? `B${text.slice(1)}` : `A${text.slice(1)}`);
  const spelledOtherwise = (text: string) =>
    text.slice(0, -1) + String.fromCharCode(text.charCodeAt(text.length - 1) + 1);
  const lastBits = (text: string) => {
    const order = "AQgw";
    return (
      text.slice(0, -1) +
      String.fromCharCode(text.charCodeAt(text.length - 1) + (order.includes(text.slice(-1)) ? 1 : 0))
    );
  };

  it.each([
    ["B04 one flipped bit", "bad_signature", `${header}.${payload}.${flipped(signature)}`],
    ["B04 a short signature", "bad_signature", `${header}.${payload}.${signature.slice(0, 80)}`],
    ["B04 an all-zero signature", "bad_signature", `${header}.${payload}.${"A".repeat(86)}`],
    [
      "B04 another spelling of the same signature",
      "bad_signature",
      `${header}.${payload}.${lastBits(signature)}`,
    ],
    ["B06 alg none", "wrong_alg", `${encode({ alg: "none", kid: key.kid, typ: "rn1.goodbye" })}.${payload}.`],
    [
      "B06 alg HS256",
      "wrong_alg",
      `${encode({ alg: "HS256", kid: key.kid, typ: "rn1.goodbye" })}.${payload}.${signature}`,
    ],
    [
      "a header with crit",
      "malformed",
      `${encode({ alg: "Ed25519", kid: key.kid, typ: "rn1.goodbye", crit: ["x"] })}.${payload}.${signature}`,
    ],
    ["an altered payload", "bad_signature", `${header}.${encode({ ...goodbye, seq: 2 })}.${signature}`],
    [
      "B08 kid in another case",
      "unknown_key",
      `${encode({ alg: "Ed25519", kid: key.kid.toLowerCase(), typ: "rn1.goodbye" })}.${payload}.${signature}`,
    ],
    [
      "B08 another spelling of the same header",
      "malformed",
      `${header.length % 4 === 0 ? `${header}A` : spelledOtherwise(header)}.${payload}.${signature}`,
    ],
    [
      "B08 another spelling of the same payload",
      "malformed",
      `${header}.${payload.length % 4 === 0 ? `${payload}A` : spelledOtherwise(payload)}.${signature}`,
    ],
    ["two parts", "malformed", `${header}.${payload}`],
    ["four parts", "malformed", `${frame}.${signature}`],
    ["nothing", "malformed", ""],
  ] as const)("refuses %s", (_name, code, text) => {
    const error = expectCode(code, () => open(text));
    expect(error.message).not.toContain(signature.slice(0, 20));
  });

  it("B05 refuses the right form by the wrong key", () => {
    expectCode("unknown_key", () => open(sealFrame("goodbye", goodbye, newKey())));
  });

  it("B31 refuses a signature made for another kind of message", () => {
    expectCode("wrong_typ", () => open(signJws("rn1.status", JSON.stringify(goodbye), key)));
  });

  it("B16 refuses a signed payload that is not UTF-8", () => {
    const input = `${header}.${Buffer.from([0x22, 0xff, 0x22]).toString("base64url")}`;
    const signed = sign(null, Buffer.from(input), key.privateKey).toString("base64url");
    expectCode("malformed", () => open(`${input}.${signed}`));
  });

  it.each([
    ["B14 a number beyond 2^53", { ...goodbye, seq: 2 ** 53 + 2 }],
    ["B14 a fraction", { ...goodbye, seq: 1.5 }],
    ["B14 a negative number", { ...goodbye, seq: -1 }],
    ["a missing field", { sid: goodbye.sid, seq: 1 }],
    ["a value off the list", { ...goodbye, reason: "bored" }],
  ])("refuses %s and names the field, not the value", (_name, value) => {
    const error = expectCode("schema", () => open(signJws("rn1.goodbye", JSON.stringify(value), key)));
    expect(error.message).toMatch(/goodbye: field (seq|reason) is missing or wrong/);
  });

  it("B14 refuses 1e400", () => {
    const text = `{"sid":"${goodbye.sid}","seq":1e400,"reason":"drained"}`;
    expectCode("schema", () => open(signJws("rn1.goodbye", text, key)));
  });

  it("B19 refuses a frame over its limit before looking at it", () => {
    expectCode("too_large", () => open("x".repeat(maxFrameBytes + 1)));
  });
});
