import { CodedError } from "../lib/errors.ts";

/** WebSocket close codes of a session (docs/protocol.md, "Close codes"). */
export const CloseCode = {
  /** Peer is leaving in order; come back with the usual back-off. */
  Normal: 1000,
  /** A message is larger than 256 KiB. */
  TooBig: 1009,
  /** The service restarts; come back with jitter. */
  Restart: 1012,
  /** The service cannot take sessions now (store away, too many). */
  TryLater: 1013,
  /** Malformed frame: not a text frame, not a compact JWS, not the schema of its type. */
  Frame: 4400,
  /** Signature, key, typ, challenge, audience or clock is wrong. */
  Auth: 4401,
  /** The node or its account is banned. */
  Banned: 4403,
  /** Nothing heard within the heartbeat timeout, or no hello within 5 s. */
  Heartbeat: 4408,
  /** A newer session of the same node has begun. */
  Superseded: 4409,
  /** Sequence number repeated or skipped. */
  Sequence: 4412,
  /** The frame names another network. */
  Network: 4413,
  /** Protocol or agent version is not served. */
  Version: 4426,
  /** Too many attempts. */
  Rate: 4429,
} as const;
export type CloseCode = (typeof CloseCode)[keyof typeof CloseCode];

/** Codes with which an agent hands a job back, or the service refuses a message of a job. */
export const nackCodes = [
  "E_SIG",
  "E_SCHEMA",
  "E_LEASE_STALE",
  "E_MODEL",
  "E_CONFIG",
  "E_BUSY",
  "E_ENGINE",
] as const;
export type NackCode = (typeof nackCodes)[number];

/** Reason with which a process is closed (4409) whose node another process speaks for by now. */
export const identityConflictReason = "identity conflict: another process holds this node's session";

/** Why a message, a statement or a document was not believed. Closed: each code has a row in docs/protocol.md. */
export type ProtocolErrorCode =
  | "malformed"
  | "too_large"
  | "wrong_typ"
  | "wrong_alg"
  | "unknown_key"
  | "bad_signature"
  | "schema"
  | "wrong_network"
  | "wrong_audience"
  | "wrong_challenge"
  | "wrong_session"
  | "wrong_node"
  | "wrong_transcript"
  | "clock_skew"
  | "sequence"
  | "version"
  | "threshold"
  | "expired"
  | "rollback"
  | "not_allowed"
  | "digest_mismatch"
  | "no_runtime"
  | "binding";

/** Something that arrived is not to be believed. The message never repeats the input. */
export class ProtocolError extends CodedError<ProtocolErrorCode> {
  /** The close code with which a session that sees this error ends. */
  get closeCode(): CloseCode {
    return closeCodeOf[this.code];
  }
}

const closeCodeOf: Readonly<Record<ProtocolErrorCode, CloseCode>> = {
  malformed: CloseCode.Frame,
  too_large: CloseCode.TooBig,
  schema: CloseCode.Frame,
  wrong_typ: CloseCode.Auth,
  wrong_alg: CloseCode.Auth,
  unknown_key: CloseCode.Auth,
  bad_signature: CloseCode.Auth,
  wrong_audience: CloseCode.Auth,
  wrong_challenge: CloseCode.Auth,
  wrong_node: CloseCode.Auth,
  wrong_transcript: CloseCode.Auth,
  clock_skew: CloseCode.Auth,
  threshold: CloseCode.Auth,
  expired: CloseCode.Auth,
  rollback: CloseCode.Auth,
  not_allowed: CloseCode.Auth,
  digest_mismatch: CloseCode.Auth,
  no_runtime: CloseCode.Auth,
  binding: CloseCode.Auth,
  wrong_network: CloseCode.Network,
  wrong_session: CloseCode.Sequence,
  sequence: CloseCode.Sequence,
  version: CloseCode.Version,
};

/**
 * Reason text of a close frame: the error's code, a colon and its message. The peer may act on the code: an agent that
 * reads `unknown_key` registers.
 */
export function closeReason(error: ProtocolError): string {
  return cutReason(`${error.code}: ${error.message}`);
}

/** `text` cut to the 123 bytes that a close frame holds (RFC 6455 §5.5): a socket cannot be closed with more. */
export function cutReason(text: string): string {
  const bytes = Buffer.from(text);
  // A character that the cut goes through is left out whole.
  return bytes.length <= 123
    ? text
    : bytes
        .subarray(0, 123)
        .toString("utf8")
        .replace(/\uFFFD+$/, "");
}

/** The code at the head of a close frame's reason; undefined if it names none. Unsigned: good for a retry, no more. */
export function closeReasonCode(reason: string): ProtocolErrorCode | undefined {
  const code = /^([a-z_]+)(:|$)/.exec(reason)?.[1];
  return code !== undefined && isProtocolErrorCode(code) ? code : undefined;
}

function isProtocolErrorCode(code: string): code is ProtocolErrorCode {
  return Object.hasOwn(closeCodeOf, code);
}
