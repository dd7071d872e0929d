// oxlint-disable oxc/no-async-endpoint-handlers -- fastify awaits its handlers
import { createHash } from "node:crypto";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { SharedBudget } from "../../lib/byte-budget.ts";
import { type JobId, jobIdField } from "../../protocol/fields.ts";
import {
  envelopeContentType,
  envelopeHeader,
  jobInputSchema,
  jobInputTyp,
  jobOutputSchema,
  jobOutputTyp,
  paths,
} from "../../protocol/http.ts";
import { maxBodyBytes } from "../../protocol/messages.ts";
import type { Dispatch } from "../dispatch/dispatch.ts";
import type { From, LeaseRef } from "../dispatch/types.ts";
import { VaultError } from "../jobs/body-vault.ts";
import type { JobDesk } from "../jobs/desk.ts";
import type { KnownNode } from "../nodes.ts";
import type { RateLimit } from "../rate.ts";
import {
  canAnswer,
  type EnvelopeParts,
  keepSeq,
  type NodeRequestForm,
  openOfNode,
  sendAnswer,
  sendRefusal,
  tooMany,
  unavailable,
} from "../registration/envelope.ts";
import { BodyError, collectBody, smallBody } from "./body.ts";
import { pacedStream } from "./pace.ts";

/** What transfers need of the service. `rates.node` is their own: large bodies are asked for in bursts. */
export interface TransferParts extends EnvelopeParts {
  readonly desk: JobDesk;
  readonly dispatch: Dispatch;
  /** Bytes of large bodies that the service holds at once, by node. */
  readonly budget: SharedBudget;
  readonly rates: { readonly ip: RateLimit; readonly node: RateLimit };
  /** Base URLs as agents dial them, without a slash at the end. */
  readonly baseUrls: readonly string[];
  /** Most bytes of one job's output. */
  readonly maxOutputBytes: number;
}

/** Most bytes of an envelope: the header of an output, the body that asks for an input. */
const maxEnvelopeBytes = 4096;

/**
 * Bodies that are too large for frames, between nodes and jobs (docs/protocol.md §7.7). In order: rate of the address,
 * envelope, known key, rate of the node, signature, seq; then the lease; then memory; and only then is a byte of an output
 * read.
 */
export function transferRoutes(root: FastifyInstance, parts: TransferParts): void {
  void root.register((app, _options, done) => {
    app.removeAllContentTypeParsers();
    app.addContentTypeParser(envelopeContentType, smallBody(maxEnvelopeBytes));
    // An output is read by its handler, when it is known whose it is.
    app.addContentTypeParser("application/octet-stream", (_request, _payload, parsed) => parsed(null));
    app.addHook("onRequest", (request, reply, go) => {
      if (!parts.rates.ip.take(request.ip)) tooMany(reply);
      else if (!canAnswer(parts)) unavailable(reply);
      else go();
    });
    app.post("/v1/nodes/jobs/:job/input", async (request, reply) =>
      answering(parts, reply, () => input(parts, request, reply)),
    );
    app.put("/v1/nodes/jobs/:job/output", async (request, reply) =>
      answering(parts, reply, () => output(parts, request, reply)),
    );
    done();
  });
}

/** A sound request that cannot be served. */
class TransferRefused extends Error {
  readonly node: KnownNode;
  readonly status: number;
  readonly code: string;

  constructor(node: KnownNode, status: number, code: string, message: string) {
    super(message);
    this.node = node;
    this.status = status;
    this.code = code;
  }
}

const retryAfterS = 2;

async function answering(
  parts: TransferParts,
  reply: FastifyReply,
  act: () => Promise<FastifyReply>,
): Promise<FastifyReply> {
  try {
    return await act();
  } catch (thrown) {
    if (!(thrown instanceof TransferRefused)) return sendRefusal(parts, reply, thrown);
    const { node, status, code, message } = thrown;
    parts.log.info({ node: node.nodeId, code, why: message }, "transfer refused");
    if (status === 429) reply.header("retry-after", String(retryAfterS));
    return sendAnswer(parts, reply.code(status), node, { error: { code, message } });
  }
}

/** Who speaks, and of which attempt. */
interface Speaker {
  readonly node: KnownNode;
  readonly lease: LeaseRef;
}

/** Hears a node about one of its jobs; the payload, and that the attempt is its own. */
async function hear<T extends LeaseRef & { readonly node_id: KnownNode["nodeId"]; readonly time: number }>(
  parts: TransferParts,
  request: FastifyRequest,
  envelope: unknown,
  path: (job: JobId) => string,
  form: Pick<NodeRequestForm<T>, "typ" | "schema">,
): Promise<Speaker & { readonly payload: T }> {
  const named = jobIdField.safeParse((request.params as { readonly job?: unknown }).job);
  const urls = named.success ? parts.baseUrls.map((base) => `${base}${path(named.data)}`) : [];
  const text = typeof envelope === "string" && envelope.length <= maxEnvelopeBytes ? envelope : "";
  const { node, payload, seq } = openOfNode(parts, text, { ...form, ip: request.ip, urls });
  await keepSeq(parts, node, seq);
  const { job, attempt, token } = payload;
  const speaker = { node, lease: { job, attempt, token } };
  if (!named.success || job !== named.data || !isCurrent(parts, speaker)) throw stale(node);
  return { ...speaker, payload };
}

const stale = (node: KnownNode): TransferRefused =>
  new TransferRefused(
    node,
    409,
    "E_LEASE_STALE",
    "the attempt is not the current one of this node's session",
  );

const newestSession = ({ nodeId, epoch }: KnownNode): From => ({ node: nodeId, epoch });

/** The fence: the attempt is the current one, and its node has a session. */
function isCurrent({ dispatch }: TransferParts, { node, lease }: Speaker): boolean {
  return node.connected && dispatch.job(lease.job)?.admits(newestSession(node), lease) === true;
}

async function input(
  parts: TransferParts,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const form = { typ: jobInputTyp, schema: jobInputSchema };
  const { body } = request;
  const envelope = Buffer.isBuffer(body) ? body.toString("latin1") : undefined;
  const { node, lease } = await hear(parts, request, envelope, paths.jobInput, form);
  const size = parts.desk.live.get(lease.job)?.input.size ?? 0;
  const budget = parts.budget.of(node.nodeId);
  // Read from the disk, or copied: either takes memory for the time of the transfer.
  if (!budget.take(size)) throw tooMuch(node);
  let bytes: Buffer | undefined;
  try {
    bytes = await parts.desk.input(lease.job);
  } catch (error) {
    budget.give(size);
    if (error instanceof VaultError) throw stale(node);
    throw error;
  }
  if (!bytes) {
    budget.give(size);
    throw stale(node);
  }
  const stream = pacedStream(bytes, parts.clock);
  stream.once("close", () => budget.give(size));
  return reply.type("application/octet-stream").header("content-length", String(bytes.length)).send(stream);
}

const tooMuch = (node: KnownNode): TransferRefused =>
  new TransferRefused(node, 429, "E_BUSY", "bodies on their way take all the memory that there is for them");

async function output(
  parts: TransferParts,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const form = { typ: jobOutputTyp, schema: jobOutputSchema };
  const envelope = request.headers[envelopeHeader];
  const { node, lease, payload } = await hear(parts, request, envelope, paths.jobOutput, form);
  const most = Math.min(maxBodyBytes, parts.maxOutputBytes);
  if (payload.size > most)
    throw new TransferRefused(node, 413, "too_large", `an output has at most ${most} bytes`);
  if (request.headers["content-length"] !== String(payload.size)) throw mismatch(node);
  const budget = parts.budget.of(node.nodeId);
  const body = await collectBody(request.raw, budget, { length: payload.size, most }).catch(
    (error: unknown) => {
      // What was cut has nobody who reads an answer; it is made all the same.
      throw error instanceof BodyError && error.code === "busy" ? tooMuch(node) : mismatch(node);
    },
  );
  try {
    if (createHash("sha256").update(body.bytes).digest("hex") !== payload.sha256) throw mismatch(node);
    // Another attempt may have begun while this one's output came in.
    if (!isCurrent(parts, { node, lease })) throw stale(node);
    const received = () => parts.dispatch.job(lease.job)?.received ?? 0;
    const before = received();
    parts.desk.piece(newestSession(node), lease, 0, body.bytes);
    if (!isCurrent(parts, { node, lease }) || received() < payload.size) throw stale(node);
    // It is the attempt's now, unless that had it all before.
    if (received() > before) parts.desk.live.get(lease.job)?.output.whenLetGo(() => body.release());
    else body.release();
  } catch (error) {
    body.release();
    throw error;
  }
  return sendAnswer(parts, reply, node, {});
}

const mismatch = (node: KnownNode): TransferRefused =>
  new TransferRefused(node, 409, "digest_mismatch", "the bytes are not those that sha256 and size name");
