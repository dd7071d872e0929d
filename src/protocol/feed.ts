import * as z from "zod/mini";
import {
  countField,
  digestField,
  keyIdField,
  modelField,
  nodeIdField,
  textField,
  timeField,
} from "./fields.ts";
import { parsePayload } from "./frame.ts";
import { xidField } from "./messages.ts";

/**
 * The fleet feed: the network's view of an account's nodes, one JSON object a line (`application/x-ndjson`) for as long
 * as the connection lives. First one `node` per node, then `synced`, then a `node` for each change, and a `ping` every
 * 15 s. Authenticated with the account key (`binding.ts`).
 */
export const feedNode = z.object({
  type: z.literal("node"),
  node_id: nodeIdField,
  /** Current key of the node. */
  kid: keyIdField,
  connected: z.boolean(),
  /** Since when it is (not) connected. */
  since: timeField,
  epoch: countField,
  /** Until when offers go to others first; null = not. */
  deprioritised_until: z.nullable(timeField),
  banned: z.nullable(textField),
  /** Generation of the newest grant that counted; 0 = none. */
  generation: countField,
  /** Its account has revoked the key: only a grant of a greater generation lets the node back. */
  revoked: z.boolean(),
  /** When two processes were last seen to hold this identity at once; null = not within the last {@link conflictMs}. */
  conflict: z.nullable(timeField),
  config_applied: z.nullable(digestField),
  models_active: z.array(modelField).check(z.maxLength(256)),
  /** What the drivers of its GPUs have said since its agent began, as its newest report has it. Absent: nothing. */
  xids: z.optional(z.array(xidField).check(z.maxLength(64))),
  /** Totals since registration. */
  jobs_committed: countField,
  /**
   * Jobs since the node told of its present config, as far as this run of the service has seen them. `failed` counts
   * attempts that the node's engine gave up, and results that the service refused. `duration_ms`: of all completed
   * together, as the receipts say.
   */
  work: z.object({
    config: z.nullable(digestField),
    completed: countField,
    failed: countField,
    duration_ms: countField,
  }),
});
export const feedLine = z.discriminatedUnion("type", [
  feedNode,
  z.object({ type: z.literal("synced") }),
  z.object({ type: z.literal("ping"), time: timeField }),
]);
export type FeedNode = z.infer<typeof feedNode>;
export type FeedLine = z.infer<typeof feedLine>;

/** How long a conflict of identity is shown after it was last seen, ms: an agent that lost one comes back sooner. */
export const conflictMs = 5 * 60_000;

/** Interval of `ping` lines, ms; a reader gives up after three of them have failed to come. */
export const feedPingMs = 15_000;

/** @throws {ProtocolError} */
export function parseFeedLine(text: string): FeedLine {
  return parsePayload(feedLine, text, "feed line");
}
