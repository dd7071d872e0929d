/** One session from challenge to goodbye, frame by frame, and what is refused at each point of it. */
import { createHash } from "node:crypto";
import { signDelegation } from "../../src/protocol/config/delegation.ts";
import { sealFrame } from "../../src/protocol/frame.ts";
import { signJws } from "../../src/protocol/jws.ts";
import { chainStart } from "../../src/protocol/receipt.ts";
import type { SigningKey } from "../../src/protocol/keys.ts";
import {
  type AgentKind,
  type Body,
  type Kind,
  type Payload,
  type ServiceKind,
  typOf,
} from "../../src/protocol/messages.ts";
import { agentChannel, serviceChannel } from "../../src/protocol/session/channel.ts";
import { sealReady } from "../../src/protocol/session/handshake.ts";
import {
  audience,
  bytes16,
  bytes32,
  type Case,
  day,
  digest,
  encode,
  jobId,
  keys,
  network,
  nodeId,
  now,
  otherNodeId,
  rootStatement,
  snapshot,
} from "./fixed.ts";
import { examples } from "./messages.ts";
import { linkFor, receiptFor } from "./receipts.ts";

const { node, service, stranger, otherNode } = keys;
const sid = bytes16("session");
const challengePayload = examples.challenge;
const helloPayload = examples.hello;
const { transcript: _, ...readyBody } = examples.ready;

const challenge = sealFrame("challenge", challengePayload, service);
const hello = sealFrame("hello", helloPayload, node);
const ready = sealReady({ challenge, hello }, readyBody, service);

interface Frame {
  readonly from: "service" | "agent";
  readonly kind: Kind;
  readonly payload: unknown;
  readonly text: string;
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** The frames after `ready`. */
function openFrames(): Frame[] {
  const agent = agentChannel(sid, node, service);
  const io = serviceChannel(sid, service, node);
  const frames: Frame[] = [];
  const fromAgent = <K extends AgentKind>(kind: K, body: Body<K>): void => {
    const text = agent.seal(kind, body);
    frames.push({ from: "agent", kind, payload: { sid, seq: agent.sent, ...body }, text });
  };
  const fromService = <K extends ServiceKind>(kind: K, body: Body<K>): void => {
    const text = io.seal(kind, body);
    frames.push({ from: "service", kind, payload: { sid, seq: io.sent, ...body }, text });
  };

  // The node comes back with one job half done and one whose result was never acknowledged.
  const old = { job: jobId("0000000a"), attempt: 1, token: bytes16("token a") };
  const done = { job: jobId("0000000b"), attempt: 2, token: bytes16("token b") };
  const { report } = examples.heartbeat;
  fromAgent("resume", {
    jobs: [
      { ...old, next_offset: 41, finished: false },
      { ...done, next_offset: 20, finished: true },
    ],
    last: true,
  });
  fromAgent("heartbeat", { time: now + 10, nonce: bytes32("beat 1"), report, leases: [old, done] });
  fromService("verdict", {
    jobs: [
      { job: old.job, attempt: 1, action: "keep", offset: 21 },
      { job: done.job, attempt: 2, action: "committed", offset: 0 },
    ],
    last: true,
  });
  const latest = { release_sequence: 5, digest, nonce: bytes32("beat 1") };
  fromService("heartbeat-ack", { time: now + 20, latest, lost: [] });

  const oldOutput = 'data: {"text":"é"}\n\ndata: {"text":"!"}\n\ndata: [DONE]\n\n';
  const oldBytes = Buffer.from(oldOutput);
  // Of 41 bytes that existed when the old session broke, 21 had reached the service: 20 characters, but offsets are in bytes.
  const rest = oldBytes.subarray(21).toString();
  const body = '{"model":"org/small","messages":[{"role":"user","content":"Hi"}]}';
  const finish = (ref: typeof old, input: string, output: string): Body<"result"> => {
    const { jws } = receiptFor(ref.job.slice(4), {
      attempt: ref.attempt,
      input_sha256: sha256(input),
      output_sha256: sha256(output),
    });
    return {
      ...ref,
      outcome: "completed",
      status: 200,
      output_sha256: sha256(output),
      output_bytes: Buffer.byteLength(output),
      usage: { prompt_tokens: 3, completion_tokens: 5 },
      duration_ms: 120,
      receipt: jws,
    };
  };
  const links: string[] = [];
  const acknowledge = (result: Body<"result">): Body<"ack">["results"][number] => {
    const last = links.at(-1);
    const prev = last === undefined ? chainStart : createHash("sha256").update(last).digest("base64url");
    const link = linkFor(result.receipt, links.length + 1, prev);
    links.push(link);
    return { job: result.job, attempt: result.attempt, status: "committed", receipt: link };
  };

  fromAgent("chunk", { ...old, offset: 21, data: rest });
  const oldResult = finish(old, body, oldOutput);
  fromAgent("result", oldResult);
  fromService("ack", { upto: 4, results: [acknowledge(oldResult)] });

  const fresh = { job: jobId("0000000c"), attempt: 1, token: bytes16("token c") };
  const answer = '{"choices":[{"message":{"role":"assistant","content":"Hello 😀"}}]}';
  const offer = (ref: typeof old, stream: boolean): void =>
    fromService("offer", {
      ...ref,
      model: "org/small",
      endpoint: "/v1/chat/completions",
      stream,
      durable: false,
      body,
      consumer: "client",
      deadline_ms: 600_000,
    });
  offer(fresh, false);
  fromAgent("accept", fresh);
  fromAgent("chunk", { ...fresh, offset: 0, data: answer });
  const freshResult = finish(fresh, body, answer);
  fromAgent("result", freshResult);
  fromService("ack", { upto: 7, results: [acknowledge(freshResult)] });

  const busy = { job: jobId("0000000d"), attempt: 1, token: bytes16("token d") };
  offer(busy, true);
  fromAgent("nack", { ...busy, code: "E_BUSY", reason: "draining" });
  const gone = { job: jobId("0000000e"), attempt: 1, token: bytes16("token e") };
  offer(gone, true);
  fromService("cancel", { job: gone.job, attempt: 1, reason: "the client is gone" });
  fromAgent("goodbye", { reason: "drained" });
  return frames;
}

function handshakeCases(): Case[] {
  const say = (
    name: string,
    verdict: string,
    change: Partial<Payload<"hello">>,
    by: SigningKey = node,
  ): Case => ({
    name,
    verdict,
    step: "hello",
    text: sealFrame("hello", { ...helloPayload, ...change }, by),
  });
  const ask = (
    name: string,
    verdict: string,
    change: Partial<Payload<"challenge">>,
    by: SigningKey = service,
  ): Case => ({
    name,
    verdict,
    step: "challenge",
    text: sealFrame("challenge", { ...challengePayload, ...change }, by),
  });
  const delegate = (to: SigningKey, by: SigningKey) =>
    signDelegation({ network, key: to.jwk, expires: now + day }, [by]);
  const answer = (name: string, verdict: string, text: string): Case => ({
    name,
    verdict,
    step: "ready",
    text,
  });
  const [head = "", , signature = ""] = hello.split(".");
  return [
    ask("clocks five minutes apart", "valid", { time: now - 300_000 }),
    ask("clocks further apart", "clock_skew", { time: now - 300_001 }),
    ask("another network", "wrong_network", { network: "mainnet" }),
    ask("signed by a key that is not delegated", "unknown_key", {}, stranger),
    ask("a delegation by itself", "threshold", { delegation: delegate(stranger, stranger) }, stranger),
    ask("a delegation by a config key", "threshold", { delegation: delegate(service, keys.configs[0]) }),
    { ...ask("the delegation has ended", "expired", { time: now + day }), now: now + day },
    {
      name: "a challenge of 262145 bytes",
      verdict: "too_large",
      step: "challenge",
      repeat: [["x", 262_145]],
    },
    {
      name: "a challenge without delegation",
      verdict: "schema",
      step: "challenge",
      text: signJws(
        typOf("challenge"),
        JSON.stringify({ ...challengePayload, delegation: undefined }),
        service,
      ),
    },
    { name: "a ready instead of the challenge", verdict: "wrong_typ", step: "challenge", text: ready },
    say("clocks five minutes apart", "valid", { time: now + 300_000 }),
    say("clocks further apart", "clock_skew", { time: now + 300_001 }),
    say("another audience", "wrong_audience", { audience: "wss://evil.test/v1/session" }),
    say("the audience with a slash at its end", "wrong_audience", { audience: `${audience}/` }),
    say("another network", "wrong_network", { network: "mainnet" }),
    say("another challenge: a recorded hello", "wrong_challenge", {
      challenge: bytes32("an older challenge"),
    }),
    say("protocol version 2", "version", { version: 2 }),
    say("another node's id", "wrong_node", { node_id: otherNodeId }),
    say("a key that is not registered", "unknown_key", {}, stranger),
    say("another node's key", "wrong_node", {}, otherNode),
    {
      name: "node_id in lower case",
      verdict: "schema",
      step: "hello",
      text: signJws(
        typOf("hello"),
        JSON.stringify({ ...helloPayload, node_id: `${nodeId.toLowerCase()}=` }),
        node,
      ),
    },
    {
      name: "a payload that was changed after signing",
      verdict: "bad_signature",
      step: "hello",
      text: `${head}.${encode({ ...helloPayload, instance: bytes16("another") })}.${signature}`,
    },
    {
      name: "a status shown as a hello",
      verdict: "wrong_typ",
      step: "hello",
      text: signJws("rn1.status", JSON.stringify(helloPayload), node),
    },
    { name: "4097 bytes", verdict: "too_large", step: "hello", text: helloOf(4097) },
    { name: "4096 bytes", verdict: "valid", step: "hello", text: helloOf(4096) },
    answer(
      "an answer to another hello",
      "wrong_transcript",
      sealReady({ challenge, hello: challenge }, readyBody, service),
    ),
    answer(
      "an answer to another challenge",
      "wrong_transcript",
      sealReady({ challenge: hello, hello }, readyBody, service),
    ),
    answer(
      "latest echoes another nonce",
      "wrong_transcript",
      sealReady(
        { challenge, hello },
        { ...readyBody, latest: { ...readyBody.latest, nonce: bytes32("another nonce") } },
        service,
      ),
    ),
    answer("by another key", "unknown_key", sealReady({ challenge, hello }, readyBody, stranger)),
    answer("a verdict before ready", "wrong_typ", sealFrame("verdict", examples.verdict, service)),
  ];
}

/** A hello of exactly so many bytes, by an unknown member. */
function helloOf(bytes: number): string {
  for (let pad = 2400; ; pad++) {
    const text = signJws(typOf("hello"), JSON.stringify({ ...helloPayload, pad: "x".repeat(pad) }), node);
    if (text.length === bytes) return text;
    if (text.length > bytes) {
      // Base64url jumps over some lengths; a member in the header moves the rest.
      for (let more = 0; ; more++) {
        const extra = { pad: "x".repeat(more) };
        const other = signJws(
          typOf("hello"),
          JSON.stringify({ ...helloPayload, pad: "x".repeat(pad - 20) }),
          node,
          extra,
        );
        if (other.length === bytes) return other;
        if (more > 64) throw new Error(`no hello of ${bytes} bytes`);
      }
    }
  }
}

/** What an end refuses after `received` frames of the other end have been taken. */
function openCases(frames: readonly Frame[]): Case[] {
  const of = (from: Frame["from"]) => frames.filter((frame) => frame.from === from).map(({ text }) => text);
  const [agent, io] = [of("agent"), of("service")];
  const to = (end: Frame["from"], received: number, name: string, verdict: string, text: string): Case => ({
    name,
    verdict,
    to: end,
    received,
    text,
  });
  const at = (texts: readonly string[], index: number): string => texts[index] ?? "";
  const beat = (change: object): string =>
    sealFrame("goodbye", { sid, seq: 1, reason: "drained", ...change }, node);
  return [
    to("service", 1, "the same frame again", "sequence", at(agent, 0)),
    to("service", 0, "a gap", "sequence", at(agent, 1)),
    to("service", 0, "seq 0", "schema", beat({ seq: 0 })),
    to(
      "service",
      0,
      "another session of the same keys",
      "wrong_session",
      beat({ sid: bytes16("another session") }),
    ),
    to("service", 0, "its own frame sent back", "wrong_typ", at(io, 0)),
    to("service", 0, "a second hello", "wrong_typ", hello),
    to(
      "service",
      0,
      "another node's key",
      "unknown_key",
      sealFrame("goodbye", { sid, seq: 1, reason: "drained" }, otherNode),
    ),
    to(
      "service",
      0,
      "an unknown kind",
      "wrong_typ",
      signJws("rn1.shout", JSON.stringify({ sid, seq: 1 }), node),
    ),
    to(
      "service",
      0,
      "another version of the protocol",
      "wrong_typ",
      signJws("rn2.goodbye", JSON.stringify({ sid, seq: 1, reason: "drained" }), node),
    ),
    to("service", 0, "no reason", "schema", beat({ reason: undefined })),
    to("service", 0, "not JSON", "malformed", signJws("rn1.goodbye", "{", node)),
    to("service", 0, "not a JWS", "malformed", "hello"),
    to("service", 0, "an unknown member is ignored", "valid", beat({ later: true })),
    { name: "262145 bytes", verdict: "too_large", to: "service", received: 0, repeat: [["x", 262_145]] },
    to("agent", 1, "the same frame again", "sequence", at(io, 0)),
    to("agent", 0, "a gap", "sequence", at(io, 2)),
    to("agent", 0, "its own frame sent back", "wrong_typ", at(agent, 0)),
    to(
      "agent",
      0,
      "by the node's own key",
      "unknown_key",
      sealFrame("ack", { sid, seq: 1, upto: 0, results: [] }, node),
    ),
    to(
      "agent",
      0,
      "another session",
      "wrong_session",
      sealFrame("ack", { sid: bytes16("another session"), seq: 1, upto: 0, results: [] }, service),
    ),
  ];
}

export function sessionVectors(): object {
  const handshake: Frame[] = [
    { from: "service", kind: "challenge", payload: challengePayload, text: challenge },
    { from: "agent", kind: "hello", payload: helloPayload, text: hello },
    {
      from: "service",
      kind: "ready",
      payload: {
        ...readyBody,
        transcript: createHash("sha256").update(`${challenge}\n${hello}`).digest("base64url"),
      },
      text: ready,
    },
  ];
  const frames = openFrames();
  return {
    about:
      "`frames`: one session in the order in which the frames cross the wire. `handshake`: what is refused (or not) instead of its challenge, hello or ready. `open`: what `to` an end is refused after it has taken `received` frames of the other. `repeat` as in json.json.",
    network,
    now,
    root: rootStatement,
    audience,
    node_id: nodeId,
    kid: node.kid,
    registered: [
      { node_id: nodeId, kid: node.kid },
      { node_id: otherNodeId, kid: otherNode.kid },
    ],
    model_limits: snapshot.limits,
    frames: [...handshake, ...frames],
    handshake: handshakeCases(),
    open: openCases(frames),
  };
}
