import { createHash } from "node:crypto";
import * as z from "zod/mini";
import { ProtocolError } from "../codes.ts";
import { type ConfigDigest, imageField, modelField, nameField, textField, versionField } from "../fields.ts";
import { parsePayload } from "../frame.ts";
import { decodeUtf8 } from "../jws.ts";
import { weightFilesField, weightSourceField } from "./weights.ts";

/** Most bytes of a snapshot. */
export const maxSnapshotBytes = 256 * 1024;

/** How the container starts its engine: through our POSIX launcher, or as PID 1 where the image has no shell. */
export const launcherKinds = ["shell", "none"] as const;

export const snapshotSchema = z.object({
  network: nameField,
  /** For people; the digest is the identity. */
  version: versionField,
  runtimes: z
    .array(
      z.object({
        engine: nameField,
        image: imageField,
        /** Products (as `nvidia.com/gpu.product` has them) that this entry is for; empty = any. */
        gpu_products: z.array(textField).check(z.maxLength(64)),
        launcher: z.enum(launcherKinds),
        /** Command that starts the engine, before the arguments; the launcher needs it, it replaces the image's. */
        command: z.array(z.string().check(z.minLength(1), z.maxLength(4096))).check(z.maxLength(64)),
      }),
    )
    .check(z.minLength(1), z.maxLength(64)),
  models: z
    .array(
      z
        .object({
          name: modelField,
          /** Engines that may serve it; empty = any. */
          engines: z.array(nameField).check(z.maxLength(16)),
          /** Its weights, which nodes fetch and verify. Absent: the engine's own business (pulled by it, or in its image). */
          files: z.optional(weightFilesField),
          /** Base URLs of the files, tried in order. Absent with files: they are there already, or a mirror has them. */
          sources: z.optional(z.array(weightSourceField).check(z.maxLength(16))),
        })
        .check(z.refine(({ files, sources }) => files !== undefined || sources === undefined)),
    )
    .check(z.maxLength(256)),
  participation: z.object({ testnet: z.boolean(), mainnet: z.boolean() }),
  subclouds: z.array(nameField).check(z.maxLength(64)),
  limits: z.object({
    /** Most jobs at once on one node. */
    max_jobs: z.int().check(z.minimum(1), z.maximum(1024)),
    /** Most bytes of one job's output. */
    max_output_bytes: z.int().check(z.minimum(1), z.maximum(1 << 30)),
  }),
  min_agent_version: versionField,
});
export type Snapshot = z.infer<typeof snapshotSchema>;
export type RuntimeEntry = Snapshot["runtimes"][number];

/** `sha256:` and the hex digest of a snapshot's exact bytes. */
export function digestOf(bytes: Uint8Array): ConfigDigest {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}` as ConfigDigest;
}

/**
 * Checks that `bytes` are the snapshot named by `digest`, then parses them.
 * @throws {ProtocolError} `too_large`, `digest_mismatch`, `schema`, `wrong_network`.
 */
export function openSnapshot(bytes: Uint8Array, digest: ConfigDigest, network: string): Snapshot {
  if (bytes.length > maxSnapshotBytes)
    throw new ProtocolError("too_large", `snapshot is larger than ${maxSnapshotBytes} bytes`);
  if (digestOf(bytes) !== digest)
    throw new ProtocolError("digest_mismatch", `these bytes are not config ${digest}`);
  const snapshot = parsePayload(snapshotSchema, decodeUtf8(bytes), "snapshot");
  if (snapshot.network !== network)
    throw new ProtocolError("wrong_network", `config ${digest} is for another network`);
  return snapshot;
}
