import * as z from "zod/mini";
import { ProtocolError } from "../codes.ts";
import { type ConfigDigest, digestField, nameField, timeField } from "../fields.ts";
import type { SigningKey } from "../keys.ts";
import type { TrustedRoot } from "./root.ts";
import { signStatement, type Statement, verifyStatement } from "./statement.ts";

/** `typ` of the release statement. */
export const releaseTyp = "rn1.release";

/**
 * What nodes may apply now. To withdraw a snapshot is to leave it out of `allowed`. Releases never go back; content may,
 * within `allowed`, so a rollout can return to the last good config and nobody can return to a withdrawn one.
 */
export const releaseSchema = z.object({
  network: nameField,
  sequence: z.int().check(z.minimum(1)),
  released_at: timeField,
  current: digestField,
  allowed: z
    .array(z.object({ digest: digestField, expires: timeField }))
    .check(z.minLength(1), z.maxLength(64)),
});
export type Release = z.infer<typeof releaseSchema>;

/** Signs a release with keys of the root's config role. */
export function signRelease(release: Release, keys: readonly SigningKey[]): Statement {
  return signStatement(releaseTyp, JSON.stringify(release), keys);
}

/**
 * @param known sequence of the newest release known (0 = none); an older one is refused.
 * @throws {ProtocolError} `threshold`, `wrong_network`, `rollback`, `schema`.
 */
export function verifyRelease(statement: Statement, root: TrustedRoot, known: number): Release {
  const release = verifyStatement(releaseTyp, statement, root.roles.config, releaseSchema);
  if (release.network !== root.network)
    throw new ProtocolError("wrong_network", "release of another network");
  if (release.sequence < known) {
    throw new ProtocolError(
      "rollback",
      `release ${release.sequence} is older than release ${known}, which is known`,
    );
  }
  if (!release.allowed.some(({ digest }) => digest === release.current)) {
    throw new ProtocolError("schema", "release: current is not among allowed");
  }
  if (new Set(release.allowed.map(({ digest }) => digest)).size < release.allowed.length) {
    throw new ProtocolError("schema", "release: allowed names a digest twice");
  }
  return release;
}

/**
 * Asks whether `digest` may be applied at `now` (wall time, ms); returns when that ends.
 * @throws {ProtocolError} `not_allowed`, `expired`.
 */
export function checkAllowed(release: Release, digest: ConfigDigest, now: number): number {
  const entry = release.allowed.find((allowed) => allowed.digest === digest);
  if (!entry) {
    throw new ProtocolError("not_allowed", `config ${digest} is not allowed by release ${release.sequence}`);
  }
  if (entry.expires <= now) {
    throw new ProtocolError(
      "expired",
      `config ${digest} expired at ${new Date(entry.expires).toISOString()}: the network must publish a new release`,
    );
  }
  return entry.expires;
}
