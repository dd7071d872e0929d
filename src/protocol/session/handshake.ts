import { createHash } from "node:crypto";
import * as z from "zod/mini";
import { ProtocolError } from "../codes.ts";
import { verifyDelegation } from "../config/delegation.ts";
import type { TrustedRoot } from "../config/root.ts";
import type { Statement } from "../config/statement.ts";
import { openFrame, parsePayload, sealFrame, type Verified } from "../frame.ts";
import { decodeUtf8, splitJws } from "../jws.ts";
import { importPublicKey, type NodeId, type SigningKey, type VerifyKey } from "../keys.ts";
import { maxFrameBytes, type Payload, protocolVersion, statementField, typOf } from "../messages.ts";

/**
 * The three messages that open a session: challenge, hello, ready. Each side signs what the other chose, so neither a
 * recorded hello nor one meant for another service opens anything.
 */

/** Largest difference between the clocks of both ends, in milliseconds. */
export const maxSkewMs = 5 * 60_000;
/** Time in which the hello must arrive after the challenge, in milliseconds. */
export const helloTimeoutMs = 5_000;
/** Most bytes of a hello frame. */
export const maxHelloBytes = 4096;

/** What the agent knows when it dials. */
export interface AgentIdentity {
  readonly nodeId: NodeId;
  readonly key: SigningKey;
  readonly network: string;
  readonly instance: string;
  readonly agentVersion: string;
}

/** A challenge that the agent believes: the service holds a key that the network delegated to it. */
export interface BelievedChallenge {
  readonly frame: string;
  readonly payload: Payload<"challenge">;
  readonly serviceKey: VerifyKey;
  /** Wall time at which the delegation ends. */
  readonly delegationExpires: number;
}

/**
 * Agent: checks the challenge. In order: form, delegation by the root, signature by the delegated key, network, clock.
 *
 * @param now wall time, ms.
 * @throws {ProtocolError} `clock_skew` names by how much the clocks differ.
 */
export function verifyChallenge(
  frame: string,
  root: TrustedRoot,
  network: string,
  now: number,
): BelievedChallenge {
  const delegation = verifyDelegation(delegationInside(frame), root, now);
  const serviceKey = importPublicKey(delegation.key);
  const { payload } = openFrame(frame, ["challenge"], serviceKey);
  if (payload.network !== network)
    throw new ProtocolError("wrong_network", "the service serves another network");
  checkSkew(payload.time, now);
  return { frame, payload, serviceKey, delegationExpires: delegation.expires };
}

/** The delegation that an unverified challenge carries: it names the key that verifies the challenge itself. */
function delegationInside(frame: string): Statement {
  if (frame.length > maxFrameBytes)
    throw new ProtocolError("too_large", "challenge is larger than a frame may be");
  const jws = splitJws(frame, typOf("challenge"));
  const json = decodeUtf8(Buffer.from(jws.payload, "base64url"));
  return parsePayload(z.object({ delegation: statementField }), json, "challenge").delegation;
}

/** Agent: the hello for a believed challenge. `nonce`: 32 random bytes, base64url. */
export function sealHello(
  challenge: BelievedChallenge,
  identity: AgentIdentity,
  dial: {
    readonly audience: string;
    readonly nonce: string;
    readonly now: number;
    readonly releaseSequence: number;
  },
): string {
  const payload: Payload<"hello"> = {
    version: protocolVersion,
    challenge: challenge.payload.challenge,
    audience: dial.audience,
    network: identity.network,
    node_id: identity.nodeId,
    nonce: dial.nonce,
    time: dial.now,
    instance: identity.instance,
    agent_version: identity.agentVersion,
    release_sequence: dial.releaseSequence,
  };
  return sealFrame("hello", payload, identity.key);
}

/** What the service expects of a hello. */
export interface HelloExpectation {
  readonly challenge: string;
  /** URLs under which this service is reached, exactly as agents dial them. */
  readonly audiences: readonly string[];
  readonly network: string;
  readonly now: number;
  /** Finds the current key of a node by the hello's `kid`; undefined = unknown. */
  readonly nodeByKey: (kid: string) => { readonly nodeId: NodeId; readonly key: VerifyKey } | undefined;
}

/**
 * Service: checks a hello. In order: size, form, known key, signature, version, node, challenge, audience, network, clock.
 *
 * @throws {ProtocolError}
 */
export function verifyHello(frame: string, expected: HelloExpectation): Verified<"hello"> {
  if (frame.length > maxHelloBytes)
    throw new ProtocolError("too_large", `hello is larger than ${maxHelloBytes} bytes`);
  let nodeId: NodeId | undefined;
  const opened = openFrame(frame, ["hello"], (jws) => {
    const node = expected.nodeByKey(jws.header.kid);
    if (!node) throw new ProtocolError("unknown_key", "no node is registered with this key");
    nodeId = node.nodeId;
    return node.key;
  });
  const { payload } = opened;
  if (payload.version !== protocolVersion)
    throw new ProtocolError("version", `protocol version must be ${protocolVersion}`);
  if (payload.node_id !== nodeId) throw new ProtocolError("wrong_node", "the key belongs to another node");
  if (payload.challenge !== expected.challenge)
    throw new ProtocolError("wrong_challenge", "not an answer to this challenge");
  if (!expected.audiences.includes(payload.audience))
    throw new ProtocolError("wrong_audience", "meant for another service");
  if (payload.network !== expected.network)
    throw new ProtocolError("wrong_network", "meant for another network");
  checkSkew(payload.time, expected.now);
  return opened;
}

/** Service: the ready frame that answers `hello`. */
export function sealReady(
  frames: { readonly challenge: string; readonly hello: string },
  body: Omit<Payload<"ready">, "transcript">,
  key: SigningKey,
): string {
  return sealFrame("ready", { ...body, transcript: transcriptHash(frames.challenge, frames.hello) }, key);
}

/**
 * Agent: checks the ready frame against what both sides have said.
 * @throws {ProtocolError}
 */
export function verifyReady(
  frame: string,
  said: { readonly challenge: BelievedChallenge; readonly hello: string; readonly nonce: string },
): Verified<"ready"> {
  const opened = openFrame(frame, ["ready"], said.challenge.serviceKey);
  if (opened.payload.transcript !== transcriptHash(said.challenge.frame, said.hello)) {
    throw new ProtocolError("wrong_transcript", "ready answers another handshake");
  }
  if (opened.payload.latest.nonce !== said.nonce)
    throw new ProtocolError("wrong_transcript", "latest echoes another nonce");
  return opened;
}

function transcriptHash(challenge: string, hello: string): string {
  return createHash("sha256").update(challenge).update("\n").update(hello).digest("base64url");
}

/** @throws {ProtocolError} `clock_skew` when the two wall times (ms) differ by more than five minutes; names by how much. */
export function checkSkew(theirs: number, ours: number): void {
  const skew = theirs - ours;
  if (Math.abs(skew) <= maxSkewMs) return;
  const seconds = Math.round(Math.abs(skew) / 1000);
  throw new ProtocolError(
    "clock_skew",
    `clocks differ by ${seconds} s (peer ${skew > 0 ? "ahead" : "behind"}; at most ${maxSkewMs / 1000} s): set the clock with NTP`,
  );
}
