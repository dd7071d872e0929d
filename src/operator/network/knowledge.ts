import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { AccountKey } from "../../protocol/binding.ts";
import type { TrustedRoot } from "../../protocol/config/root.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import type { Finding } from "./refusal.ts";
import type { BelievedRelease, BelievedSnapshot } from "./trust.ts";

/** The ConfigMap `<network>-config` as it was last read or written. */
export interface StoredConfigMap {
  readonly resourceVersion: string;
  readonly data: Readonly<Record<string, string>>;
  /** False where somebody else's object has the name: it is neither believed nor touched. */
  readonly ours: boolean;
}

/** What is wrong now, by the check that says so. A check that passes takes its own finding away. */
export interface Findings {
  /** The root in spec.trust. */
  readonly root?: Finding | undefined;
  /** The account's Secret. */
  readonly account?: Finding | undefined;
  /** Whether an endpoint answers. */
  readonly reach?: Finding | undefined;
  /** The root that the endpoint serves. */
  readonly served?: Finding | undefined;
  readonly release?: Finding | undefined;
  /** The release in the ConfigMap: told only while no other is known. */
  readonly stored?: Finding | undefined;
  /** A write or read that the API server refuses. */
  readonly kube?: Finding | undefined;
}

/** ETag under which an endpoint served a document that is known. `payload` tells which. */
export interface Tag {
  readonly etag: string;
  readonly payload: string;
}

/** A snapshot that could not be had: why, and the monotonic time, ms, at which it is asked for again. */
export interface Missed {
  readonly failures: number;
  readonly at: number;
  readonly finding: Finding | undefined;
}

/**
 * What the operator has read, fetched and verified of one network: memory of this process, made again from the objects
 * and the endpoints when it begins. Everything in it has passed its check.
 */
export interface Knowledge {
  /** UID of the ResultityNetwork. */
  readonly uid: string;
  /** Generation of the spec for which it was last looked at. */
  generation: number;
  /** The configured root's text, and the root that it and the rotations after it lead to. */
  rootText: string | undefined;
  root: TrustedRoot | undefined;
  /** Roots after the configured one, in order; the last one is `root`. */
  rotations: TrustedRoot[];
  accountKey: AccountKey | undefined;
  release: BelievedRelease | undefined;
  /** Newest sequence ever known: it never goes back, whatever happens to `release`. */
  sequence: number;
  readonly snapshots: Map<ConfigDigest, BelievedSnapshot>;
  /** Digest that nodes move to, as last decided. */
  current: ConfigDigest | undefined;
  configMap: StoredConfigMap | undefined;
  /** Entries of the ConfigMap that look like ours and that another field manager holds: an apply leaves them. */
  foreign: ReadonlySet<string>;
  findings: Findings;
  /** The object as our last write of its status answered: newer than the cache for a moment. */
  written: ResultityNetwork | undefined;
  /** Endpoint that answered last; undefined while none has. */
  reached: string | undefined;
  /** ETags by URL. */
  readonly tags: Map<string, Tag>;
  /** Monotonic times, ms, at which the inputs are read and the endpoints asked again. */
  readInputsAt: number;
  fetchAt: number;
  /** Failed fetches in a row. */
  failures: number;
  readonly missed: Map<ConfigDigest, Missed>;
}

/** Nothing known yet. `floor`: sequence that the network's status says was known. */
export function newKnowledge(uid: string, floor: number): Knowledge {
  return {
    uid,
    generation: 0,
    rootText: undefined,
    root: undefined,
    rotations: [],
    accountKey: undefined,
    release: undefined,
    sequence: floor,
    snapshots: new Map(),
    current: undefined,
    configMap: undefined,
    foreign: new Set(),
    findings: {},
    written: undefined,
    reached: undefined,
    tags: new Map(),
    readInputsAt: 0,
    fetchAt: 0,
    failures: 0,
    missed: new Map(),
  };
}

/** How large snapshots are; undefined for those that are not there. */
export const bytesIn =
  ({ snapshots }: Pick<Readonly<Knowledge>, "snapshots">) =>
  (digest: ConfigDigest): number | undefined => {
    const text = snapshots.get(digest)?.text;
    return text === undefined ? undefined : Buffer.byteLength(text);
  };
