import { z } from "zod";
import { maxMessageLength } from "./conditions.ts";
import { listMap, observedGeneration, time } from "./fields.ts";

/** The `conditions` list of a status, merged by `type`. */
export function conditions<Type extends string>(
  types: readonly [Type, ...Type[]],
  reasons: readonly [string, ...string[]],
) {
  const condition = z.strictObject({
    type: z.enum(types).describe("What this condition is about."),
    status: z
      .enum(["True", "False", "Unknown"])
      .describe("Whether it holds; Unknown while it cannot be told."),
    observedGeneration: observedGeneration(),
    lastTransitionTime: time().describe("When status last changed."),
    reason: z
      .string()
      .min(1)
      .max(64)
      .regex(/^[A-Z][A-Za-z0-9]*$/)
      .describe(`Why, as one word for programs: ${reasons.join(", ")}. Later versions may add reasons.`),
    message: z
      .string()
      .max(maxMessageLength)
      .describe("Why, for people: what is wrong and what to do about it."),
  });
  return listMap(condition, ["type"], types.length).describe(
    `What is known about the object: ${types.join(", ")}. Ready sums up the others.`,
  );
}
