// oxlint-disable oxc/no-async-endpoint-handlers -- fastify awaits its handlers
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import * as z from "zod/mini";
import type { SharedBudget } from "../../lib/byte-budget.ts";
import type { Clock } from "../../lib/clock.ts";
import { type JobId, jobIdField } from "../../protocol/fields.ts";
import type { AsyncJob, AsyncJobs, KeptAnswer } from "../jobs/async-jobs.ts";
import { failureMessages, type JobFailure } from "../jobs/client.ts";
import { pacedStream } from "../transfer/pace.ts";
import { failureError } from "./clients.ts";
import { type ApiError, invalid, tooManyBytes } from "./errors.ts";

/** What the routes of jobs need of the client API around them. */
export interface JobsApi {
  readonly jobs: Pick<AsyncJobs, "find" | "list" | "answer" | "cancel">;
  readonly clock: Clock;
  /** Bytes of answers that are being read, and of requests, by consumer. */
  readonly budget: SharedBudget;
  /** The consumer that asks; the key was checked before. */
  readonly consumerOf: (request: FastifyRequest) => string;
  /** Why nothing can be changed now. */
  readonly unavailable: () => ApiError | undefined;
  readonly send: (reply: FastifyReply, error: ApiError) => FastifyReply;
  readonly answered: (status: number) => void;
}

const defaultPage = 20;
const maxPage = 100;

const listQuery = z.object({
  limit: z.optional(z.string().check(z.regex(/^[0-9]{1,3}$/))),
  after: z.optional(jobIdField),
});

const notFound = invalid("there is no such job", null, "job_not_found", 404);

/** A job as `/v1/jobs` shows it. Times are in seconds, as in the rest of this API. */
export function jobObject(job: AsyncJob): Readonly<Record<string, unknown>> {
  const { id, status, model, createdAt, finishedAt, usage } = job;
  const error = errorOf(job);
  return {
    id,
    object: "job",
    status,
    model,
    created_at: seconds(createdAt),
    finished_at: finishedAt === null ? null : seconds(finishedAt),
    usage: usage && { ...usage, total_tokens: usage.prompt_tokens + usage.completion_tokens },
    error: error && { code: error.code, message: error.message },
  };
}

const seconds = (ms: number): number => Math.floor(ms / 1000);

/** What a client that waits would have been told in place of an answer; null where there is one, or may yet be. */
function errorOf({ finishedAt, httpStatus, endCode }: AsyncJob): ApiError | null {
  if (finishedAt === null) return null;
  if (httpStatus !== null) {
    if (httpStatus < 300) return null;
    return invalid(`the engine answered HTTP ${httpStatus}: see the job's result`, null, "engine_refused");
  }
  if (endCode === "cancelled") return invalid("the job was cancelled", null, "job_cancelled", 409);
  const code = failureCodes.find((known) => known === endCode) ?? "job_failed";
  return failureError({ code, message: failureMessages[code] });
}

const failureCodes = [
  "node_lost",
  "no_capacity",
  "job_failed",
  "timeout",
  "output_too_large",
] as const satisfies readonly JobFailure["code"][];

/** `/v1/jobs`: list, look, fetch the answer, cancel. */
export function jobsRoutes(app: FastifyInstance, api: JobsApi): void {
  const { jobs, clock, consumerOf, unavailable, send, answered } = api;
  const tell = (reply: FastifyReply, body: unknown) => {
    answered(200);
    return reply.type("application/json").send(JSON.stringify(body));
  };

  app.get("/v1/jobs", async (request, reply) => {
    const query = listQuery.safeParse(request.query);
    if (!query.success)
      return send(reply, invalid(`limit is 1 to ${maxPage}, after is the id of a job`, "limit"));
    const limit = Math.min(maxPage, Math.max(1, Number(query.data.limit ?? defaultPage)));
    const found = await jobs.list(consumerOf(request), limit + 1, query.data.after);
    const data = found.slice(0, limit).map(jobObject);
    return tell(reply, {
      object: "list",
      data,
      first_id: found[0]?.id ?? null,
      last_id: found[data.length - 1]?.id ?? null,
      has_more: found.length > limit,
    });
  });

  app.get<Named>("/v1/jobs/:id", async (request, reply) => {
    const id = idOf(request);
    const job = id && (await jobs.find(consumerOf(request), id));
    return job ? tell(reply, jobObject(job)) : send(reply, notFound);
  });

  app.get<Named>("/v1/jobs/:id/result", async (request, reply) => {
    const id = idOf(request);
    const job = id && (await jobs.find(consumerOf(request), id));
    if (!job) return send(reply, notFound);
    if (job.finishedAt === null)
      return send(reply, invalid("the job is not finished", null, "job_not_finished", 409));
    const budget = api.budget.of(consumerOf(request));
    const { answerBytes } = job;
    // Read from the disk for as long as it takes the client to read it: many at once would fill the memory.
    if (!budget.take(answerBytes)) return send(reply, tooManyBytes());
    let answer: KeptAnswer | undefined;
    try {
      answer = await jobs.answer(job);
    } finally {
      if (!answer) budget.give(answerBytes);
    }
    if (!answer) return send(reply, errorOf(job) ?? notFound);
    answered(answer.status);
    const stream = pacedStream(answer.body, clock);
    stream.once("close", () => budget.give(answerBytes));
    return reply
      .code(answer.status)
      .header("x-request-id", job.id)
      .header("content-length", String(answer.body.length))
      .type("application/json")
      .send(stream);
  });

  app.post<Named>("/v1/jobs/:id/cancel", async (request, reply) => {
    const away = unavailable();
    if (away) return send(reply, away);
    const id = idOf(request);
    const job = id && (await jobs.cancel(consumerOf(request), id));
    return job ? tell(reply, jobObject(job)) : send(reply, notFound);
  });
}

interface Named {
  Params: { id: string };
}

function idOf(request: FastifyRequest<Named>): JobId | undefined {
  const id = jobIdField.safeParse(request.params.id);
  return id.success ? id.data : undefined;
}
