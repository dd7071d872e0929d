import * as z from "zod/mini";
import { digestField, durationField, modelField, nameField, textField } from "./fields.ts";
import { weightSourceField } from "./config/weights.ts";
import { parsePayload } from "./frame.ts";

/** Annotation of the pod in which the operator tells the agent what it wants; the agent reads it as a downward API file. */
export const desiredAnnotation = "resultity.com/desired";

/** Most entries of `mirrors`. */
const maxMirrors = 32;

const mirrorSchema = z.object({
  source: weightSourceField,
  mirrors: z.array(weightSourceField).check(z.minLength(1), z.maxLength(8)),
});
export type ModelMirror = z.infer<typeof mirrorSchema>;

/** What the operator wants of an agent. Written whole; `revision` grows with each change of the rest. */
export const desiredSchema = z.object({
  revision: z.int().check(z.minimum(1)),
  /** Config to fetch and verify while the old one serves. */
  stage: z.nullable(digestField),
  /** Config to run; null = keep what is applied. */
  target: z.nullable(digestField),
  engine: nameField,
  /** Image to which the spec narrows the config's choice. */
  image: z.nullable(z.string().check(z.maxLength(512))),
  gpuProduct: z.nullable(textField),
  gpuCount: z.int().check(z.minimum(0), z.maximum(64)),
  /** Models that the spec asks for; empty = all that the config has for the engine. */
  models: z.array(modelField).check(z.maxLength(256)),
  /** Models that the network's owner keeps from this node, for the operator to know again: `models` names none of them. Absent = none. */
  withheld: z.optional(z.array(modelField).check(z.maxLength(256))),
  args: z.array(z.string().check(z.maxLength(4096))).check(z.maxLength(256)),
  /** False: hold the session, take no jobs. */
  accept: z.boolean(),
  subclouds: z.array(nameField).check(z.maxLength(64)),
  /** How long running jobs may go on after a planned stop, and after one that nobody planned (eviction). */
  drainTimeoutMs: durationField,
  evictionTimeoutMs: durationField,
  /** Set before the operator stops a container or the pod: the drain that follows is planned. */
  plannedStop: z.nullable(z.enum(["runtime-image", "agent-image", "recreate", "scale-down", "parking"])),
  /**
   * Other places of the weights of models: what a URL that begins with `source` leads to lies below each of `mirrors` too,
   * which are tried first. Only the place: what the bytes must be, the config says. Absent = none.
   */
  mirrors: z.optional(z.array(mirrorSchema).check(z.maxLength(maxMirrors))),
});
export type Desired = z.infer<typeof desiredSchema>;

/** @throws {ProtocolError} `malformed`, `schema`. */
export function parseDesired(text: string): Desired {
  return parsePayload(desiredSchema, text, "annotation resultity.com/desired");
}
