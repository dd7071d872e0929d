import type { FastifyReply } from "fastify";
import type * as z from "zod/mini";
import type { Clock } from "../../lib/clock.ts";
import type { Logger } from "../../lib/logger.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { envelopeContentType, type HttpAnswer, openRequest, sealAnswer } from "../../protocol/http.ts";
import { decodeUtf8 } from "../../protocol/jws.ts";
import type { NodeId } from "../../protocol/keys.ts";
import { checkSkew } from "../../protocol/session/handshake.ts";
import type { Accounts } from "../accounts.ts";
import type { NetworkConfig } from "../config/network-config.ts";
import type { KnownNode, Nodes } from "../nodes.ts";
import type { RateLimit } from "../rate.ts";
import type { ServiceKey } from "../service-key.ts";
import type { Store } from "../store/port.ts";
import type { Nonces } from "./nonces.ts";

/** What the HTTP side of nodes needs of the service. */
export interface RegistrationParts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly config: NetworkConfig;
  readonly nodes: Nodes;
  readonly accounts: Accounts;
  readonly store: Store;
  readonly serviceKey: ServiceKey;
  readonly nonces: Nonces;
  readonly rates: { readonly ip: RateLimit; readonly node: RateLimit };
  /** Base URLs as agents dial them, without a slash at the end. */
  readonly baseUrls: readonly string[];
  /** The account has granted the node the key that it has now. */
  readonly granted: (node: KnownNode) => void;
}

/** What it takes to hear a registered node and to answer it. `rates.node` is by address and node. */
export type EnvelopeParts = Pick<
  RegistrationParts,
  "clock" | "log" | "nodes" | "store" | "serviceKey" | "rates"
>;

/** What a request that was taken is answered with. */
export type Heard = { readonly node: KnownNode } & Pick<HttpAnswer, "latest" | "kid">;

/** A refusal that the node is told of in a signed answer. */
export class Refused extends Error {
  readonly nodeId: NodeId;
  readonly httpSeq: number;
  readonly refusal: ProtocolError;

  constructor(nodeId: NodeId, httpSeq: number, refusal: ProtocolError) {
    super(refusal.message);
    this.nodeId = nodeId;
    this.httpSeq = httpSeq;
    this.refusal = refusal;
  }
}

/** What is wrong with a request of a node that is known by then is told in a signed answer. */
export function refusing<T>(refuse: (error: ProtocolError) => Refused, check: () => T): T {
  try {
    return check();
  } catch (error) {
    throw error instanceof ProtocolError ? refuse(error) : error;
  }
}

/** Answers one request of a node with what `hear` makes of its body. */
export async function answer(
  parts: EnvelopeParts,
  reply: FastifyReply,
  hear: (text: string) => Promise<Heard>,
  body: unknown,
): Promise<FastifyReply> {
  if (!canAnswer(parts)) return unavailable(reply);
  if (!Buffer.isBuffer(body)) return reply.code(400).send({ error: "the body must be one compact JWS" });
  try {
    const { node, ...more } = await hear(decodeUtf8(body));
    return sendAnswer(parts, reply, node, more);
  } catch (thrown) {
    return sendRefusal(parts, reply, thrown);
  }
}

/** Whether nodes can be answered now. */
export function canAnswer({ store, serviceKey, clock }: EnvelopeParts): boolean {
  return store.healthy && serviceKey.delegationAt(clock.now()) !== undefined;
}

export function unavailable(reply: FastifyReply): FastifyReply {
  return reply.code(503).header("retry-after", "5").send({ error: "the service cannot answer nodes now" });
}

/** Sends what the service says to a node, signed. */
export function sendAnswer(
  { clock, serviceKey }: EnvelopeParts,
  reply: FastifyReply,
  { nodeId, httpSeq }: Pick<KnownNode, "nodeId" | "httpSeq">,
  more: Pick<HttpAnswer, "latest" | "kid" | "error">,
): FastifyReply {
  const said: HttpAnswer = { node_id: nodeId, time: clock.now(), http_seq: httpSeq, ...more };
  return reply.type(envelopeContentType).send(sealAnswer(said, serviceKey.key));
}

/** Sends why a request was refused: signed where it is known to whom. Anything but a refusal is thrown again. */
export function sendRefusal(parts: EnvelopeParts, reply: FastifyReply, thrown: unknown): FastifyReply {
  const error = thrown instanceof Refused ? thrown.refusal : thrown;
  if (!(error instanceof ProtocolError)) throw thrown;
  const { code } = error;
  parts.log.info({ code, why: error.message }, "request of a node refused");
  if (code === "not_allowed" && !(thrown instanceof Refused)) return tooMany(reply);
  if (!(thrown instanceof Refused)) return reply.code(400).send({ error: { code, message: error.message } });
  const status = code === "unknown_key" || code === "binding" ? 403 : 409;
  const message = error.message.slice(0, 500);
  return sendAnswer(parts, reply.code(status), thrown, { error: { code, message } });
}

export function tooMany(reply: FastifyReply): FastifyReply {
  return reply.code(429).header("retry-after", "5").send({ error: "too many requests" });
}

/** A request that a registered node has signed. */
export interface NodeRequest<T> {
  readonly node: KnownNode;
  readonly payload: T;
  readonly url: string;
  readonly seq: number;
  readonly refuse: (error: ProtocolError) => Refused;
}

/** Where a request came from and what it must be. */
export interface NodeRequestForm<T> {
  readonly ip: string;
  readonly typ: string;
  readonly schema: z.ZodMiniType<T>;
  readonly urls: readonly string[];
}

/**
 * Farthest that a `seq` may lie above the last: a thief who sends the largest number would leave the node none, also after
 * its account has given it another key.
 */
const maxSeqStep = 2 ** 20;

/** Opens a request of a registered node: key, rate, signature, node id, ban, seq, skew. Nothing is kept yet. */
export function openOfNode<T extends { readonly node_id: NodeId; readonly time: number }>(
  { nodes, rates, clock }: EnvelopeParts,
  text: string,
  { ip, typ, schema, urls }: NodeRequestForm<T>,
): NodeRequest<T> {
  let speaker: KnownNode | undefined;
  const { payload, url, seq } = openRequest(text, typ, schema, {
    urls,
    keyFor: (jws) => {
      speaker = nodes.byKey(jws.header.kid);
      if (!speaker) throw new ProtocolError("unknown_key", "no node is registered with this key");
      takeRate(rates.node, ip, speaker);
      return speaker.key;
    },
  });
  const node = speaker;
  if (!node) throw new ProtocolError("unknown_key", "no node is registered with this key");
  const refuse = (error: ProtocolError) => new Refused(node.nodeId, node.httpSeq, error);
  if (payload.node_id !== node.nodeId)
    throw refuse(new ProtocolError("wrong_node", "the key belongs to another node"));
  if (node.banned !== null) throw refuse(new ProtocolError("not_allowed", "the node is banned"));
  if (seq <= node.httpSeq)
    throw refuse(new ProtocolError("sequence", `seq ${seq} is not greater than ${node.httpSeq}`));
  if (seq > node.httpSeq + maxSeqStep)
    throw refuse(new ProtocolError("sequence", `seq ${seq} is too far above ${node.httpSeq}`));
  refusing(refuse, () => checkSkew(payload.time, clock.now()));
  return { node, payload, url, seq, refuse };
}

/** Takes one request of a node at an address off its allowance. @throws {ProtocolError} `not_allowed` */
export function takeRate(rate: RateLimit, ip: string, { nodeId }: KnownNode): void {
  if (!rate.take(`${ip} ${nodeId}`))
    throw new ProtocolError("not_allowed", "too many requests of this node; back off");
}

/** Hears a registered node; its seq is on the disk before the answer. */
export async function hearNode<T extends { readonly node_id: NodeId; readonly time: number }>(
  parts: EnvelopeParts,
  text: string,
  form: NodeRequestForm<T>,
  use: (node: KnownNode, payload: T) => Omit<Heard, "node">,
): Promise<Heard> {
  const { node, payload, seq } = openOfNode(parts, text, form);
  await keepSeq(parts, node, seq);
  return { node, ...use(node, payload) };
}

/** The node's request is taken: none with this seq or a lower one is, from now on. On the disk when this resolves. */
export async function keepSeq({ store, clock }: EnvelopeParts, node: KnownNode, seq: number): Promise<void> {
  node.httpSeq = seq;
  await store.write([{ put: "http-seq", nodeId: node.nodeId, seq }]);
  node.heardAt = clock.now();
}
