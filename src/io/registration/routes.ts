// oxlint-disable oxc/no-async-endpoint-handlers -- fastify awaits its handlers
import type { FastifyInstance, FastifyReply } from "fastify";
import type * as z from "zod/mini";
import type { Clock } from "../../lib/clock.ts";
import type { Logger } from "../../lib/logger.ts";
import { checkBinding } from "../../protocol/binding.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { parsePayload } from "../../protocol/frame.ts";
import {
  envelopeContentType,
  type HttpAnswer,
  httpHeartbeatSchema,
  httpHeartbeatTyp,
  openRegistration,
  openRequest,
  paths,
  pingSchema,
  pingTyp,
  registerSchema,
  registerTyp,
  sealAnswer,
} from "../../protocol/http.ts";
import { decodeUtf8, splitJws } from "../../protocol/jws.ts";
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
}

/** Most bytes of a request of a node. */
const bodyLimit = 128 * 1024;

/** What a node says by HTTP: registration, ping, heartbeat. Answers are signed by the service. */
export function registrationRoutes(root: FastifyInstance, parts: RegistrationParts): void {
  const { clock, nonces, rates, baseUrls } = parts;
  void root.register((app, _options, done) => {
    app.removeAllContentTypeParsers();
    app.addContentTypeParser(
      envelopeContentType,
      { parseAs: "buffer", bodyLimit },
      (_request, body, parsed) => parsed(null, body),
    );
    const urlsOf = (path: string) => baseUrls.map((base) => `${base}${path}`);
    // Before the body is read.
    app.addHook("onRequest", (request, reply, go) => {
      if (rates.ip.take(request.ip)) go();
      else tooMany(reply);
    });

    app.get(paths.nonce, (_request, reply) =>
      reply.header("cache-control", "no-store").send({ nonce: nonces.issue(clock.now()) }),
    );

    app.post(paths.register, async (request, reply) =>
      answer(parts, reply, (text) => register(parts, text, urlsOf(paths.register)), request.body),
    );

    app.post(paths.ping, async (request, reply) => {
      const hear = (text: string) =>
        hearNode(parts, request.ip, text, pingTyp, pingSchema, urlsOf(paths.ping), () => ({}));
      return answer(parts, reply, hear, request.body);
    });

    app.post(paths.heartbeat, async (request, reply) => {
      const hear = (text: string) =>
        hearNode(
          parts,
          request.ip,
          text,
          httpHeartbeatTyp,
          httpHeartbeatSchema,
          urlsOf(paths.heartbeat),
          (node, payload) => {
            node.agentVersion = payload.report.agent_version;
            node.configApplied = payload.report.config.applied;
            node.modelsActive = payload.report.models.active;
            parts.nodes.changed(node);
            return { latest: parts.config.latest(payload.nonce) };
          },
        );
      return answer(parts, reply, hear, request.body);
    });
    done();
  });
}

function tooMany(reply: FastifyReply): FastifyReply {
  return reply.code(429).header("retry-after", "5").send({ error: "too many requests" });
}

type Heard = { readonly node: KnownNode } & Pick<HttpAnswer, "latest" | "error">;

/** A refusal that the node is told of in a signed answer. */
class Refused extends Error {
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

async function answer(
  { clock, store, serviceKey, log }: RegistrationParts,
  reply: FastifyReply,
  hear: (text: string) => Promise<Heard>,
  body: unknown,
): Promise<FastifyReply> {
  const now = clock.now();
  if (!store.healthy || serviceKey.delegationAt(now) === undefined)
    return reply.code(503).header("retry-after", "5").send({ error: "the service cannot answer nodes now" });
  if (!Buffer.isBuffer(body)) return reply.code(400).send({ error: "the body must be one compact JWS" });
  try {
    const { node, latest } = await hear(decodeUtf8(body));
    const said: HttpAnswer = {
      node_id: node.nodeId,
      time: now,
      http_seq: node.httpSeq,
      ...(latest ? { latest } : {}),
    };
    return reply.type(envelopeContentType).send(sealAnswer(said, serviceKey.key));
  } catch (thrown) {
    const error = thrown instanceof Refused ? thrown.refusal : thrown;
    if (!(error instanceof ProtocolError)) throw thrown;
    log.info({ code: error.code, why: error.message }, "request of a node refused");
    if (error.code === "not_allowed" && !(thrown instanceof Refused)) return tooMany(reply);
    if (!(thrown instanceof Refused))
      return reply.code(400).send({ error: { code: error.code, message: error.message } });
    const said: HttpAnswer = {
      node_id: thrown.nodeId,
      time: now,
      http_seq: thrown.httpSeq,
      error: { code: error.code, message: error.message.slice(0, 500) },
    };
    const status = error.code === "unknown_key" || error.code === "binding" ? 403 : 409;
    return reply.code(status).type(envelopeContentType).send(sealAnswer(said, serviceKey.key));
  }
}

/** What is wrong with a request of a node that is known by then is told in a signed answer. */
function refusing<T>(refuse: (error: ProtocolError) => Refused, check: () => T): T {
  try {
    return check();
  } catch (error) {
    throw error instanceof ProtocolError ? refuse(error) : error;
  }
}

/**
 * Registers a node. In order: form, nonce, binding MAC of a known account (no signature is checked for strangers), then
 * signature and key. The same node again gets the same answer.
 */
async function register(parts: RegistrationParts, text: string, urls: readonly string[]): Promise<Heard> {
  const { clock, nonces, accounts, config, nodes, store, log } = parts;
  const now = clock.now();
  const jws = splitJws(text, registerTyp);
  const { nonce } = jws.header;
  if (typeof nonce !== "string" || !nonces.accepts(nonce, now))
    throw new ProtocolError(
      "wrong_challenge",
      "registration: the nonce is not of this service or too old; ask for another",
    );
  const claimed = parsePayload(
    registerSchema,
    decodeUtf8(Buffer.from(jws.payload, "base64url")),
    "registration",
  );
  const { binding } = claimed;
  const accountKey = accounts.keyOf(binding.account);
  const bound = accountKey !== undefined && checkBinding(accountKey, binding);
  // Strangers are told nothing of the node that they name.
  const httpSeq = bound ? (nodes.get(binding.node_id)?.httpSeq ?? 0) : 0;
  const refuse = (error: ProtocolError) => new Refused(binding.node_id, httpSeq, error);
  if (!bound)
    throw refuse(
      new ProtocolError("binding", "binding: not minted with the key of the account that it names"),
    );
  if (binding.network !== config.network)
    throw refuse(
      new ProtocolError("wrong_network", `binding: this service serves network ${config.network}`),
    );
  const { payload, key } = refusing(refuse, () => {
    const opened = openRegistration(text, urls);
    checkSkew(opened.payload.time, now);
    return opened;
  });
  const known = nodes.get(binding.node_id);
  if (known) {
    if (known.account !== binding.account)
      throw refuse(new ProtocolError("binding", "the node is registered for another account"));
    return { node: known };
  }
  const row = {
    nodeId: binding.node_id,
    kid: key.kid,
    jwk: key.jwk,
    account: binding.account,
    registeredAt: now,
    httpSeq: 0,
    epoch: 0,
    releaseSequence: 0,
    generation: 0,
    revoked: false,
    former: [],
    banned: null,
    jobsCommitted: 0,
  };
  await store.write([{ put: "node", row }]);
  // Two registrations of one node may have waited for the disk together.
  const node = nodes.get(row.nodeId) ?? nodes.add(row, now);
  log.info({ node: row.nodeId, account: row.account, version: payload.agent_version }, "node registered");
  nodes.changed(node);
  return { node };
}

/** Hears a registered node: key, rate, signature, node id, skew, then the seq, which is on the disk before the answer. */
async function hearNode<T extends { readonly node_id: NodeId; readonly time: number }>(
  { nodes, rates, store, clock }: RegistrationParts,
  ip: string,
  text: string,
  typ: string,
  schema: z.ZodMiniType<T>,
  urls: readonly string[],
  use: (node: KnownNode, payload: T) => Pick<HttpAnswer, "latest">,
): Promise<Heard> {
  let speaker: KnownNode | undefined;
  const { payload, seq } = openRequest(text, typ, schema, {
    urls,
    keyFor: (jws) => {
      speaker = nodes.byKey(jws.header.kid);
      if (!speaker) throw new ProtocolError("unknown_key", "no node is registered with this key");
      if (!rates.node.take(`${ip} ${speaker.nodeId}`))
        throw new ProtocolError("not_allowed", "too many requests of this node; back off");
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
  refusing(refuse, () => checkSkew(payload.time, clock.now()));
  node.httpSeq = seq;
  await store.write([{ put: "http-seq", nodeId: node.nodeId, seq }]);
  node.heardAt = clock.now();
  return { node, ...use(node, payload) };
}
