import { closeSync, existsSync, fsyncSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import * as z from "zod/mini";
import { messageOf } from "../../lib/errors.ts";
import { syncFolderNow } from "../../lib/folders.ts";
import { parsePayload } from "../../protocol/frame.ts";
import { importPrivateKey, isBytes32, type PrivateJwk, type SigningKey } from "../../protocol/keys.ts";
import { parseStatement } from "../../protocol/config/root.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import { CommandError } from "./command.ts";

const jwkSchema = z.object({
  kty: z.literal("OKP"),
  crv: z.literal("Ed25519"),
  x: z.string().check(z.refine(isBytes32)),
  d: z.string().check(z.refine(isBytes32)),
});

/** Reads a private key file. @throws {CommandError} that never repeats the key. */
export function readKey(path: string): SigningKey {
  try {
    return importPrivateKey(parsePayload(jwkSchema, readFileSync(path, "utf8"), "key"));
  } catch (error) {
    throw new CommandError("refused", `${path}: cannot be read as an Ed25519 key (JWK): ${messageOf(error)}`);
  }
}

/** Reads a statement file (root, release). @throws {CommandError} */
export function readStatement(path: string, what: string): Statement {
  try {
    return parseStatement(readFileSync(path, "utf8"), what);
  } catch (error) {
    throw new CommandError("refused", `${path}: cannot be read as a ${what}: ${messageOf(error)}`);
  }
}

/** Reads a text file. @throws {CommandError} */
export function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new CommandError("refused", `${path}: ${messageOf(error)}`);
  }
}

/** Writes a new file, on the disk when it returns. Never overwrites. @throws {CommandError} */
export function writeNew(path: string, text: string, mode: 0o600 | 0o644): void {
  let file: number;
  try {
    file = openSync(path, "wx", mode);
  } catch (error) {
    throw new CommandError(
      "refused",
      existsSync(path)
        ? `${path} exists and is not overwritten: name another file, or move it away`
        : `${path} cannot be written: ${messageOf(error)}`,
    );
  }
  try {
    writeFileSync(file, text);
    fsyncSync(file);
  } catch (error) {
    // Half a key would be taken for the key by the next start.
    rmSync(path, { force: true });
    throw new CommandError("refused", `${path} cannot be written: ${messageOf(error)}`);
  } finally {
    closeSync(file);
  }
  syncFolderNow(dirname(path));
}

/** A private key as it lies in a file. */
export function keyText(jwk: PrivateJwk): string {
  return `${JSON.stringify(jwk)}\n`;
}
