import { type Release, verifyRelease } from "../../protocol/config/release.ts";
import {
  parseStatement,
  rootSchema,
  rotateRoot,
  type TrustedRoot,
  trustRoot,
} from "../../protocol/config/root.ts";
import { openSnapshot, type Snapshot } from "../../protocol/config/snapshot.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import { decodeUtf8 } from "../../protocol/jws.ts";
import { checking, Refusal } from "./refusal.ts";

/** What is believed, and why not: each check of a document of the network, without I/O or clock. */

/** A release whose signatures were checked, with the statement to hand on. */
export interface BelievedRelease {
  readonly release: Release;
  readonly statement: Statement;
}

/** A snapshot that is the one its digest names. `text`: its exact bytes, which are UTF-8. */
export interface BelievedSnapshot {
  readonly snapshot: Snapshot;
  readonly text: string;
}

/**
 * The root that the user configured.
 * @throws {Refusal} RootInvalid
 */
export function believeConfiguredRoot(text: string, from: string): TrustedRoot {
  const fix = "Put the network's root statement there as the network publishes it (root.json), unchanged.";
  return checking("root", `the root in ${from}`, fix, () => trustRoot(parseStatement(text, "root")));
}

/**
 * The root after `trusted`, if `text` is one; `trusted` itself where `text` is the same root or an older one.
 * @throws {Refusal} RootInvalid, OtherNetwork
 */
export function believeServedRoot(text: string, trusted: TrustedRoot, from: string): TrustedRoot {
  const what = `the root that ${from} serves`;
  const fix =
    "If the network has replaced its root, take the new one from a place that you trust and put it into spec.trust; until then the one there counts.";
  return checking("root", what, fix, () => {
    const statement = parseStatement(text, "root");
    if (statement.payload === trusted.statement.payload) return trusted;
    const claimed = parsePayload(rootSchema, decodeUtf8(Buffer.from(statement.payload, "base64url")), "root");
    if (claimed.network !== trusted.network) {
      const other = `${what} is that of network ${claimed.network}, not of ${trusted.network}`;
      throw new Refusal("OtherNetwork", `${other}: check spec.endpoints and spec.trust`);
    }
    if (claimed.version < trusted.version) return trusted;
    if (claimed.version === trusted.version) {
      throw new Refusal(
        "RootInvalid",
        `${what} is not the one in spec.trust, though both are version ${trusted.version} for network ${trusted.network}: one of the two is not the network's. ${fix}`,
      );
    }
    return rotateRoot(trusted, statement);
  });
}

/**
 * A release, newer than or the same as the one known.
 *
 * @param known sequence of the newest release known, 0 for none.
 * @throws {Refusal} SequenceWentBack, ThresholdNotMet, SignatureInvalid, OtherNetwork
 */
export function believeRelease(
  text: string,
  root: TrustedRoot,
  known: { readonly sequence: number; readonly release: BelievedRelease | undefined },
  from: string,
): BelievedRelease {
  const fix = `Ask the network's operators; release ${known.sequence} stays in force here.`;
  const what = `the release that ${from} serves`;
  return checking("release", what, known.sequence > 0 ? fix : "Ask the network's operators.", () => {
    const statement = parseStatement(text, "release");
    const release = verifyRelease(statement, root, known.sequence);
    const before = known.release;
    if (before && before.release.sequence === release.sequence) {
      if (before.statement.payload === statement.payload) return before;
      throw new Refusal(
        "SequenceWentBack",
        `${what} has sequence ${release.sequence} as the known one, and other content: the network has signed two. ${fix}`,
      );
    }
    return { release, statement };
  });
}

/** A release that was believed before, asked again under another root; undefined where it no longer holds. */
export function stillBelieved(
  before: BelievedRelease | undefined,
  root: TrustedRoot,
): BelievedRelease | undefined {
  if (!before) return undefined;
  try {
    return { ...before, release: verifyRelease(before.statement, root, 0) };
  } catch {
    return undefined;
  }
}

/**
 * A snapshot by its digest.
 * @throws {Refusal} SnapshotInvalid, OtherNetwork
 */
export function believeSnapshot(
  bytes: Uint8Array,
  digest: ConfigDigest,
  network: string,
  from: string,
): BelievedSnapshot {
  const fix = "Ask the network's operators; nodes stay at the config that they have.";
  return checking("snapshot", `config ${digest} from ${from}`, fix, () => ({
    snapshot: openSnapshot(bytes, digest, network),
    text: decodeUtf8(bytes),
  }));
}

/** When `release` stops allowing `digest`, wall time in ms; undefined where it does not list it. */
export function expiryOf(release: Release | undefined, digest: ConfigDigest | undefined): number | undefined {
  return release?.allowed.find((entry) => entry.digest === digest)?.expires;
}
