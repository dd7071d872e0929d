/** Vectors of what everything else stands on: keys, JSON, field forms, compact JWS. */
import { sign } from "node:crypto";
import { signJws } from "../../src/protocol/jws.ts";
import type { SigningKey } from "../../src/protocol/keys.ts";
import {
  accountKey,
  bytes16,
  bytes32,
  type Case,
  digest,
  encode,
  flipped,
  jwkOf,
  keyLabels,
  keys,
  spelledOtherwise,
} from "./fixed.ts";
import { importPublicKey } from "../../src/protocol/keys.ts";

export function keyVectors(): object {
  const jwk = jwkOf("node");
  const { kty, crv, x } = jwk;
  const cases: Case[] = [
    { name: "a public key", verdict: "valid", jwk: { kty, crv, x } },
    { name: "a private key", verdict: "valid", jwk },
    { name: "unknown members are ignored", verdict: "valid", jwk: { kty, crv, x, use: "sig" } },
    { name: "x with padding", verdict: "malformed", jwk: { kty, crv, x: `${x}=` } },
    {
      name: "another spelling of the same x",
      verdict: "malformed",
      jwk: { kty, crv, x: spelledOtherwise(x) },
    },
    { name: "x of 31 bytes", verdict: "malformed", jwk: { kty, crv, x: x.slice(0, 42) } },
    { name: "d of 31 bytes", verdict: "malformed", jwk: { ...jwk, d: jwk.d.slice(0, 42) } },
    {
      name: "another spelling of the same d",
      verdict: "malformed",
      jwk: { ...jwk, d: spelledOtherwise(jwk.d) },
    },
    { name: "another curve", verdict: "malformed", jwk: { kty, crv: "X25519", x } },
    { name: "another key type", verdict: "malformed", jwk: { kty: "EC", crv, x } },
    {
      name: "a private key whose halves do not belong together",
      verdict: "malformed",
      jwk: { ...jwk, x: jwkOf("stranger").x },
    },
  ];
  return {
    about:
      "Test keys. `d` is SHA-256 of `resultity test vector: key <name>`; `kid` is the RFC 7638 thumbprint. Cases: import of a JWK.",
    keys: keyLabels.map((name) => ({ name, jwk: jwkOf(name), kid: importPublicKey(jwkOf(name)).kid })),
    account_key: accountKey.toString("base64url"),
    cases,
  };
}

export function jsonVectors(): object {
  const text = (name: string, verdict: string, json: string): Case => ({ name, verdict, text: json });
  const cases: Case[] = [
    text("an object", "valid", '{"a":[1,"x",null,true]}'),
    text("equal keys in different objects", "valid", '[{"a":1},{"a":2}]'),
    text("white space around everything", "valid", ' {\n"a" :\t1 } '),
    text("a whole surrogate pair, escaped", "valid", '["\\ud83d\\ude00"]'),
    text("a character outside the basic plane", "valid", '["😀"]'),
    text("an escaped NUL", "valid", '["\\u0000"]'),
    text("duplicate keys", "malformed", '{"a":1,"a":2}'),
    text("duplicate keys, one of them escaped", "malformed", '{"a":1,"\\u0061":1}'),
    text("duplicate keys further in", "malformed", '{"x":[{"b":1, "b" : 2}]}'),
    text("the key __proto__", "malformed", '{"__proto__":{}}'),
    text("the key __proto__, escaped", "malformed", '{"\\u005f_proto__":1}'),
    text("the key constructor", "malformed", '{"constructor":1}'),
    text("__proto__ and constructor as values", "valid", '["__proto__","constructor"]'),
    text("16 levels", "valid", `${"[".repeat(16)}${"]".repeat(16)}`),
    text("17 levels", "malformed", `${"[".repeat(17)}${"]".repeat(17)}`),
    {
      name: "8192 values",
      verdict: "valid",
      repeat: [
        ["[0", 1],
        [",0", 8191],
        ["]", 1],
      ],
    },
    {
      name: "8193 values",
      verdict: "malformed",
      repeat: [
        ["[0", 1],
        [",0", 8192],
        ["]", 1],
      ],
    },
    {
      name: "8193 values, the last of them a list",
      verdict: "malformed",
      repeat: [
        ["[0", 1],
        [",0", 8190],
        [",[]]", 1],
      ],
    },
    text("half a surrogate pair", "malformed", '["\\ud800"]'),
    text("half a surrogate pair in a key", "malformed", '{"\\udc00":1}'),
    text("a pair the wrong way round", "malformed", '["\\ude00\\ud83d"]'),
    { name: "not UTF-8", verdict: "malformed", bytes: Buffer.from([0x22, 0xff, 0x22]).toString("base64url") },
    {
      name: "a surrogate in UTF-8",
      verdict: "malformed",
      bytes: Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]).toString("base64url"),
    },
    {
      name: "an overlong character",
      verdict: "malformed",
      bytes: Buffer.from([0x22, 0xc0, 0xaf, 0x22]).toString("base64url"),
    },
    { name: "a byte order mark", verdict: "malformed", bytes: Buffer.from("\uFEFF{}").toString("base64url") },
    text("nothing", "malformed", ""),
    text("two values", "malformed", "1 2"),
    text("a comma too many", "malformed", "[1,]"),
    text("a comment", "malformed", "[1/**/]"),
    text("NaN", "malformed", "[NaN]"),
    text("a single-quoted string", "malformed", "['a']"),
    text("a control character in a string", "malformed", '["\u0001"]'),
    text("an unterminated string", "malformed", '{"a":"b'),
  ];
  return {
    about:
      "JSON texts under the default bounds. A case has `text`, or `bytes` (base64url of the raw bytes), or `repeat`: pairs of a text and how often it stands there.",
    cases,
  };
}

export function fieldVectors(): object {
  const hex = "0".repeat(64);
  return {
    about: 'Values that a field of each type (docs/protocol.md, "Field types") takes and refuses (`schema`).',
    fields: {
      bytes32: {
        valid: [bytes32("a"), "A".repeat(43)],
        invalid: [
          "",
          bytes32("a").slice(1),
          `${bytes32("a")}=`,
          `${"A".repeat(42)}B`,
          `+${"A".repeat(42)}`,
          1,
          null,
        ],
      },
      bytes16: {
        valid: [bytes16("a"), "A".repeat(22)],
        invalid: ["", "A".repeat(21), `${"A".repeat(21)}B`, `${"A".repeat(22)}==`, 1],
      },
      digest: {
        valid: [digest],
        invalid: [digest.toUpperCase(), digest.slice(7), `sha512:${hex}`, `${digest}0`, ""],
      },
      sha256: { valid: [hex, digest.slice(7)], invalid: [hex.slice(1), "A".repeat(64), `sha256:${hex}`] },
      job: {
        valid: ["job-00000001", "abcdefgh", `j${"0".repeat(63)}`],
        invalid: ["job-001", "Job-00000001", "-ob-00000001", `j${"0".repeat(64)}`, "job/00000001"],
      },
      name: {
        valid: ["a", "testnet", "Acme.eu-west_1", "a".repeat(63)],
        invalid: ["", "a".repeat(64), "-a", "a-", ".a", "a/b", "a b", "ä"],
      },
      model: {
        valid: ["org/name:tag", "m", "a@b+c-d_e.f", "a".repeat(255)],
        invalid: ["", "/abs", "../x", "a/../b", "a/..", "a b", "a".repeat(256), "a\u0000"],
      },
      version: { valid: ["0.1.0", "1.2.3-rc.1+build_5", "v1"], invalid: ["", "-1", "1 2", "a".repeat(65)] },
      image: {
        valid: [`registry.test:5000/a/b@sha256:${hex}`],
        invalid: [
          "registry.test/a:latest",
          `a@sha256:${hex.slice(1)}`,
          `a@sha512:${hex}`,
          `${"a".repeat(442)}@sha256:${hex}`,
        ],
      },
      url: {
        valid: ["http://a", "wss://io.test/v1/session"],
        invalid: ["ftp://a", "io.test", "http://a b", `http://${"a".repeat(2042)}`],
      },
      text: {
        valid: ["", "x".repeat(512), "😀".repeat(512)],
        invalid: ["x".repeat(513), "😀".repeat(513), 1, null],
      },
      count: {
        valid: [0, 9_007_199_254_740_991],
        invalid: [-1, 0.5, 9_007_199_254_740_992, "1", null, true],
      },
      seq: { valid: [1], invalid: [0, -1, 1.5] },
      attempt: { valid: [1, 1000], invalid: [0, 1001] },
      duration: { valid: [0, 2_678_400_000], invalid: [-1, 2_678_400_001] },
    },
  };
}

export function jwsVectors(): object {
  const key = keys.node;
  const typ = "rn1.test";
  const payload = '{"hello":"world"}';
  const good = signJws(typ, payload, key);
  const [head = "", body = "", signature = ""] = good.split(".");
  const header = { alg: "Ed25519", kid: key.kid, typ };
  const signed = (headerText: string, payloadText: string, by: SigningKey = key): string => {
    const input = `${headerText}.${payloadText}`;
    return `${input}.${sign(null, Buffer.from(input), by.privateKey).toString("base64url")}`;
  };
  const withHeader = (value: unknown): string => signed(encode(value), body);
  const bad = (name: string, verdict: string, jws: string): Case => ({ name, verdict, jws });
  const raw = Buffer.from(signature, "base64url");
  const cases: Case[] = [
    { name: "as it should be", verdict: "valid", jws: good, header, payload },
    bad("header members in another order", "valid", withHeader({ typ, kid: key.kid, alg: "Ed25519" })),
    bad("an unknown header member", "valid", withHeader({ ...header, x: 1 })),
    bad("an empty payload", "valid", signed(head, "")),
    bad("one bit of the signature flipped", "bad_signature", `${head}.${body}.${flipped(signature)}`),
    bad(
      "one bit of the payload flipped",
      "bad_signature",
      `${head}.${encode('{"hello":"World"}')}.${signature}`,
    ),
    bad(
      "the header changed after signing",
      "bad_signature",
      `${encode({ ...header, x: 1 })}.${body}.${signature}`,
    ),
    bad(
      "a signature of 63 bytes",
      "bad_signature",
      `${head}.${body}.${raw.subarray(0, 63).toString("base64url")}`,
    ),
    bad(
      "a signature of 65 bytes",
      "bad_signature",
      `${head}.${body}.${Buffer.concat([raw, Buffer.alloc(1)]).toString("base64url")}`,
    ),
    bad("an all-zero signature", "bad_signature", `${head}.${body}.${"A".repeat(86)}`),
    bad("an empty signature", "bad_signature", `${head}.${body}.`),
    bad(
      "another spelling of the same signature",
      "bad_signature",
      `${head}.${body}.${spelledOtherwise(signature)}`,
    ),
    bad("a signature with padding", "bad_signature", `${good}==`),
    bad(
      "S of the signature increased by the group order",
      "bad_signature",
      `${head}.${body}.${plusOrder(raw).toString("base64url")}`,
    ),
    bad("signed by another key, kid of the expected one", "bad_signature", signed(head, body, keys.stranger)),
    bad("signed by another key, kid of that key", "unknown_key", signJws(typ, payload, keys.stranger)),
    bad("kid in lower case", "unknown_key", withHeader({ ...header, kid: key.kid.toLowerCase() })),
    bad("kid with padding", "unknown_key", withHeader({ ...header, kid: `${key.kid}=` })),
    bad("no kid", "unknown_key", withHeader({ alg: "Ed25519", typ })),
    bad("alg none, no signature", "wrong_alg", `${encode({ ...header, alg: "none" })}.${body}.`),
    bad("alg none, signed", "wrong_alg", withHeader({ ...header, alg: "none" })),
    bad("alg HS256", "wrong_alg", withHeader({ ...header, alg: "HS256" })),
    bad("alg EdDSA, the older name", "wrong_alg", withHeader({ ...header, alg: "EdDSA" })),
    bad("alg in lower case", "wrong_alg", withHeader({ ...header, alg: "ed25519" })),
    bad("no alg", "wrong_alg", withHeader({ kid: key.kid, typ })),
    bad("typ of another kind", "wrong_typ", signJws("rn1.status", payload, key)),
    bad("typ in upper case", "wrong_typ", signJws("RN1.TEST", payload, key)),
    bad("no typ", "wrong_typ", withHeader({ alg: "Ed25519", kid: key.kid })),
    bad("crit", "malformed", withHeader({ ...header, crit: ["x"], x: 1 })),
    bad("b64", "malformed", withHeader({ ...header, b64: true })),
    bad(
      "a duplicate header member",
      "malformed",
      signed(encode(`{"alg":"Ed25519","alg":"Ed25519","kid":"${key.kid}","typ":"${typ}"}`), body),
    ),
    bad(
      "__proto__ in the header",
      "malformed",
      signed(encode(`{"alg":"Ed25519","kid":"${key.kid}","typ":"${typ}","__proto__":{}}`), body),
    ),
    bad("three levels in the header", "malformed", withHeader({ ...header, x: [[]] })),
    bad(
      "33 values in the header",
      "malformed",
      withHeader({ ...header, x: Array.from({ length: 30 }, () => 0) }),
    ),
    bad("a header that is an array", "malformed", withHeader(["Ed25519"])),
    bad("a header that is not JSON", "malformed", signed(encode("alg"), body)),
    bad(
      "a header that is not UTF-8",
      "malformed",
      signed(Buffer.from([0x7b, 0xff, 0x7d]).toString("base64url"), body),
    ),
    bad("a header with padding", "malformed", signed(`${encode({ ...header, x: "12" })}=`, body)),
    bad(
      "another spelling of the same header",
      "malformed",
      signed(spelledOtherwise(unaligned({ ...header })), body),
    ),
    bad(
      "another spelling of the same payload",
      "malformed",
      signed(head, spelledOtherwise(encode('{"a":10}'))),
    ),
    bad("a payload in the other base64 alphabet", "malformed", signed(head, "+/+/")),
    bad("a payload of one character", "malformed", signed(head, "A")),
    bad(
      "a payload that is not UTF-8",
      "malformed",
      signed(head, Buffer.from([0x22, 0xff, 0x22]).toString("base64url")),
    ),
    bad("two parts", "malformed", `${head}.${body}`),
    bad("four parts", "malformed", `${good}.${signature}`),
    bad("an empty header", "malformed", `.${body}.${signature}`),
    bad("nothing", "malformed", ""),
    bad("white space in front", "malformed", ` ${good}`),
    bad("white space after", "bad_signature", `${good}\n`),
  ];
  return {
    about:
      "Compact JWS that should have been signed by key `kid` for `typ`. `payload`: what a valid one holds, as text.",
    kid: key.kid,
    typ,
    cases,
  };
}

/** Base64url of the header, with a member that leaves unused bits in the last character. */
function unaligned(header: Readonly<Record<string, unknown>>): string {
  for (let pad = ""; ; pad += "x") {
    const text = encode({ ...header, pad });
    if (text.length % 4 !== 0) return text;
  }
}

/** The signature with S + L: the same point equation, which RFC 8032 §5.1.7 demands to refuse. */
function plusOrder(signature: Buffer): Buffer {
  const order = 2n ** 252n + 27_742_317_777_372_353_535_851_937_790_883_648_493n;
  let s = order;
  for (let at = 0; at < 32; at++) s += BigInt(signature[32 + at] ?? 0) << BigInt(8 * at);
  const result = Buffer.from(signature);
  for (let at = 0; at < 32; at++) result[32 + at] = Number((s >> BigInt(8 * at)) & 0xffn);
  return result;
}
