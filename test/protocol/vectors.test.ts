import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import * as z from "zod/mini";
import {
  type Binding,
  bindingSchema,
  checkAccountClaim,
  checkBinding,
  checkGrant,
  type Grant,
  grantSchema,
  parseAccountAuthorization,
  parseAccountKey,
} from "../../src/protocol/binding.ts";
import {
  CloseCode,
  closeReasonCode,
  ProtocolError,
  type ProtocolErrorCode,
} from "../../src/protocol/codes.ts";
import { verifyDelegation } from "../../src/protocol/config/delegation.ts";
import { openLatest } from "../../src/protocol/config/latest.ts";
import { checkAllowed, type Release, verifyRelease } from "../../src/protocol/config/release.ts";
import { parseStatement, rotateRoot, trustRoot } from "../../src/protocol/config/root.ts";
import { type RuntimeWish, selectRuntime } from "../../src/protocol/config/select.ts";
import { digestOf, openSnapshot, type Snapshot } from "../../src/protocol/config/snapshot.ts";
import { type WeightFile, weightsDigest } from "../../src/protocol/config/weights.ts";
import type { Statement } from "../../src/protocol/config/statement.ts";
import { parseFeedLine } from "../../src/protocol/feed.ts";
import * as fields from "../../src/protocol/fields.ts";
import { parsePayload } from "../../src/protocol/frame.ts";
import {
  httpHeartbeatSchema,
  httpHeartbeatTyp,
  jobInputSchema,
  jobInputTyp,
  jobOutputSchema,
  jobOutputTyp,
  openAnswer,
  openRegistration,
  openRequest,
  pingSchema,
  pingTyp,
} from "../../src/protocol/http.ts";
import { parseJson } from "../../src/protocol/json.ts";
import { decodeUtf8, splitJws, verifyJws } from "../../src/protocol/jws.ts";
import {
  importPrivateKey,
  importPublicKey,
  type NodeId,
  type PrivateJwk,
  type SigningKey,
  type VerifyKey,
} from "../../src/protocol/keys.ts";
import { type Kind, schemas } from "../../src/protocol/messages.ts";
import { chainHash, chainStart, openReceipt, verifyChain } from "../../src/protocol/receipt.ts";
import { keyChangeSchema, keyChangeTyp, openNewKey } from "../../src/protocol/rollover.ts";
import { agentChannel, serviceChannel } from "../../src/protocol/session/channel.ts";
import { verifyChallenge, verifyHello, verifyReady } from "../../src/protocol/session/handshake.ts";
import { openDrainToken, openStatus } from "../../src/protocol/status.ts";

const folder = join(import.meta.dirname, "../vectors");

/** A file of vectors. Its shape is its generator's (scripts/vectors); what it says is what is tested here. */
const read = (name: string): unknown => JSON.parse(readFileSync(join(folder, `${name}.json`), "utf8"));

interface Case {
  readonly name: string;
  readonly verdict: string;
}
type Cases<T> = readonly (Case & T)[];

/** What src/protocol says of something: `valid`, or the code with which it refuses it. */
function verdictOf(check: () => unknown): string {
  try {
    check();
    return "valid";
  } catch (error) {
    if (error instanceof ProtocolError) return error.code;
    throw error;
  }
}

/** One test a case: the verdict of `check` is the one that is written down. */
function judge<T>(cases: Cases<T>, check: (given: Case & T) => unknown): void {
  it.each(cases.map((each) => [each.verdict, each.name, each] as const))("%s: %s", (verdict, _name, each) => {
    expect(verdictOf(() => check(each))).toBe(verdict);
  });
}

interface KeysFile {
  readonly keys: readonly { readonly name: string; readonly jwk: PrivateJwk; readonly kid: string }[];
  readonly account_key: string;
  readonly cases: Cases<{ readonly jwk: PrivateJwk }>;
}
const keysFile = read("keys") as KeysFile;
const byKid = new Map(
  keysFile.keys.map(({ jwk, kid }): [string, SigningKey] => [kid, importPrivateKey(jwk)]),
);
function keyOf(kid: string): SigningKey {
  const key = byKid.get(kid);
  if (!key) throw new Error(`no test key ${kid}`);
  return key;
}
const accountKey = parseAccountKey(keysFile.account_key);
if (!accountKey) throw new Error("keys.json: account_key");

/** A text as it is, or as pairs of a piece and how often it stands there. */
interface Text {
  readonly text?: string;
  readonly repeat?: readonly (readonly [string, number])[];
}
const textOf = ({ text, repeat = [] }: Text): string =>
  text ?? repeat.map(([piece, times]) => piece.repeat(times)).join("");

describe("keys", () => {
  it.each(keysFile.keys)("$name has the kid that is its thumbprint", ({ name, jwk, kid }) => {
    expect(importPrivateKey(jwk).kid).toBe(kid);
    const seed = createHash("sha256").update(`resultity test vector: key ${name}`).digest("base64url");
    expect(jwk.d).toBe(seed);
  });
  judge(keysFile.cases, ({ jwk }) => ("d" in jwk ? importPrivateKey(jwk) : importPublicKey(jwk)));
});

describe("json", () => {
  const { cases } = read("json") as { cases: Cases<Text & { bytes?: string }> };
  judge(cases, ({ bytes, ...text }) => {
    if (bytes !== undefined) return parseJson(decodeUtf8(Buffer.from(bytes, "base64url")));
    return parseJson(textOf(text));
  });
});

describe("fields", () => {
  const types: Readonly<Record<string, z.ZodMiniType>> = {
    bytes32: fields.bytes32Field,
    bytes16: fields.bytes16Field,
    digest: fields.digestField,
    sha256: fields.sha256Field,
    job: fields.jobIdField,
    name: fields.nameField,
    model: fields.modelField,
    version: fields.versionField,
    image: fields.imageField,
    url: fields.urlField,
    text: fields.textField,
    count: fields.countField,
    seq: fields.seqField,
    attempt: fields.attemptField,
    duration: fields.durationField,
  };
  type Values = { readonly valid: readonly unknown[]; readonly invalid: readonly unknown[] };
  const file = read("fields") as { fields: Readonly<Record<string, Values>> };
  it.each(Object.entries(file.fields))("%s", (name, { valid, invalid }) => {
    const type = types[name];
    if (!type) throw new Error(`no field type ${name}`);
    const taken = (value: unknown) => type.safeParse(value).success;
    expect(valid.filter((value) => !taken(value))).toEqual([]);
    expect(invalid.filter(taken)).toEqual([]);
  });
  it("are all there", () => {
    expect(Object.keys(file.fields).toSorted()).toEqual(Object.keys(types).toSorted());
  });
});

describe("jws", () => {
  const file = read("jws") as { kid: string; typ: string; cases: Cases<{ jws: string; payload?: string }> };
  judge(file.cases, ({ jws, payload }) => {
    const text = verifyJws(splitJws(jws, file.typ), keyOf(file.kid));
    if (payload !== undefined) expect(text).toBe(payload);
  });
});

describe("messages", () => {
  type Path = readonly (string | number)[];
  type Change = { kind: Kind; remove?: Path; set?: Path; to?: unknown; item?: unknown; times?: number };
  const file = read("messages") as { examples: Record<Kind, unknown>; cases: Cases<Change> };
  const changed = ({ kind, remove, set, to, item, times }: Change): string => {
    const payload: unknown = structuredClone(file.examples[kind]);
    const at = (
      path: Path,
      change: (inside: Record<string | number, unknown>, last: string | number) => void,
    ) => {
      let inside = payload as Record<string | number, unknown>;
      for (const step of path.slice(0, -1)) inside = inside[step] as Record<string | number, unknown>;
      change(inside, path.at(-1) ?? "");
    };
    if (remove) at(remove, (inside, last) => delete inside[last]);
    const value = times === undefined ? to : Array.from({ length: times }, () => item);
    if (set) at(set, (inside, last) => (inside[last] = value));
    return JSON.stringify(payload);
  };
  const check = (kind: Kind, json: string) => parsePayload<unknown>(schemas[kind], json, kind);
  it("has an example of every kind", () => {
    expect(Object.keys(file.examples).toSorted()).toEqual(Object.keys(schemas).toSorted());
  });
  it.each(Object.entries(file.examples))("valid: example of %s", (kind, payload) => {
    expect(check(kind as Kind, JSON.stringify(payload))).toEqual(payload);
  });
  judge(file.cases, (each) => check(each.kind, changed(each)));
});

describe("codes", () => {
  const file = read("codes") as {
    errors: Record<ProtocolErrorCode, number>;
    close_codes: number[];
    reasons: { reason: string; code: string | null }[];
  };
  it.each(Object.entries(file.errors))("%s closes with %i", (code, close) => {
    expect(new ProtocolError(code as ProtocolErrorCode, "").closeCode).toBe(close);
  });
  it("has every close code", () => {
    expect(new Set(file.close_codes)).toEqual(new Set(Object.values(CloseCode)));
  });
  it.each(file.reasons)("reason '$reason' names $code", ({ reason, code }) => {
    expect(closeReasonCode(reason) ?? null).toBe(code);
  });
});

describe("roots", () => {
  const file = read("roots") as {
    cases: Cases<{ statement: Statement; network: string }>;
    current: Statement;
    rotations: Cases<{ statement: Statement }>;
    files: Cases<Text>;
  };
  judge(file.cases, ({ statement, network }) => trustRoot(statement, network));
  describe("file", () => {
    judge(file.files, (text) => parseStatement(textOf(text), "root.json"));
  });
  describe("rotation", () => {
    judge(file.rotations, ({ statement }) => rotateRoot(trustRoot(file.current), statement));
  });
});

describe("delegations", () => {
  const file = read("delegations") as {
    root: Statement;
    cases: Cases<{ statement: Statement; now: number }>;
  };
  judge(file.cases, ({ statement, now }) => verifyDelegation(statement, trustRoot(file.root), now));
});

describe("releases", () => {
  const file = read("releases") as {
    root: Statement;
    payload: Release;
    cases: Cases<{ statement: Statement; known: number }>;
    allowed: Cases<{ digest: fields.ConfigDigest; now: number }>;
  };
  judge(file.cases, ({ statement, known }) => verifyRelease(statement, trustRoot(file.root), known));
  describe("allowed", () => {
    judge(file.allowed, ({ digest, now }) => checkAllowed(file.payload, digest, now));
  });
});

describe("snapshots", () => {
  const file = read("snapshots") as {
    cases: Cases<Text & { digest: fields.ConfigDigest; network: string }>;
    digests: { text: string; digest: string }[];
    weights: { files: WeightFile[]; digest: string }[];
  };
  it.each(file.weights)("weights $digest", ({ files, digest }) => {
    expect(weightsDigest(files)).toBe(digest);
  });
  judge(file.cases, (each) => openSnapshot(Buffer.from(textOf(each)), each.digest, each.network));
  it.each(file.digests)("digest $digest", ({ text, digest }) => {
    expect(digestOf(Buffer.from(text))).toBe(digest);
  });
});

describe("select", () => {
  type Choice = { wish: RuntimeWish; runtime?: number; models?: string[]; snapshot?: Snapshot };
  const file = read("select") as { snapshot: Snapshot; cases: Cases<Choice> };
  judge(file.cases, ({ wish, runtime, models, snapshot = file.snapshot }) => {
    const chosen = selectRuntime(snapshot, wish);
    expect(snapshot.runtimes.indexOf(chosen.runtime)).toBe(runtime);
    expect(chosen.models).toEqual(models);
  });
});

describe("bindings", () => {
  type Request = { header: string; method: string; path: string; now: number };
  const file = read("bindings") as { cases: Cases<{ binding: Binding }>; authorizations: Cases<Request> };
  judge(file.cases, ({ binding }) => {
    const parsed = parsePayload(bindingSchema, JSON.stringify(binding), "binding");
    if (!checkBinding(accountKey, parsed)) throw new ProtocolError("binding", "");
  });
  it.each(file.authorizations)("authorization $verdict: $name", ({ header, verdict, ...request }) => {
    const claim = parseAccountAuthorization(header);
    const genuine = claim !== undefined && checkAccountClaim(accountKey, claim, request);
    expect(genuine ? "valid" : "refused").toBe(verdict);
  });
});

describe("http", () => {
  const file = read("http") as {
    kid: string;
    service_kid: string;
    register_url: string;
    ping_url: string;
    registrations: Cases<{ body: string }>;
    requests: Cases<{ body: string }>;
    heartbeat: { url: string; body: string; payload: unknown };
    job_input: { url: string; body: string; payload: unknown };
    job_output: { url: string; body: string; payload: unknown };
    answers: Cases<{ body: string }>;
  };
  const keyFor = () => keyOf(file.kid);
  describe("registration", () => {
    judge(file.registrations, ({ body }) => openRegistration(body, [file.register_url]));
  });
  describe("request", () => {
    judge(file.requests, ({ body }) =>
      openRequest(body, pingTyp, pingSchema, { urls: [file.ping_url], keyFor }),
    );
  });
  it.each([
    [jobInputTyp, jobInputSchema, file.job_input],
    [jobOutputTyp, jobOutputSchema, file.job_output],
  ])("valid: %s", (typ, schema, { url, body, payload }) => {
    expect(openRequest<unknown>(body, typ, schema, { urls: [url], keyFor }).payload).toEqual(payload);
  });
  it("valid: heartbeat", () => {
    const { url, body, payload } = file.heartbeat;
    const opened = openRequest(body, httpHeartbeatTyp, httpHeartbeatSchema, { urls: [url], keyFor });
    expect(opened.payload).toEqual(payload);
  });
  describe("answer", () => {
    judge(file.answers, ({ body }) => openAnswer(body, keyOf(file.service_kid)));
  });
});

describe("rollover", () => {
  const file = read("rollover") as {
    url: string;
    kid: string;
    new_kid: string;
    changes: Cases<{ body: string }>;
    grants: Cases<{ grant: Grant }>;
    register_url: string;
    registrations: Cases<{ body: string }>;
  };
  describe("change", () => {
    judge(file.changes, ({ body }) => {
      const expected = { urls: [file.url], keyFor: () => keyOf(file.kid) };
      const { payload, key, url } = openRequest(body, keyChangeTyp, keyChangeSchema, expected);
      const next = openNewKey(payload.new, { url, nodeId: payload.node_id, kid: key.kid });
      expect(next.key.kid).toBe(file.new_kid);
    });
  });
  describe("grant", () => {
    judge(file.grants, ({ grant }) => {
      const parsed = parsePayload(grantSchema, JSON.stringify(grant), "grant");
      if (!checkGrant(accountKey, parsed)) throw new ProtocolError("binding", "");
    });
  });
  describe("registration", () => {
    judge(file.registrations, ({ body }) => openRegistration(body, [file.register_url]));
  });
});

describe("receipts", () => {
  const file = read("receipts") as {
    kid: string;
    service_kid: string;
    start: string;
    cases: Cases<{ jws: string }>;
    chains: Cases<{ chain: string[] }>;
    hashes: string[];
  };
  judge(file.cases, ({ jws }) => openReceipt(jws, keyOf(file.kid)));
  describe("chain", () => {
    judge(file.chains, ({ chain }) => verifyChain(chain, keyOf(file.service_kid)));
  });
  it("hashes link to link", () => {
    expect(file.start).toBe(chainStart);
    expect(file.chains[0]?.chain.map(chainHash)).toEqual(file.hashes);
  });
});

describe("answers to a nonce", () => {
  const file = read("answers") as {
    nonce: string;
    root: Statement;
    network: string;
    kid: string;
    latest: Cases<{ json: string; now: number }>;
    statuses: Cases<Text & { jws?: string }>;
    drains: Cases<{ authorization: string }>;
  };
  describe("latest", () => {
    const root = trustRoot(file.root, file.network);
    judge(file.latest, ({ json, now }) => openLatest(json, root, { nonce: file.nonce, now }));
  });
  describe("drain", () => {
    judge(file.drains, ({ authorization }) => openDrainToken(authorization, keyOf(file.kid)));
  });
  describe("status", () => {
    judge(file.statuses, ({ jws, ...text }) => openStatus(jws ?? textOf(text), keyOf(file.kid), file.nonce));
  });
});

describe("feed", () => {
  const { cases } = read("feed") as { cases: Cases<{ line: string }> };
  judge(cases, ({ line }) => parseFeedLine(line));
});

describe("session", () => {
  interface Frame {
    readonly from: "service" | "agent";
    readonly kind: Kind;
    readonly payload: { readonly sid?: string };
    readonly text: string;
  }
  const file = read("session") as {
    network: string;
    now: number;
    root: Statement;
    audience: string;
    kid: string;
    registered: { node_id: NodeId; kid: string }[];
    frames: Frame[];
    handshake: Cases<Text & { step: "challenge" | "hello" | "ready"; now?: number }>;
    open: Cases<Text & { to: "service" | "agent"; received: number }>;
  };
  const root = trustRoot(file.root, file.network);
  const [challengeFrame, helloFrame, readyFrame, ...openFrames] = file.frames;
  if (!challengeFrame || !helloFrame || !readyFrame) throw new Error("session.json has no handshake");
  const believe = (text: string, now = file.now) => verifyChallenge(text, root, file.network, now);
  const nodeByKey = (kid: string): { nodeId: NodeId; key: VerifyKey } | undefined => {
    const found = file.registered.find((node) => node.kid === kid);
    return found && { nodeId: found.node_id, key: keyOf(kid) };
  };
  const { payload: challenge, serviceKey } = believe(challengeFrame.text);
  const expected = {
    challenge: challenge.challenge,
    audiences: [file.audience],
    network: file.network,
    now: file.now,
    nodeByKey,
  };
  const { payload: hello } = verifyHello(helloFrame.text, expected);
  const answered = (text: string) =>
    verifyReady(text, {
      challenge: believe(challengeFrame.text),
      hello: helloFrame.text,
      nonce: hello.nonce,
    });
  const { sid } = answered(readyFrame.text).payload;
  /** The two ends of the session after `ready`. */
  const ends = () => {
    const node = keyOf(file.kid);
    return {
      agent: agentChannel(sid, node, serviceKey),
      service: serviceChannel(sid, keyOf(serviceKey.kid), node),
    };
  };

  it("is believed frame by frame, and says what is written beside each", () => {
    expect(challenge).toEqual(challengeFrame.payload);
    expect(hello).toEqual(helloFrame.payload);
    expect(answered(readyFrame.text).payload).toEqual(readyFrame.payload);
    const { agent, service } = ends();
    for (const { from, kind, payload, text } of openFrames) {
      const opened = from === "agent" ? service.open(text) : agent.open(text);
      expect(opened.kind).toBe(kind);
      expect(opened.payload).toEqual(payload);
    }
    expect(new Set(file.frames.map(({ kind }) => kind))).toEqual(new Set(Object.keys(schemas)));
  });
  describe("handshake", () => {
    judge(file.handshake, ({ step, now, ...rest }) => {
      const text = textOf(rest);
      if (step === "challenge") return believe(text, now);
      return step === "hello" ? verifyHello(text, expected) : answered(text);
    });
  });
  describe("open", () => {
    judge(file.open, ({ to, received, ...text }) => {
      const end = ends()[to];
      const others = openFrames.filter(({ from }) => from !== to);
      for (const before of others.slice(0, received)) end.open(before.text);
      return end.open(textOf(text));
    });
  });
});
