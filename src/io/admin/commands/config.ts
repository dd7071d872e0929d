import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { parse as parseYaml } from "yaml";
import { messageOf } from "../../../lib/errors.ts";
import { ProtocolError } from "../../../protocol/codes.ts";
import { decodeUtf8 } from "../../../protocol/jws.ts";
import { parsePayload } from "../../../protocol/frame.ts";
import type { SigningKey } from "../../../protocol/keys.ts";
import { type Release, releaseSchema, releaseTyp, signRelease } from "../../../protocol/config/release.ts";
import { digestOf, openSnapshot, type Snapshot, snapshotSchema } from "../../../protocol/config/snapshot.ts";
import { cosignStatement, type Statement } from "../../../protocol/config/statement.ts";
import { askService } from "../client.ts";
import { type Arguments, type Command, CommandError, dataFlag, durationOf } from "../command.ts";
import { readKey, readStatement, readText, writeNew } from "../key-files.ts";

/** Turns a draft for people into the exact bytes that nodes get. */
export const configDraft: Command = {
  name: "config draft",
  positionals: ["FILE"],
  summary:
    "Checks a config written by hand (YAML or JSON) and writes the snapshot: the exact bytes that nodes get.",
  details: "Prints the snapshot's digest. The fields are those of `Snapshot` in docs/protocol.md §2.",
  flags: [{ name: "out", value: "FILE", help: "snapshot to write", required: true }],
  run({ args, out }) {
    const path = args.at(0);
    const draft = readText(path);
    let value: unknown;
    try {
      value = parseYaml(draft);
    } catch (error) {
      throw new CommandError("refused", `${path}: neither YAML nor JSON: ${messageOf(error)}`);
    }
    const parsed = snapshotSchema.safeParse(value);
    if (!parsed.success) {
      const issues = parsed.error.issues
        .slice(0, 5)
        .map((issue) => `  ${issue.path.join(".") || "(whole)"}: ${issue.message}`);
      throw new CommandError("refused", [`${path}: not a config:`, ...issues].join("\n"));
    }
    const text = `${JSON.stringify(parsed.data, null, 1)}\n`;
    writeNew(args.get("out"), text, 0o644);
    out(digestOf(Buffer.from(text)));
  },
};

/** Signs a release, or adds a signature to one. */
export const configSign: Command = {
  name: "config sign",
  positionals: [],
  summary:
    "Signs a release that makes the first --snapshot current and allows them all, or adds signatures to one.",
  details:
    "Each holder of a config key runs it on their own machine: the first writes --out, the next name the same --out and\n" +
    "add their signature (then --snapshot, --sequence and --expires may be left out, or must say the same).\n" +
    "  io config sign --snapshot new.json --snapshot old.json --sequence 7 --expires 30d --key config-1.jwk --out release.json\n" +
    "  io config sign --key config-2.jwk --out release.json",
  flags: [
    {
      name: "snapshot",
      value: "FILE",
      help: "snapshot to allow; the first one becomes current",
      multiple: true,
    },
    { name: "key", value: "FILE", help: "config key to sign with", multiple: true, required: true },
    { name: "sequence", value: "N", help: "number of the release: greater than the published one" },
    { name: "expires", value: "30d", help: "until when nodes may run these: a duration from now, or a date" },
    { name: "out", value: "FILE", help: "release to write, or to add signatures to", required: true },
  ],
  run({ args, out, now }) {
    const path = args.get("out");
    const keys = args.all("key").map(readKey);
    const statement = existsSync(path) ? cosign(path, args, keys) : sign(args, keys, now());
    if (existsSync(path)) {
      writeFileSync(`${path}.new`, `${JSON.stringify(statement)}\n`, { flush: true, mode: 0o644 });
      renameSync(`${path}.new`, path);
    } else {
      writeNew(path, `${JSON.stringify(statement)}\n`, 0o644);
    }
    const release = releaseOf(statement, path);
    out(
      `release ${release.sequence}, current ${release.current}, ${statement.signatures.length} signature(s)`,
    );
  },
};

function sign(args: Arguments, keys: readonly SigningKey[], now: number): Statement {
  const snapshots = args.all("snapshot").map(readSnapshot);
  const [current] = snapshots;
  if (!current) throw new CommandError("usage", "--snapshot FILE is missing: a new release needs one");
  const expires = expiryOf(args.get("expires"), now);
  return signRelease(
    {
      network: current.snapshot.network,
      sequence: sequenceOf(args.get("sequence")),
      released_at: now,
      current: current.digest,
      allowed: snapshots.map(({ digest }) => ({ digest, expires })),
    },
    keys,
  );
}

function cosign(path: string, args: Arguments, keys: readonly SigningKey[]): Statement {
  const statement = readStatement(path, "release");
  const release = releaseOf(statement, path);
  const sequence = args.find("sequence");
  const digests = args.all("snapshot").map((file) => readSnapshot(file).digest);
  const same =
    (sequence === undefined || sequenceOf(sequence) === release.sequence) &&
    (digests.length === 0 ||
      (digests[0] === release.current &&
        digests.length === release.allowed.length &&
        digests.every((digest) => release.allowed.some((allowed) => allowed.digest === digest))));
  if (!same)
    throw new CommandError(
      "refused",
      `${path} holds release ${release.sequence} of ${release.current}, which is another one: name a new --out`,
    );
  return keys.reduce((signed, key) => cosignStatement(releaseTyp, signed, key), statement);
}

function releaseOf(statement: Statement, path: string): Release {
  try {
    return parsePayload(releaseSchema, decodeUtf8(Buffer.from(statement.payload, "base64url")), "release");
  } catch (error) {
    throw new CommandError("refused", `${path}: not a release: ${messageOf(error)}`);
  }
}

interface SnapshotFile {
  readonly text: string;
  readonly digest: ReturnType<typeof digestOf>;
  readonly snapshot: Snapshot;
}

function readSnapshot(path: string): SnapshotFile {
  const bytes = readBytes(path);
  const digest = digestOf(bytes);
  try {
    const { network } = parsePayload(snapshotSchema, decodeUtf8(bytes), "snapshot");
    return { text: decodeUtf8(bytes), digest, snapshot: openSnapshot(bytes, digest, network) };
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    throw new CommandError(
      "refused",
      `${path}: not a snapshot (${error.message}): make it with \`io config draft\``,
    );
  }
}

function readBytes(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new CommandError("refused", `${path}: ${messageOf(error)}`);
  }
}

function sequenceOf(text: string): number {
  const sequence = Number(text);
  if (!Number.isSafeInteger(sequence) || sequence < 1)
    throw new CommandError("usage", `--sequence: ${text} is no whole number from 1 up`);
  return sequence;
}

function expiryOf(text: string, now: number): number {
  const date = /^\d{4}-/.test(text) ? Date.parse(text) : now + durationOf(text, "expires");
  if (!Number.isFinite(date) || date <= now)
    throw new CommandError("usage", `--expires: ${text} is not in the future; write 30d or 2030-01-31`);
  return date;
}

/** Hands a signed release to the service, which checks it as every node will. */
export const configPublish: Command = {
  name: "config publish",
  positionals: [],
  summary: "Publishes a signed release with its snapshots.",
  flags: [
    { name: "release", value: "FILE", help: "release, signed by enough config keys", required: true },
    {
      name: "snapshot",
      value: "FILE",
      help: "snapshot that the release allows; needed if the service has not seen it",
      multiple: true,
    },
    dataFlag,
  ],
  async run({ args, out }) {
    const release = readStatement(args.get("release"), "release");
    const snapshots = args.all("snapshot").map((path) => readSnapshot(path).text);
    await askService(args.get("data"), "POST", "/publish", { release, snapshots });
    const { sequence, current } = releaseOf(release, args.get("release"));
    out(`published release ${sequence}, current ${current}`);
  },
};
