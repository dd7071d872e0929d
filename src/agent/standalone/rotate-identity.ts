import { randomBytes } from "node:crypto";
import { rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Clock, sleep } from "../../lib/clock.ts";
import { CodedError, messageOf } from "../../lib/errors.ts";
import { syncFolder } from "../../lib/folders.ts";
import { decodeUtf8, splitJws } from "../../protocol/jws.ts";
import { generateKey, type KeyId, type SigningKey } from "../../protocol/keys.ts";
import { withFormer } from "../../protocol/rollover.ts";
import { openStatus, statusTyp } from "../../protocol/status.ts";
import { diskFiles } from "../edge/files.ts";
import { requestBytes } from "../http-bytes.ts";
import { readKeys } from "../identity.ts";
import type { Http } from "../ports.ts";

/** The node's key could not be rotated, or not to the end. */
export class RotateError extends CodedError<"unwritable" | "waiting"> {}

/** What a rotation takes. */
export interface Rotation {
  /** The identity folder. */
  readonly dir: string;
  /** Who runs this, as the system numbers users; undefined where it does not. */
  readonly uid: number | undefined;
  /** Local endpoints of the running agent. */
  readonly agentUrl: string;
  readonly http: Http;
  readonly clock: Clock;
  /** Longest wait for the network, ms. */
  readonly patienceMs: number;
}

const pollMs = 250;

/**
 * Gives a node without an operator another key: puts a new one beside the old one, waits until the running agent has a
 * session with it, and puts it in the old one's place. Killed at any point, it goes on where it was when it is run again.
 *
 * @throws {RotateError} `waiting`: the network does not have the new key yet; both keys are kept.
 */
export async function rotateIdentity(rotation: Rotation): Promise<KeyId> {
  const { dir, uid } = rotation;
  await checkOwner(dir, uid);
  const folder = await readKeys(diskFiles, dir);
  const next = folder.next ?? (await makeNext(dir));
  await until(rotation, folder.key, next);
  const former = withFormer(
    folder.former.map(({ jwk }) => jwk),
    folder.key.jwk,
  );
  await put(dir, "former.json", JSON.stringify(former));
  try {
    // One step, so that there is a key at any time.
    await rename(join(dir, "next.jwk"), join(dir, "key.jwk"));
    await syncFolder(dir);
  } catch (cause) {
    throw unwritable(join(dir, "key.jwk"), cause);
  }
  return next.kid;
}

/** Keys that root makes, the agent cannot read: its next start would fail. */
async function checkOwner(dir: string, uid: number | undefined): Promise<void> {
  let owner: number;
  try {
    owner = (await stat(dir)).uid;
  } catch (cause) {
    throw unwritable(dir, cause);
  }
  if (uid !== undefined && uid !== owner) throw unwritable(dir, `it is of user ${owner}, not ${uid}`);
}

async function makeNext(dir: string): Promise<SigningKey> {
  await put(dir, "next.jwk", `${JSON.stringify(generateKey())}\n`);
  const { next } = await readKeys(diskFiles, dir);
  if (!next) throw unwritable(join(dir, "next.jwk"), "it is gone again");
  return next;
}

async function put(dir: string, name: string, text: string): Promise<void> {
  try {
    await diskFiles.write(join(dir, name), text, 0o600);
  } catch (cause) {
    throw unwritable(join(dir, name), cause);
  }
}

const unwritable = (path: string, cause: unknown): RotateError =>
  new RotateError(
    "unwritable",
    `${path} cannot be written (${messageOf(cause)}): run this as the agent's user, which owns the folder`,
  );

/** Waits until the agent has a session with `next`: only then is it surely on the network's disk. */
async function until(
  { agentUrl, http, clock, patienceMs }: Rotation,
  key: SigningKey,
  next: SigningKey,
): Promise<void> {
  const deadline = clock.monotonic() + patienceMs;
  let why = "";
  for (;;) {
    const nonce = randomBytes(32).toString("base64url");
    const url = `${agentUrl}/status?nonce=${nonce}`;
    try {
      const limits = { maxBytes: 128 * 1024, timeoutMs: 5_000 };
      const text = decodeUtf8((await requestBytes(http, clock, { method: "GET", url }, limits)).body);
      const { session } = openStatus(text, [key, next], nonce);
      if (session.connected && splitJws(text, statusTyp).header.kid === next.kid) return;
      why = session.last_error ?? "the agent has not rolled over yet";
    } catch (thrown) {
      why = `${agentUrl}/status: ${messageOf(thrown)}; is the agent running?`;
    }
    if (clock.monotonic() >= deadline)
      throw new RotateError(
        "waiting",
        `the network does not have the new key yet (${why}); nothing is lost, both keys are kept: run this again`,
      );
    await sleep(clock, pollMs);
  }
}
