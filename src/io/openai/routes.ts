// oxlint-disable oxc/no-async-endpoint-handlers -- fastify awaits its handlers
import type { IncomingMessage } from "node:http";
import { finished } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { SharedBudget } from "../../lib/byte-budget.ts";
import type { Clock } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import type { JobId } from "../../protocol/fields.ts";
import { maxBodyBytes } from "../../protocol/messages.ts";
import type { NetworkConfig } from "../config/network-config.ts";
import type { Dispatch } from "../dispatch/dispatch.ts";
import type { AsyncJobs } from "../jobs/async-jobs.ts";
import type { JobDesk } from "../jobs/desk.ts";
import { HeldInput } from "../jobs/input.ts";
import type { IoMetrics } from "../metrics.ts";
import { BodyError, collectBody, HeldBody, lengthOf } from "../transfer/body.ts";
import { StoreError } from "../store/port.ts";
import type { ApiKeys } from "./api-keys.ts";
import { PlainClient, StreamClient } from "./clients.ts";
import { type ApiError, errorText, invalid, tooManyBytes, tryLater } from "./errors.ts";
import { jobObject, jobsRoutes } from "./jobs-routes.ts";
import { type CompletionRequest, isApiError, readCompletion, tooLarge } from "./validate.ts";

/** What the client API needs of the service. */
export interface ApiParts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly config: NetworkConfig;
  readonly keys: ApiKeys;
  readonly dispatch: Dispatch;
  readonly desk: JobDesk;
  readonly asyncJobs: AsyncJobs;
  readonly metrics: IoMetrics;
  /** Bytes of requests that the service holds at once, by consumer. */
  readonly budget: SharedBudget;
  readonly newJobId: () => JobId;
  /** Why the service takes no requests now; undefined = it does. */
  readonly problem: () => string | undefined;
}

/** How long a client that is gone may come back to its connection: not at all, but its job goes on this long, ms. */
const goneMs = 3_000;

const unauthorized: ApiError = {
  status: 401,
  type: "invalid_request_error",
  code: "invalid_api_key",
  param: null,
  message: "no valid API key: send `Authorization: Bearer <key>`",
};

/** `POST /v1/chat/completions` and `GET /v1/models`, as OpenAI's clients use them; `/v1/jobs` (docs/client-api.md). */
export function openaiRoutes(root: FastifyInstance, parts: ApiParts): void {
  // A scope of its own: bodies here stay bytes, errors have OpenAI's form.
  void root.register((app, _options, done) => {
    app.removeAllContentTypeParsers();
    app.addContentTypeParser("application/json", (request: FastifyRequest, payload: IncomingMessage) => {
      const consumer = parts.keys.consumerOf(request.headers.authorization) ?? "";
      const limits = { length: lengthOf(request), most: maxBodyBytes };
      return collectBody(payload, parts.budget.of(consumer), limits);
    });
    // An answer that was sent, or has nobody to read it: its request is not needed any more.
    app.addHook("preHandler", ({ body }, reply, go) => {
      if (isHeld(body)) finished(reply.raw, () => body.release());
      go();
    });
    app.setErrorHandler((error: { code?: string; statusCode?: number; message: string }, _request, reply) => {
      const told = fromFastify(error);
      // Closing at once would reset the connection under a client that is still sending, which then never reads why.
      if (error instanceof BodyError) reply.removeHeader("connection");
      if (told.status >= 500) parts.log.error({ why: messageOf(error) }, "a request failed");
      return send(parts, reply, told);
    });
    // Before the body is read: strangers are to cost nothing.
    app.addHook("onRequest", (request, reply, go) => {
      if (parts.keys.consumerOf(request.headers.authorization) === undefined)
        send(parts, reply, unauthorized);
      else go();
    });
    app.post("/v1/chat/completions", (request, reply) =>
      wantsAsync(request) ? submit(parts, request, reply) : complete(parts, request, reply),
    );
    jobsRoutes(app, {
      jobs: parts.asyncJobs,
      clock: parts.clock,
      budget: parts.budget,
      consumerOf: (request) => parts.keys.consumerOf(request.headers.authorization) ?? "",
      unavailable: () => unavailable(parts),
      send: (reply, error) => send(parts, reply, error),
      answered: (status) => parts.metrics.requests.inc({ status }),
    });
    app.get("/v1/models", (request, reply) => listModels(parts, request, reply));
    done();
  });
}

function fromBody({ code, message }: BodyError): ApiError {
  if (code === "too_large") return tooLarge();
  if (code === "busy") return tooManyBytes();
  return invalid(message, null, "invalid_request");
}

const isHeld = (body: unknown): body is HeldBody => body instanceof HeldBody;

function fromFastify(error: { code?: string; statusCode?: number; message: string }): ApiError {
  if (error instanceof BodyError) return fromBody(error);
  if (error.code === "FST_ERR_CTP_INVALID_MEDIA_TYPE")
    return invalid("content-type must be application/json", null, "unsupported_media_type", 415);
  if (error instanceof StoreError && error.code === "unavailable")
    return tryLater(503, "unavailable", "the service cannot reach its store now", 2);
  const status = error.statusCode ?? 500;
  if (status < 500) return invalid(error.message, null, "invalid_request", status);
  return { status, type: "server_error", code: "internal_error", param: null, message: "internal error" };
}

function send(parts: ApiParts, reply: FastifyReply, error: ApiError): FastifyReply {
  parts.metrics.requests.inc({ status: error.status });
  if (error.retryAfter !== undefined) reply.header("retry-after", String(error.retryAfter));
  return reply.code(error.status).type("application/json").send(errorText(error));
}

/** A request that may be taken, and whose it is. */
interface Asked {
  readonly consumer: string;
  readonly body: Buffer;
  readonly completion: CompletionRequest;
}

/** Reads a request for a completion; the error in the client's terms where it is not taken. */
function read(parts: ApiParts, request: FastifyRequest): Asked | ApiError {
  const consumer = parts.keys.consumerOf(request.headers.authorization);
  if (consumer === undefined) return unauthorized;
  const { body } = request;
  if (!isHeld(body)) return invalid("the body is missing", null, "invalid_json");
  const completion = readCompletion(body.bytes);
  if (isApiError(completion)) return completion;
  return refusedFor(parts, completion.model) ?? { consumer, body: body.bytes, completion };
}

/** `Prefer: respond-async` (RFC 7240 §4.1): do not wait for the answer. */
function wantsAsync({ headers: { prefer } }: FastifyRequest): boolean {
  const preferences = typeof prefer === "string" ? prefer.split(",") : (prefer ?? []);
  return preferences.some((preference) => /^\s*respond-async\s*(;|$)/i.test(preference));
}

/** Takes a job without a client that waits. The answer comes when it is on the disk. */
async function submit(parts: ApiParts, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
  const asked = read(parts, request);
  if (isApiError(asked)) return send(parts, reply, asked);
  const { consumer, body, completion } = asked;
  if (completion.stream)
    return send(parts, reply, invalid("an asynchronous job has no stream: leave stream out", "stream"));
  const idempotencyKey = request.headers["idempotency-key"];
  if (idempotencyKey !== undefined && !/^[\x20-\x7e]{1,255}$/.test(String(idempotencyKey)))
    return send(parts, reply, invalid("Idempotency-Key is 1 to 255 characters of ASCII", "idempotency-key"));
  const submitted = await parts.asyncJobs.submit({
    consumer,
    model: completion.model,
    body,
    idempotencyKey: idempotencyKey === undefined ? undefined : String(idempotencyKey),
  });
  switch (submitted.is) {
    case "differs": {
      const message = "this Idempotency-Key was used for another request";
      return send(parts, reply, invalid(message, "idempotency-key", "idempotency_key_reused", 409));
    }
    case "full":
      return send(
        parts,
        reply,
        tryLater(429, "too_many_jobs", "too many asynchronous jobs, or bytes of them, are not finished", 30),
      );
    case "known":
    case "accepted": {
      const { job } = submitted;
      parts.metrics.requests.inc({ status: 202 });
      return reply
        .code(202)
        .headers({
          location: `/v1/jobs/${job.id}`,
          "preference-applied": "respond-async",
          "x-request-id": job.id,
        })
        .type("application/json")
        .send(JSON.stringify(jobObject(job)));
    }
    default:
      return submitted satisfies never;
  }
}

function complete(parts: ApiParts, request: FastifyRequest, reply: FastifyReply): FastifyReply | undefined {
  const asked = read(parts, request);
  if (isApiError(asked)) return send(parts, reply, asked);
  const { consumer, body, completion } = asked;
  const { model, stream, text } = completion;
  if (!parts.dispatch.hasRoom(consumer, model))
    return send(
      parts,
      reply,
      tryLater(429, "queue_full", "too many requests wait for this model; try again later", 2),
    );

  const id = parts.newJobId();
  const response = reply.raw;
  reply.hijack();
  response.setHeader("x-request-id", id);
  const onAnswer = (status: number) => parts.metrics.requests.inc({ status });
  const client = stream
    ? new StreamClient(response, parts.clock, onAnswer)
    : new PlainClient(response, onAnswer);
  response.once("close", () => {
    if (response.writableFinished) return;
    parts.clock.setTimer(() => parts.desk.abandon(id, "the client is gone"), goneMs);
  });
  parts.desk.submit({ id, consumer, model, stream, durable: false }, new HeldInput(body, text), client);
  return undefined;
}

function unavailable(parts: ApiParts): ApiError | undefined {
  const problem = parts.problem();
  return problem === undefined
    ? undefined
    : tryLater(503, "unavailable", `the service takes no requests now: ${problem}`, 2);
}

/** Why a well-formed request is not taken now. */
function refusedFor(parts: ApiParts, model: string): ApiError | undefined {
  const away = unavailable(parts);
  if (away) return away;
  if (!parts.config.models.has(model))
    return invalid(`the model \`${model}\` does not exist`, "model", "model_not_found", 404);
  return undefined;
}

function listModels(parts: ApiParts, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  if (parts.keys.consumerOf(request.headers.authorization) === undefined)
    return send(parts, reply, unauthorized);
  const { release, models, network } = parts.config;
  const created = Math.floor((release?.release.released_at ?? 0) / 1000);
  const data = [...models].sort().map((id) => ({ id, object: "model", created, owned_by: network }));
  parts.metrics.requests.inc({ status: 200 });
  return reply.type("application/json").send(JSON.stringify({ object: "list", data }));
}
