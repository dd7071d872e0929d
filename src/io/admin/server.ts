// oxlint-disable oxc/no-async-endpoint-handlers -- fastify awaits its handlers
import { randomBytes } from "node:crypto";
import { createHash } from "node:crypto";
import { type FastifyInstance, fastify } from "fastify";
import * as z from "zod/mini";
import { messageOf } from "../../lib/errors.ts";
import { mintBinding, mintGrant } from "../../protocol/binding.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import {
  jobIdField,
  keyIdField,
  nameField,
  nodeIdField,
  seqField,
  textField,
} from "../../protocol/fields.ts";
import { statementField } from "../../protocol/messages.ts";
import { PublishError } from "../config/network-config.ts";
import type { IoService } from "../service.ts";
import { type JobRow, jobStates, StoreError } from "../store/port.ts";

/** Most bytes of an admin request: a release and the snapshots that come with it. */
const bodyLimit = 32 * 1024 * 1024;

const delegateBody = z.object({ root: statementField, delegation: statementField });
const accountBody = z.object({ id: nameField });
const bindingBody = z.object({ account: nameField, node_id: nodeIdField });
const grantBody = z.object({
  account: nameField,
  node_id: nodeIdField,
  kid: keyIdField,
  generation: z.nullable(seqField),
});
const revokeBody = z.object({ id: nodeIdField });
const apiKeyBody = z.object({ consumer: nameField });
const publishBody = z.object({
  release: statementField,
  snapshots: z.array(z.string()).check(z.maxLength(64)),
});
const banBody = z.object({ id: nodeIdField, reason: z.nullable(textField) });
const jobsQuery = z.object({
  state: z.optional(z.enum(jobStates)),
  consumer: z.optional(nameField),
  limit: z.optional(z.string().check(z.regex(/^[0-9]{1,5}$/))),
});
const receiptsQuery = z.object({ account: nameField, from: z.string().check(z.regex(/^[0-9]{1,15}$/)) });

/** Receipts in one answer. */
export const receiptPage = 1000;

/** A node as `io nodes list --json` shows it. */
export interface NodeView {
  readonly id: string;
  readonly account: string;
  readonly connected: boolean;
  readonly since: string;
  readonly epoch: number;
  readonly version: string | null;
  readonly config: string | null;
  readonly models: readonly string[];
  readonly jobs: number;
  readonly committed: number;
  readonly banned: string | null;
  /** Its key now, and how often its account has granted it one. */
  readonly kid: string;
  readonly generation: number;
  readonly revoked: boolean;
  /** When two processes were last seen to hold its identity; null = not lately. */
  readonly conflict: string | null;
}

/** A job as `io jobs list --json` shows it. */
export type JobView = Omit<JobRow, "createdAt" | "finishedAt" | "durable"> & {
  /** Whether a client waits on a connection. */
  readonly mode: "sync" | "async";
  readonly createdAt: string;
  readonly finishedAt: string | null;
};

const iso = (ms: number): string => new Date(ms).toISOString();

/** The admin API on the service's unix socket: whoever may open the socket may do everything. */
export function adminServer(service: IoService): FastifyInstance {
  const app = fastify({ logger: false, bodyLimit });
  const { store, clock, log } = service.parts;

  app.setErrorHandler((error: unknown, _request, reply) => {
    const known =
      error instanceof ProtocolError || error instanceof PublishError || error instanceof StoreError;
    const status = known ? 409 : error instanceof BadRequest ? 400 : 500;
    if (status === 500) log.error({ why: messageOf(error) }, "admin request failed");
    const code = known ? error.code : "error";
    return reply.code(status).send({ error: messageOf(error), code });
  });

  app.get("/status", (_request, reply) =>
    reply.send({
      network: service.config.network,
      problem: service.problem ?? null,
      delegationExpires: service.serviceKey.expires === undefined ? null : iso(service.serviceKey.expires),
      release: service.config.release?.release ?? null,
      nodes: service.nodes.size,
      sessions: service.sessions.open,
      queued: service.dispatch.queued,
      asyncQueued: service.dispatch.asyncQueued,
    }),
  );

  app.post("/delegate", async (request) => {
    const { root, delegation } = parse(delegateBody, request.body);
    const expires = await service.delegate(root, delegation);
    log.info({ expires: iso(expires) }, "the service's key is delegated");
    return { expires: iso(expires) };
  });

  app.post("/accounts", async (request) => {
    const { id } = parse(accountBody, request.body);
    const key = randomBytes(32).toString("base64url");
    await store.write([{ put: "account", id, key }]);
    service.accounts.add(id, key);
    log.info({ account: id }, "account added");
    return { id, key };
  });

  app.post("/bindings", (request, reply) => {
    const { account, node_id: node } = parse(bindingBody, request.body);
    const key = service.accounts.keyOf(account);
    if (!key) {
      const error = `no account ${account}: add it with \`io accounts add\``;
      return reply.code(404).send({ error, code: "not_found" });
    }
    log.info({ account, node }, "node bound to account");
    return reply.send(mintBinding(key, service.config.network, account, node));
  });

  app.post("/grants", (request, reply) => {
    const { account, node_id, kid, generation } = parse(grantBody, request.body);
    const key = service.accounts.keyOf(account);
    const known = service.nodes.get(node_id);
    if (!key || (known && known.account !== account)) {
      const error = key
        ? `node ${node_id} is not of account ${account}: see \`io nodes list\``
        : `no account ${account}: add it with \`io accounts add\``;
      return reply.code(404).send({ error, code: "not_found" });
    }
    const { network } = service.config;
    const next = generation ?? (known?.generation ?? 0) + 1;
    log.info({ account, node: node_id, kid, generation: next }, "key granted to node");
    return reply.send(mintGrant(key, { network, account, node_id, kid, generation: next }));
  });

  app.post("/apikeys", async (request) => {
    const { consumer } = parse(apiKeyBody, request.body);
    const key = `rk-${randomBytes(32).toString("base64url")}`;
    const sha256 = createHash("sha256").update(key).digest("hex");
    await store.write([{ put: "apikey", sha256, consumer, createdAt: clock.now() }]);
    service.apiKeys.add(sha256, consumer);
    log.info({ consumer }, "API key added");
    return { consumer, key };
  });

  app.post("/publish", async (request) => {
    const { release, snapshots } = parse(publishBody, request.body);
    const published = await service.config.publish(release, snapshots);
    log.info({ sequence: published.sequence, current: published.current }, "release published");
    return { sequence: published.sequence, current: published.current };
  });

  app.get("/nodes", (_request, reply) => {
    const views: NodeView[] = [...service.nodes.all()].map((node) => ({
      id: node.nodeId,
      account: node.account,
      connected: node.connected,
      since: iso(node.since),
      epoch: node.epoch,
      version: node.agentVersion,
      config: node.configApplied,
      models: node.modelsActive,
      jobs: service.dispatch.node(node.nodeId)?.leases.size ?? 0,
      committed: node.jobsCommitted,
      banned: node.banned,
      kid: node.key.kid,
      generation: node.generation,
      revoked: node.revocation !== 0,
      conflict: node.conflictAt === null ? null : iso(node.conflictAt),
    }));
    return reply.send(views);
  });

  app.post("/nodes/ban", async (request, reply) => {
    const { id, reason } = parse(banBody, request.body);
    if (!(await service.ban(id, reason)))
      return reply.code(404).send({ error: `no node ${id}: see \`io nodes list\``, code: "not_found" });
    log.info({ node: id, reason }, reason === null ? "node let in again" : "node banned");
    return { id, banned: reason };
  });

  app.post("/nodes/revoke", async (request, reply) => {
    const { id } = parse(revokeBody, request.body);
    const node = await service.revoke(id);
    if (!node)
      return reply.code(404).send({ error: `no node ${id}: see \`io nodes list\``, code: "not_found" });
    return { id, kid: node.key.kid, generation: node.generation };
  });

  app.get("/jobs", async (request) => {
    const { state, consumer, limit } = parse(jobsQuery, request.query);
    const rows = await store.jobs({
      state,
      consumer,
      limit: limit === undefined ? undefined : Number(limit),
    });
    return rows.map((row) => jobView(service, row));
  });

  app.get<{ Params: { id: string } }>("/jobs/:id", async (request, reply) => {
    const id = jobIdField.safeParse(request.params.id);
    const kept = id.success ? await store.job(id.data) : undefined;
    if (!kept) {
      const error = "no such job: JOB is the `x-request-id` of a client's answer, see `io jobs list`";
      return reply.code(404).send({ error, code: "not_found" });
    }
    const { submission } = kept;
    return {
      ...jobView(service, kept.row),
      ...(submission && { inputBytes: submission.inputBytes, deadline: iso(submission.deadline) }),
      receipt: kept.receipt,
    };
  });

  app.get("/receipts", async (request) => {
    const { account, from } = parse(receiptsQuery, request.query);
    return store.receipts(account, Number(from), receiptPage);
  });
  return app;
}

class BadRequest extends Error {}

function parse<T>(schema: z.ZodMiniType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const path = parsed.error.issues[0]?.path.join(".") ?? "";
  throw new BadRequest(`field ${path === "" ? "(whole)" : path} is missing or wrong`);
}

/** What is kept, with what memory knows better of a job that is under way. */
function jobView(service: IoService, { durable, ...row }: JobRow): JobView {
  const now = service.dispatch.job(row.id);
  const live = service.desk.live.get(row.id);
  return {
    ...row,
    mode: durable ? "async" : "sync",
    ...(now && live
      ? { state: now.state, attempt: now.attempt, node: now.node ?? null, relayedBytes: live.relayedBytes }
      : {}),
    createdAt: iso(row.createdAt),
    finishedAt: row.finishedAt === null ? null : iso(row.finishedAt),
  };
}
