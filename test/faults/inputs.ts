import { createHmac, sign } from "node:crypto";
import { type CloseCode, ProtocolError, type ProtocolErrorCode } from "../../src/protocol/codes.ts";
import { generateKey, importPrivateKey, type SigningKey } from "../../src/protocol/keys.ts";
import { maxFrameBytes } from "../../src/protocol/messages.ts";

/** Bad inputs of FAULTS as values, for whichever end they are sent to: in a session, by HTTP, to the service, to an agent. */

/** Part of every input below. Nothing that was sent may come back in an answer, a close reason or a log. */
export const marker = "guess-7c1e5f";

/** A message that would be believed; what is bad about an input is the difference to it. */
export interface Good {
  readonly typ: string;
  /** Header members beside `alg`, `kid` and `typ`. */
  readonly extra?: Readonly<Record<string, unknown>>;
  readonly key: SigningKey;
  /** Members of the payload, without the braces. */
  readonly members: string;
  /** The same with this text in the place of a whole number. */
  readonly numbered: (number: string) => string;
  /** Bytes of payload that fit into a frame or body. */
  readonly room: number;
}

/** An input, and the error that both ends must name. */
export interface BadInput {
  readonly id: string;
  readonly what: string;
  readonly error: ProtocolErrorCode;
  readonly make: (good: Good) => string;
}

export const newKey = (): SigningKey => importPrivateKey(generateKey());

/** The close code of an error. */
export const closeCodeOf = (error: ProtocolErrorCode): CloseCode => new ProtocolError(error, "").closeCode;

/** Bytes of payload that fit into a frame: base64url of them, and an envelope of at most 1 KiB. */
export const frameRoom = Math.floor(((maxFrameBytes - 1024) * 3) / 4);

const base64url = (bytes: string | Buffer): string => Buffer.from(bytes).toString("base64url");

/** Signs what {@link import("../../src/protocol/jws.ts").signJws} would never make. */
function seal(good: Good, payload: string | Buffer, header: Readonly<Record<string, unknown>> = {}): string {
  const { typ, key, extra } = good;
  const input = `${base64url(JSON.stringify({ alg: "Ed25519", kid: key.kid, typ, ...extra, ...header }))}.${base64url(payload)}`;
  return `${input}.${base64url(sign(null, Buffer.from(input), key.privateKey))}`;
}

/** The good message itself. */
export const sealGood = (good: Good): string => seal(good, `{${good.members}}`);

const replaceSignature = (frame: string, signature: string): string => frame.replace(/[^.]*$/, signature);

/** Envelopes that are wrong before anyone reads what is in them. */
const envelopes: readonly BadInput[] = [
  { id: "B04", what: "no JWS at all", error: "malformed", make: () => marker },
  { id: "B04", what: "an empty message", error: "malformed", make: () => "" },
  {
    id: "B04",
    what: "four parts",
    error: "malformed",
    make: (good) => `${sealGood(good).replace(/\.[^.]*$/, "")}.${base64url(marker)}.${"A".repeat(86)}`,
  },
  {
    id: "B04",
    what: "a short signature",
    error: "bad_signature",
    make: (good) => sealGood(good).slice(0, -4),
  },
  {
    id: "B04",
    what: "an all-zero signature",
    error: "bad_signature",
    make: (good) => replaceSignature(sealGood(good), "A".repeat(86)),
  },
  {
    id: "B04",
    what: "a flipped bit",
    error: "bad_signature",
    make: (good) => {
      const frame = sealGood(good);
      const at = frame.lastIndexOf(".") + 10;
      return `${frame.slice(0, at)}${frame[at] === "A" ? "B" : "A"}${frame.slice(at + 1)}`;
    },
  },
  {
    id: "B05",
    what: "a right signature by a key that is nobody's",
    error: "unknown_key",
    make: (good) => sealGood({ ...good, key: newKey() }),
  },
  {
    id: "B05",
    what: "the right kid over the signature of another key",
    error: "bad_signature",
    make: (good) => seal({ ...good, key: newKey() }, `{${good.members}}`, { kid: good.key.kid }),
  },
  {
    id: "B06",
    what: "alg none without a signature",
    error: "wrong_alg",
    make: (good) => replaceSignature(seal(good, `{${good.members}}`, { alg: "none" }), ""),
  },
  {
    id: "B06",
    what: "alg HS256 with the public key as the secret",
    error: "wrong_alg",
    make: (good) => {
      const frame = seal(good, `{${good.members}}`, { alg: "HS256" });
      const secret = Buffer.from(good.key.jwk.x, "base64url");
      const mac = createHmac("sha256", secret).update(frame.slice(0, frame.lastIndexOf(".")));
      return replaceSignature(frame, mac.digest("base64url"));
    },
  },
  {
    id: "B06",
    what: "alg EdDSA, an older name of the same",
    error: "wrong_alg",
    make: (good) => seal(good, `{${good.members}}`, { alg: "EdDSA" }),
  },
  {
    id: "B08",
    what: "kid in another case",
    error: "unknown_key",
    make: (good) => seal(good, `{${good.members}}`, { kid: swapCase(good.key.kid) }),
  },
  {
    id: "B08",
    what: "padded base64url",
    error: "malformed",
    make: (good) => {
      const [header, payload, signature] = sealGood(good).split(".");
      return `${header}.${payload}=.${signature}`;
    },
  },
  {
    id: "B22",
    what: "an unknown type",
    error: "wrong_typ",
    make: (good) => seal(good, `{${good.members}}`, { typ: `rn1.${marker}` }),
  },
  {
    id: "B22",
    what: "a type of another version",
    error: "wrong_typ",
    make: (good) => seal(good, `{${good.members}}`, { typ: good.typ.replace("rn1.", "rn2.") }),
  },
  {
    id: "B31",
    what: "what was signed as a status",
    error: "wrong_typ",
    make: (good) => seal(good, `{${good.members}}`, { typ: "rn1.status" }),
  },
  {
    id: "B31",
    what: "a status under another header",
    error: "bad_signature",
    make: (good) => {
      const status = seal(good, `{${good.members}}`, { typ: "rn1.status" });
      return replaceSignature(sealGood(good), status.slice(status.lastIndexOf(".") + 1));
    },
  },
  {
    id: "B19",
    what: "a payload over the limit",
    error: "too_large",
    make: (good) => seal(good, `{${good.members},"x":"${"x".repeat(good.room + 4096)}"}`),
  },
];

const swapCase = (text: string): string =>
  text.replaceAll(/[A-Za-z]/g, (letter) =>
    letter === letter.toLowerCase() ? letter.toUpperCase() : letter.toLowerCase(),
  );

/** Fills the room that a payload has beside its good members. */
const filled = (
  { members, room }: Good,
  begin: string,
  item: (at: number) => string,
  end: string,
): string => {
  let text = `{${members},${begin}`;
  for (let at = 0; text.length < room - 64; at++) text += item(at);
  return `${text}${end}}`;
};

/** Payloads that are rightly signed, and wrong. */
const payloads: readonly BadInput[] = [
  ...(
    [
      ["B09", "a duplicate key", `"x":"${marker}","x":1`],
      ["B09", "a duplicate key, once escaped", `"x":"${marker}","\\u0078":1`],
      ["B09", "a duplicate key in a nested object", `"x":{"${marker}":1,"${marker}":2}`],
      ["B10", "the key __proto__", `"__proto__":{"${marker}":1}`],
      ["B10", "the key constructor, escaped", `"\\u0063onstructor":{"prototype":{"${marker}":1}}`],
      ["B15", "a lone surrogate", `"x":"${marker}\\ud800"`],
      ["B15", "a lone surrogate in a key", `"${marker}\\udc00":1`],
    ] as const
  ).map(([id, what, more]) => ({
    id,
    what,
    error: "malformed" as const,
    make: (good: Good) => seal(good, `{${good.members},${more}}`),
  })),
  {
    id: "B11",
    what: "JSON as deep as fits",
    error: "malformed",
    make: (good) =>
      seal(
        good,
        filled(good, '"x":', () => "[", ""),
      ),
  },
  {
    id: "B11",
    what: "JSON nested 200,000 deep",
    error: "too_large",
    make: (good) => seal(good, `{${good.members},"x":${"[".repeat(200_000)}${"]".repeat(200_000)}}`),
  },
  {
    id: "B12",
    what: "an array of as many wrong elements as fit",
    error: "malformed",
    make: (good) =>
      seal(
        good,
        filled(good, '"x":[0', () => ",-1", "]"),
      ),
  },
  {
    id: "B12",
    what: "an array of 400,001 elements",
    error: "too_large",
    make: (good) => seal(good, `{${good.members},"x":[${"0,".repeat(400_000)}0]}`),
  },
  {
    id: "B13",
    what: "as many unknown keys as fit",
    error: "malformed",
    make: (good) =>
      seal(
        good,
        filled(good, '"x":0', (at) => `,"k${at}":0`, ""),
      ),
  },
  {
    id: "B13",
    what: "200,000 unknown keys",
    error: "too_large",
    make: (good) =>
      seal(
        good,
        filled({ ...good, room: 200_000 * 11 }, '"x":0', (at) => `,"k${at}":0`, ""),
      ),
  },
  ...(
    [
      ["1e400", "schema"],
      ["9007199254740993", "schema"],
      ["-1", "schema"],
      ["1.5", "schema"],
      ["NaN", "malformed"],
    ] as const
  ).map(([number, error]) => ({
    id: "B14",
    what: `the number ${number}`,
    error,
    make: (good: Good) => seal(good, `{${good.numbered(number)}}`),
  })),
  {
    id: "B16",
    what: "a signed payload that is not UTF-8",
    error: "malformed",
    make: (good) => {
      const [head, tail] = [`{${good.members},"x":"${marker}`, '"}'].map((text) => Buffer.from(text));
      return seal(good, Buffer.concat([head ?? Buffer.of(), Buffer.of(0xff, 0xfe), tail ?? Buffer.of()]));
    },
  },
  {
    id: "B22",
    what: "another schema",
    error: "schema",
    make: (good) => seal(good, `{"${marker}":1}`),
  },
];

/** All of them. */
export const badInputs: readonly BadInput[] = [...envelopes, ...payloads];

/** Those that cost a reader most, all of a size that fits. */
export const heavyInputs: readonly BadInput[] = payloads.filter(({ what }) => what.includes("fit"));
