import { parseAccountKey } from "../../protocol/binding.ts";
import { parseStatement, rotateRoot, type TrustedRoot } from "../../protocol/config/root.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { releaseEntry } from "../names.ts";
import { rotationEntry, snapshotDigestOf } from "./entries.ts";
import type { Knowledge, StoredConfigMap } from "./knowledge.ts";
import type { Inputs } from "./observe.ts";
import { type Finding, Refusal } from "./refusal.ts";
import { believeConfiguredRoot, believeRelease, believeSnapshot, stillBelieved } from "./trust.ts";

/**
 * Takes what the spec points at into `knowledge`: checks the root, the account's key, and everything that the ConfigMap holds
 * from before. What is missing or wrong becomes a finding, and the last good one stays.
 */
export function takeInputs(knowledge: Knowledge, inputs: Inputs): void {
  const before = knowledge.configMap;
  knowledge.configMap = inputs.configMap;
  const root = takeRoot(knowledge, inputs);
  const account = takeAccountKey(knowledge, inputs);
  const { configMap } = inputs;
  const changed = configMap?.resourceVersion !== before?.resourceVersion || !knowledge.release;
  const stored = changed && configMap?.ours ? takeStored(knowledge, configMap) : knowledge.findings.stored;
  knowledge.findings = { ...knowledge.findings, root, account, stored };
}

function takeRoot(knowledge: Knowledge, { root: text, rootFrom, configMap }: Inputs): Finding | undefined {
  if (text instanceof Refusal) return text.finding;
  if (text === knowledge.rootText) return undefined;
  let root: TrustedRoot;
  try {
    root = believeConfiguredRoot(text, rootFrom);
  } catch (error) {
    if (error instanceof Refusal) return error.finding;
    throw error;
  }
  const before = knowledge.root;
  knowledge.rootText = text;
  knowledge.rotations = rotationsAfter(root, configMap);
  knowledge.root = knowledge.rotations.at(-1) ?? root;
  knowledge.release = stillBelieved(knowledge.release, knowledge.root);
  if (before && before.network !== root.network) knowledge.snapshots.clear();
  // Whatever was fetched and refused, or never asked for, is to be looked at in the light of this root.
  knowledge.findings = { ...knowledge.findings, served: undefined, release: undefined };
  knowledge.tags.clear();
  knowledge.fetchAt = 0;
  return undefined;
}

/** Rotations after `root` that the ConfigMap has kept, as far as they hold: trust still begins at the spec. */
function rotationsAfter(root: TrustedRoot, configMap: StoredConfigMap | undefined): TrustedRoot[] {
  const rotations: TrustedRoot[] = [];
  let current = root;
  for (;;) {
    const text = configMap?.ours ? configMap.data[rotationEntry(current.version + 1)] : undefined;
    if (text === undefined) return rotations;
    try {
      current = rotateRoot(current, parseStatement(text, "root"));
    } catch {
      // Not a rotation of this root: whoever serves the newest root will give it again, or it is not one.
      return rotations;
    }
    rotations.push(current);
  }
}

function takeAccountKey(knowledge: Knowledge, { accountKey }: Inputs): Finding | undefined {
  if (accountKey instanceof Refusal) return accountKey.finding;
  const key = parseAccountKey(accountKey);
  if (!key) {
    return {
      reason: "AccountSecretInvalid",
      message:
        "the Secret that spec.account.secretName names has no account key in its entry account-key: it must be 32 bytes in base64url, as the network gave it when it made the account",
    };
  }
  if (!knowledge.accountKey?.equals(key)) knowledge.accountKey = key;
  return undefined;
}

/** Release and snapshots that the operator kept before: believed only if they pass every check again. */
function takeStored(knowledge: Knowledge, { data }: StoredConfigMap): Finding | undefined {
  const { root } = knowledge;
  if (!root) return undefined;
  const finding = takeStoredRelease(knowledge, root, data[releaseEntry]);
  for (const [entry, text] of Object.entries(data)) {
    const digest = snapshotDigestOf(entry);
    if (digest === undefined || knowledge.snapshots.has(digest)) continue;
    takeStoredSnapshot(knowledge, root, digest, text);
  }
  return finding;
}

const from = "the ConfigMap with the network's config";

function takeStoredRelease(
  knowledge: Knowledge,
  root: TrustedRoot,
  text: string | undefined,
): Finding | undefined {
  if (text === undefined) return undefined;
  try {
    knowledge.release = believeRelease(text, root, knowledge, from);
    knowledge.sequence = knowledge.release.release.sequence;
    return undefined;
  } catch (error) {
    if (error instanceof Refusal) return error.finding;
    throw error;
  }
}

function takeStoredSnapshot(
  knowledge: Knowledge,
  root: TrustedRoot,
  digest: ConfigDigest,
  text: string,
): void {
  try {
    knowledge.snapshots.set(digest, believeSnapshot(Buffer.from(text), digest, root.network, from));
  } catch (error) {
    // Altered or cut: it is fetched anew where it is wanted.
    if (!(error instanceof Refusal)) throw error;
  }
}
