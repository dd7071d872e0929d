import * as z from "zod/mini";
import { ProtocolError } from "./codes.ts";
import {
  bytes16Field,
  bytes32Field,
  countField,
  digestField,
  nodeIdField,
  textField,
  timeField,
} from "./fields.ts";
import { parsePayload } from "./frame.ts";
import { type KeyOrKeys, signJws, splitJws, verifyJws } from "./jws.ts";
import type { NodeId, SigningKey } from "./keys.ts";
import { report } from "./messages.ts";

/** `typ` of the signed status that the agent gives at `GET /status?nonce=`. */
export const statusTyp = "rn1.status";
/** `typ` of the token that authorises a drain. */
export const drainTyp = "rn1.drain";
/** Port of the agent's local endpoints on the pod's IP. */
export const agentPort = 9440;

export const statusSchema = z.object({
  /** The asker's nonce: a recorded status does not pass for a new one. */
  nonce: bytes32Field,
  time: timeField,
  node_id: nodeIdField,
  instance: bytes16Field,
  /** `revision` of the newest annotation that the agent has read and acts on; 0 = none yet. */
  desired_revision: countField,
  report,
  /** The filesystem of the agent's own root, in bytes: in a pod, where the host keeps images. Absent where it cannot be told. */
  image_disk: z.optional(z.object({ free: countField, total: countField })),
  config_error: z.nullable(
    z.object({ digest: z.nullable(digestField), code: textField, message: textField }),
  ),
  drain: z.object({
    state: z.enum(["serving", "draining", "drained"]),
    /** Jobs that still run. */
    jobs: countField,
    since: z.nullable(timeField),
  }),
  session: z.object({
    connected: z.boolean(),
    since: z.nullable(timeField),
    epoch: countField,
    /** Why the last session ended or could not begin. */
    last_error: z.nullable(textField),
  }),
});
export type AgentStatus = z.infer<typeof statusSchema>;

/** Signs a status as a compact JWS. */
export function sealStatus(status: AgentStatus, key: SigningKey): string {
  return signJws(statusTyp, JSON.stringify(status), key);
}

/**
 * Checks a status: signature by the node's key, nonce of this request.
 * @param keys the node's key; while it is rolled over, both.
 * @throws {ProtocolError} `unknown_key`, `bad_signature`, `wrong_challenge` (another nonce), `schema`.
 */
export function openStatus(text: string, keys: KeyOrKeys, nonce: string): AgentStatus {
  if (text.length > 128 * 1024) throw new ProtocolError("too_large", "status is larger than 128 KiB");
  const status = parsePayload(statusSchema, verifyJws(splitJws(text, statusTyp), keys), "status");
  if (status.nonce !== nonce) throw new ProtocolError("wrong_challenge", "status answers another request");
  return status;
}

const drainSchema = z.object({ node_id: nodeIdField });

/**
 * Makes the token with which `GET /drain` is asked, in its header `authorization: Bearer <token>`. The operator puts it into
 * the pod's `preStop`, where everyone who reads pods can read it: it authorises a drain, which is reversible, and nothing
 * else. Always the same for one key, because a pod's hook cannot change.
 */
export function sealDrainToken(nodeId: NodeId, key: SigningKey): string {
  return signJws(drainTyp, JSON.stringify({ node_id: nodeId }), key);
}

/**
 * Checks the `authorization` header of a drain.
 * @param keys all that the node has or had: a pod's hook keeps the token that it was made with.
 * @throws {ProtocolError} `malformed` when there is none, `wrong_typ`, `unknown_key`, `bad_signature`.
 */
export function openDrainToken(authorization: string | undefined, keys: KeyOrKeys): void {
  const token = /^Bearer ([\x21-\x7e]+)$/.exec(authorization ?? "")?.[1];
  if (token === undefined) throw new ProtocolError("malformed", "authorization is not `Bearer <token>`");
  parsePayload(drainSchema, verifyJws(splitJws(token, drainTyp), keys), "drain token");
}
