import type { NodeId } from "../../protocol/keys.ts";
import type { Usage } from "../../protocol/messages.ts";
import type { JobSpec } from "../dispatch/types.ts";
import type { JobRow } from "../store/port.ts";
import type { JobClient } from "./client.ts";
import type { JobInput } from "./input.ts";
import { Output } from "./output.ts";

/** A job that is not over, with what dispatch does not need: input, output, client. */
export class LiveJob {
  readonly spec: JobSpec;
  readonly input: JobInput;
  readonly client: JobClient;
  /** Wall time, ms. */
  readonly createdAt: number;
  /** Monotonic ms. */
  readonly startedAt: number;
  readonly output = new Output();
  /** Bytes that the client has been given. */
  relayedBytes = 0;
  metered: Usage = { prompt_tokens: 0, completion_tokens: 0 };
  /** Countersigned receipt, once committed. */
  countersign: string | undefined;
  /** The attempt that was offered last. */
  last: { attempt: number; node: NodeId | null } = { attempt: 0, node: null };

  constructor(spec: JobSpec, input: JobInput, client: JobClient, createdAt: number, startedAt: number) {
    this.spec = spec;
    this.input = input;
    this.client = client;
    this.createdAt = createdAt;
    this.startedAt = startedAt;
  }

  /** The job as it is kept. */
  row(
    now: Pick<JobRow, "state" | "attempt" | "node"> &
      Partial<Pick<JobRow, "finishedAt" | "outcome" | "httpStatus" | "endCode" | "error">>,
  ): JobRow {
    const { id, consumer, model, stream, durable } = this.spec;
    // A stream that broke off without a result: what its client has had counts all the same.
    const relayed = now.state === "INTERRUPTED" && now.outcome === undefined ? this.output.pieces : 0;
    return {
      id,
      consumer,
      model,
      stream,
      durable,
      createdAt: this.createdAt,
      finishedAt: null,
      outcome: null,
      httpStatus: null,
      endCode: null,
      error: null,
      relayedBytes: this.relayedBytes,
      promptTokens: this.metered.prompt_tokens,
      completionTokens: Math.max(relayed, this.metered.completion_tokens),
      ...now,
    };
  }
}
