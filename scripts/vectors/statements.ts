/** Vectors of what the network signs: roots and their rotation, delegations, releases. */
import { sign } from "node:crypto";
import { type Release, releaseTyp, signRelease } from "../../src/protocol/config/release.ts";
import { delegationTyp, signDelegation } from "../../src/protocol/config/delegation.ts";
import { type RootPayload, rootTyp, signRoot } from "../../src/protocol/config/root.ts";
import { digestOf } from "../../src/protocol/config/snapshot.ts";
import { signStatement, type Statement } from "../../src/protocol/config/statement.ts";
import type { SigningKey } from "../../src/protocol/keys.ts";
import {
  type Case,
  day,
  delegationStatement,
  digest,
  encode,
  flipped,
  jwkOf,
  keys,
  network,
  now,
  otherDigest,
  rootPayload,
  rootStatement,
} from "./fixed.ts";

const { roots, configs } = keys;

/** The statement with the signature at `at` spoiled. */
function spoiled(statement: Statement, at: number): Statement {
  return {
    payload: statement.payload,
    signatures: statement.signatures.map((each, index) =>
      index === at ? { ...each, signature: flipped(each.signature) } : each,
    ),
  };
}

/** A second signature of the first key, under a header whose members stand in another order. */
function rewritten(statement: Statement, key: SigningKey, typ: string): Statement {
  const header = encode({ typ, kid: key.kid, alg: "Ed25519" });
  const signature = sign(null, Buffer.from(`${header}.${statement.payload}`), key.privateKey);
  const [first] = statement.signatures;
  const again = { protected: header, signature: signature.toString("base64url") };
  return { ...statement, signatures: first ? [first, again] : [again] };
}

function twice(statement: Statement): Statement {
  const [first] = statement.signatures;
  return first ? { ...statement, signatures: [first, first] } : statement;
}

export function rootVectors(): object {
  const trust = (name: string, verdict: string, statement: Statement): Case => ({
    name,
    verdict,
    statement,
    network,
  });
  const changed = (change: Partial<RootPayload>): Statement =>
    signRoot({ ...rootPayload, ...change }, roots.slice(0, 2));
  const role = rootPayload.roles.root;
  const cases: Case[] = [
    trust("two of three root keys", "valid", rootStatement),
    trust("three of three", "valid", signRoot(rootPayload, roots)),
    trust(
      "signatures of keys outside the role do not count, and do no harm",
      "valid",
      signRoot(rootPayload, [keys.stranger, ...roots.slice(0, 2)]),
    ),
    trust("one of three", "threshold", signRoot(rootPayload, roots.slice(0, 1))),
    trust("the same key twice", "threshold", twice(rootStatement)),
    trust("a root key and a config key", "threshold", signRoot(rootPayload, [roots[0], configs[0]])),
    trust(
      "a wrong signature beside two good ones",
      "bad_signature",
      spoiled(signRoot(rootPayload, roots), 2),
    ),
    trust(
      "signed as a release",
      "wrong_typ",
      signStatement(releaseTyp, JSON.stringify(rootPayload), roots.slice(0, 2)),
    ),
    trust(
      "a role that names a key not listed",
      "schema",
      changed({
        roles: { ...rootPayload.roles, root: { ...role, kids: [...role.kids, keys.stranger.kid] } },
      }),
    ),
    trust(
      "a threshold above the number of keys",
      "schema",
      changed({ roles: { ...rootPayload.roles, delegation: { threshold: 2, kids: [keys.delegation.kid] } } }),
    ),
    trust(
      "a threshold reached only by naming a key twice",
      "schema",
      changed({
        roles: {
          ...rootPayload.roles,
          delegation: { threshold: 2, kids: [keys.delegation.kid, keys.delegation.kid] },
        },
      }),
    ),
    trust(
      "no version",
      "schema",
      signStatement(rootTyp, JSON.stringify({ ...rootPayload, version: undefined }), roots.slice(0, 2)),
    ),
    {
      name: "another network than the one wanted",
      verdict: "wrong_network",
      statement: rootStatement,
      network: "mainnet",
    },
    trust("a payload that was changed after signing", "bad_signature", {
      ...rootStatement,
      payload: encode({ ...rootPayload, version: 2 }),
    }),
  ];

  const next: RootPayload = {
    ...rootPayload,
    version: 2,
    keys: [roots[1], roots[2], keys.newRoot, ...configs, keys.delegation].map(({ jwk }) => jwk),
    roles: {
      ...rootPayload.roles,
      root: { threshold: 2, kids: [roots[1].kid, roots[2].kid, keys.newRoot.kid] },
    },
  };
  const disjoint: RootPayload = {
    ...next,
    keys: [keys.newRoot, keys.stranger, ...configs, keys.delegation].map(({ jwk }) => jwk),
    roles: { ...rootPayload.roles, root: { threshold: 2, kids: [keys.newRoot.kid, keys.stranger.kid] } },
  };
  const rotate = (name: string, verdict: string, statement: Statement): Case => ({
    name,
    verdict,
    statement,
  });
  const rotations: Case[] = [
    rotate("two keys that both roots have", "valid", signRoot(next, [roots[1], roots[2]])),
    rotate(
      "no key in common, both sides signed",
      "valid",
      signRoot(disjoint, [roots[0], roots[1], keys.newRoot, keys.stranger]),
    ),
    rotate("the new side alone", "threshold", signRoot(disjoint, [keys.newRoot, keys.stranger])),
    rotate("the old side alone", "threshold", signRoot(disjoint, [roots[0], roots[1]])),
    rotate("one key of the old side", "threshold", signRoot(next, [roots[1], keys.newRoot])),
    rotate("the same version again", "rollback", rootStatement),
    rotate("a version left out", "rollback", signRoot({ ...next, version: 3 }, [roots[1], roots[2]])),
    rotate(
      "another network",
      "wrong_network",
      signRoot({ ...next, network: "mainnet" }, [roots[1], roots[2]]),
    ),
  ];
  const [signature] = rootStatement.signatures;
  const file = (name: string, verdict: string, statement: unknown): Case => ({
    name,
    verdict,
    text: JSON.stringify(statement),
  });
  const files: Case[] = [
    file("a statement", "valid", rootStatement),
    file("no signatures", "schema", { ...rootStatement, signatures: [] }),
    file("33 signatures", "schema", {
      payload: "",
      signatures: Array.from({ length: 33 }, () => ({ protected: "", signature: "" })),
    }),
    file(
      "a compact JWS",
      "schema",
      `${signature?.protected}.${rootStatement.payload}.${signature?.signature}`,
    ),
    file("the flattened form", "schema", { payload: rootStatement.payload, ...signature }),
    { name: "524289 characters", verdict: "too_large", repeat: [[" ", 524_289]] },
  ];
  return {
    about:
      "Roots. `cases`: trust in a configured root, for `network`. `rotations`: from `current` to `statement`. `files`: texts that should be a statement; only their form is judged.",
    payload: rootPayload,
    cases,
    current: rootStatement,
    rotations,
    files,
  };
}

export function delegationVectors(): object {
  const payload = { network, key: keys.service.jwk, expires: now + day };
  const of = (name: string, verdict: string, statement: Statement, at = now): Case => ({
    name,
    verdict,
    statement,
    now: at,
  });
  const cases: Case[] = [
    of("by the delegation key, for a day", "valid", delegationStatement),
    of("in its last millisecond", "valid", delegationStatement, now + day - 1),
    of("at the moment of its end", "expired", delegationStatement, now + day),
    of("by a config key", "threshold", signDelegation(payload, [configs[0]])),
    of("by the service's own key", "threshold", signDelegation(payload, [keys.service])),
    of(
      "another network",
      "wrong_network",
      signDelegation({ ...payload, network: "mainnet" }, [keys.delegation]),
    ),
    of("signed as a root", "wrong_typ", signStatement(rootTyp, JSON.stringify(payload), [keys.delegation])),
    of("a wrong signature", "bad_signature", spoiled(delegationStatement, 0)),
    of(
      "a key with another spelling",
      "schema",
      signStatement(
        delegationTyp,
        JSON.stringify({ ...payload, key: { ...payload.key, x: `${payload.key.x}=` } }),
        [keys.delegation],
      ),
    ),
    of(
      "a key with its private half",
      "schema",
      signStatement(delegationTyp, JSON.stringify({ ...payload, key: jwkOf("service") }), [keys.delegation]),
    ),
    of(
      "no end",
      "schema",
      signStatement(delegationTyp, JSON.stringify({ ...payload, expires: null }), [keys.delegation]),
    ),
  ];
  return { about: "Delegations under `root`, at wall time `now`.", root: rootStatement, payload, cases };
}

export function releaseVectors(): object {
  const payload: Release = {
    network,
    sequence: 5,
    released_at: now,
    current: digest,
    allowed: [
      { digest, expires: now + 30 * day },
      { digest: otherDigest, expires: now + day },
    ],
  };
  const signers = configs.slice(0, 2);
  const statement = signRelease(payload, signers);
  const of = (name: string, verdict: string, given: Statement, known = 0): Case => ({
    name,
    verdict,
    known,
    statement: given,
  });
  const cases: Case[] = [
    of("two of three config keys", "valid", statement),
    of("the one that is known already", "valid", statement, 5),
    of("older than the one known", "rollback", statement, 6),
    of("one signature", "threshold", signRelease(payload, configs.slice(0, 1))),
    of("the same key twice", "threshold", twice(statement)),
    of(
      "the same key twice, its headers written differently",
      "threshold",
      rewritten(statement, configs[0], releaseTyp),
    ),
    of("by root keys", "threshold", signRelease(payload, roots.slice(0, 2))),
    of("one good and one wrong signature", "bad_signature", spoiled(statement, 1)),
    of("signed as a delegation", "wrong_typ", signStatement(delegationTyp, JSON.stringify(payload), signers)),
    of("another network", "wrong_network", signRelease({ ...payload, network: "mainnet" }, signers)),
    of(
      "current is not among allowed",
      "schema",
      signRelease({ ...payload, allowed: payload.allowed.slice(1) }, signers),
    ),
    of("nothing allowed", "schema", signRelease({ ...payload, allowed: [] }, signers)),
    of("sequence 0", "schema", signRelease({ ...payload, sequence: 0 }, signers)),
    of(
      "sequence 2^53",
      "schema",
      signStatement(
        releaseTyp,
        JSON.stringify(payload).replace('"sequence":5', '"sequence":9007199254740992'),
        signers,
      ),
    ),
    of(
      "duplicate key in the payload",
      "malformed",
      signStatement(
        releaseTyp,
        JSON.stringify(payload).replace('"sequence":5', '"sequence":5,"sequence":6'),
        signers,
      ),
    ),
  ];
  const ask = (name: string, verdict: string, wanted: string, at: number): Case => ({
    name,
    verdict,
    digest: wanted,
    now: at,
  });
  const allowed: Case[] = [
    ask("the current one", "valid", digest, now),
    ask("an older one that is still allowed", "valid", otherDigest, now),
    ask("at the moment of its end", "expired", otherDigest, now + day),
    ask("one that is not listed", "not_allowed", digestOf(Buffer.from("withdrawn")), now),
  ];
  return {
    about:
      "`cases`: releases under `root`, where sequence `known` is known (0 = none). `allowed`: may `digest` be applied at `now` under `payload`?",
    root: rootStatement,
    payload,
    cases,
    allowed,
  };
}
