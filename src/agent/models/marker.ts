import * as z from "zod/mini";
import { type WeightFile, weightPathField } from "../../protocol/config/weights.ts";
import { countField, sha256Field } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import type { FileMark } from "./world.ts";

const markerSchema = z.object({
  /** Folder that has the files; only where it is not the one of the layout. */
  folder: z.optional(z.string()),
  files: z
    .array(z.object({ path: weightPathField, sha256: sha256Field, size: countField, mtimeMs: z.number() }))
    .check(z.maxLength(256)),
});

/**
 * Says which files have been hashed and how they looked then, so that a restart need not hash 100 GB again. Whoever can
 * write the folder could forge it; but they could as well write the files after they were hashed.
 */
export type Marker = z.infer<typeof markerSchema>;

/** A marker's text; undefined when it is none: as if nothing had been verified. */
export function readMarker(text: string): Marker | undefined {
  try {
    return parsePayload(markerSchema, text, "marker");
  } catch {
    return undefined;
  }
}

/** True when the marker vouches for a file that looks like this now. */
export function vouches(marker: Marker | undefined, file: WeightFile, mark: FileMark | undefined): boolean {
  const entry = marker?.files.find(({ path }) => path === file.path);
  if (!entry || !mark) return false;
  return (
    entry.sha256 === file.sha256 &&
    mark.size === file.size &&
    entry.size === mark.size &&
    entry.mtimeMs === mark.mtimeMs
  );
}

/** The marker with one more file verified. */
export function withFile(marker: Marker | undefined, file: WeightFile, mark: FileMark): Marker {
  const { path, sha256 } = file;
  const others = (marker?.files ?? []).filter((entry) => entry.path !== path);
  return { ...marker, files: [...others, { path, sha256, size: mark.size, mtimeMs: mark.mtimeMs }] };
}
