import { type Release, signRelease } from "../../../src/protocol/config/release.ts";
import { signRoot } from "../../../src/protocol/config/root.ts";
import { digestOf, type Snapshot } from "../../../src/protocol/config/snapshot.ts";
import type { Statement } from "../../../src/protocol/config/statement.ts";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import type { SigningKey } from "../../../src/protocol/keys.ts";
import { makeNetwork, makeSnapshot, newKey } from "../../protocol/network.ts";

export const day = 86_400_000;

/** A snapshot with its exact bytes and name. */
export interface Signed {
  readonly snapshot: Snapshot;
  readonly bytes: Buffer;
  readonly digest: ConfigDigest;
}

/** How a release differs from a well-made one with two signatures, 30 days of life and everything published so far. */
export interface Odd {
  readonly sequence?: number;
  readonly allowed?: Release["allowed"];
  readonly keys?: readonly SigningKey[];
  readonly network?: string;
  readonly releasedAt?: number;
}

/** Whoever holds the keys of a network, for tests: makes snapshots, releases and roots, right and wrong ones. */
export function makeAuthority(network = "testnet", now = Date.UTC(2026, 0, 1)) {
  const made = makeNetwork(network, now);
  const published: Signed[] = [];
  let sequence = 0;
  let rootPayload = made.rootPayload;
  let rootKeys: readonly SigningKey[] = made.rootKeys;

  const snapshot = (version: string): Signed => {
    const content = { ...makeSnapshot(network, version), version };
    const bytes = Buffer.from(JSON.stringify(content));
    return { snapshot: content, bytes, digest: digestOf(bytes) };
  };
  const release = (current: Signed, odd: Odd = {}): Statement => {
    if (!published.some(({ digest }) => digest === current.digest)) published.push(current);
    sequence = odd.sequence ?? sequence + 1;
    const allowed = odd.allowed ?? published.map(({ digest }) => ({ digest, expires: now + 30 * day }));
    const released_at = odd.releasedAt ?? now;
    const payload: Release = {
      network: odd.network ?? network,
      sequence,
      released_at,
      current: current.digest,
      allowed,
    };
    return signRelease(payload, odd.keys ?? made.configKeys.slice(0, 2));
  };
  return {
    ...made,
    rootText: JSON.stringify(made.rootStatement),
    snapshot,
    release,
    /** The next root, with other root and config keys, signed by the old and the new ones. */
    rotate() {
      const [next, config] = [
        [newKey(), newKey()],
        [newKey(), newKey()],
      ] as const;
      rootPayload = {
        ...rootPayload,
        version: rootPayload.version + 1,
        keys: [...next, ...config, made.delegationKey].map(({ jwk }) => jwk),
        roles: {
          root: { threshold: 2, kids: next.map(({ kid }) => kid) },
          config: { threshold: 2, kids: config.map(({ kid }) => kid) },
          delegation: rootPayload.roles.delegation,
        },
      };
      const statement = signRoot(rootPayload, [...rootKeys.slice(0, 2), ...next]);
      rootKeys = next;
      return { statement, text: JSON.stringify(statement), configKeys: config };
    },
  };
}
export type TestAuthority = ReturnType<typeof makeAuthority>;
