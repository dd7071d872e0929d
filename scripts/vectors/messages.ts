/** One example of each kind of message, and what is refused in it. The examples of docs/protocol.md are these. */
import { CloseCode, type ProtocolErrorCode } from "../../src/protocol/codes.ts";
import type { Kind, Payload } from "../../src/protocol/messages.ts";
import {
  agentVersion,
  audience,
  bytes16,
  bytes32,
  type Case,
  delegationStatement,
  digest,
  jobId,
  network,
  nodeId,
  now,
} from "./fixed.ts";

const sid = bytes16("session");
const ref = { job: jobId("00000001"), attempt: 1, token: bytes16("token 1") };
const latest = { release_sequence: 5, digest, nonce: bytes32("heartbeat nonce") };

/** The payload of each kind, with every field that it can have. */
export const examples: { readonly [K in Kind]: Payload<K> } = {
  challenge: { challenge: bytes32("challenge"), time: now, network, delegation: delegationStatement },
  hello: {
    version: 1,
    challenge: bytes32("challenge"),
    audience,
    network,
    node_id: nodeId,
    nonce: bytes32("hello nonce"),
    time: now,
    instance: bytes16("instance"),
    agent_version: agentVersion,
    release_sequence: 5,
  },
  ready: {
    transcript: bytes32("transcript"),
    sid,
    epoch: 7,
    time: now,
    http_seq: 2,
    latest: { ...latest, nonce: bytes32("hello nonce") },
    heartbeat_ms: 10_000,
    lease_ms: 30_000,
  },
  resume: { sid, seq: 1, jobs: [{ ...ref, next_offset: 42, finished: false }], last: true },
  verdict: {
    sid,
    seq: 1,
    jobs: [{ job: ref.job, attempt: 1, action: "keep", offset: 42, receipt: "eyJ….eyJ….MEU…" }],
    last: true,
  },
  offer: {
    sid,
    seq: 2,
    ...ref,
    model: "org/small",
    endpoint: "/v1/chat/completions",
    stream: true,
    durable: false,
    body: '{"model":"org/small","messages":[{"role":"user","content":"Hi"}],"stream":true}',
    consumer: "client",
    deadline_ms: 600_000,
  },
  accept: { sid, seq: 3, ...ref },
  chunk: { sid, seq: 4, ...ref, offset: 0, data: 'data: {"choices":[{"delta":{"content":"Hé"}}]}\n\n' },
  result: {
    sid,
    seq: 5,
    ...ref,
    outcome: "completed",
    status: 200,
    output_sha256: "1".repeat(64),
    output_bytes: 51,
    usage: { prompt_tokens: 3, completion_tokens: 5 },
    duration_ms: 120,
    receipt: "eyJ….eyJ….MEU…",
  },
  nack: { sid, seq: 5, ...ref, code: "E_BUSY", reason: "all 4 slots are in use" },
  cancel: { sid, seq: 3, job: ref.job, attempt: 1, reason: "the client is gone" },
  ack: {
    sid,
    seq: 4,
    upto: 5,
    results: [{ job: ref.job, attempt: 1, status: "committed", receipt: "eyJ….eyJ….MEU…" }],
  },
  heartbeat: {
    sid,
    seq: 2,
    time: now,
    nonce: latest.nonce,
    report: {
      agent_version: agentVersion,
      engine: {
        type: "vllm",
        version: "0.11.0",
        image: `registry.test/vllm@sha256:${"a".repeat(64)}`,
        health: "healthy",
        reason: "serves org/small",
        crashes: 1,
      },
      hardware: {
        cpus: 16,
        memory_mib: 131_072,
        gpus: [{ product: "NVIDIA-L4", memory_mib: null, xid: { code: 63, since: now } }],
      },
      config: { applied: digest, target: digest, staged: null, release_sequence: 5 },
      models: {
        installed: ["org/small"],
        active: ["org/small"],
        states: [
          { model: "org/small", state: "active", bytes: 4096, total: 4096 },
          {
            model: "org/large:fp8",
            state: "downloading",
            bytes: 1024,
            total: 8192,
            reason: "for a new config",
          },
        ],
      },
      load: { slots: 4, active: 1, accepting: true, reason: "serving" },
      subclouds: ["research"],
    },
    leases: [ref],
  },
  "heartbeat-ack": { sid, seq: 2, time: now, latest, lost: [{ job: ref.job, attempt: 1 }] },
  goodbye: { sid, seq: 6, reason: "drained" },
};

/** Members that may be missing. */
const optional: ReadonlySet<string> = new Set([
  "report.engine.reason",
  "report.engine.crashes",
  "report.hardware.gpus.0.xid",
  "report.load.reason",
  "report.models.states",
  "report.models.states.1.reason",
  "results.0.receipt",
  "jobs.0.receipt",
]);

interface Place {
  readonly path: readonly (string | number)[];
  readonly value: unknown;
}

/** Every value inside an example, with the way to it. The delegation has vectors of its own. */
function* places(value: unknown, path: readonly (string | number)[] = []): Generator<Place> {
  if (path.length > 0) yield { path, value };
  if (typeof value !== "object" || value === null || path.at(-1) === "delegation") return;
  for (const [key, inner] of Object.entries(value)) {
    yield* places(inner, [...path, Array.isArray(value) ? Number(key) : key]);
  }
}

/** Fields whose example may also be null. */
const nullable =
  /(latest\.digest|engine\.(version|image)|gpus\.\d+\.(product|memory_mib|xid\.since)|config\.(applied|target|staged))$/;

function* systematic(kind: Kind): Generator<Case> {
  for (const { path, value } of places(examples[kind])) {
    const at = path.join(".");
    if (typeof path.at(-1) === "string") {
      const verdict = optional.has(at) ? "valid" : "schema";
      yield { name: `${kind} without ${at}`, verdict, kind, remove: path };
      yield {
        name: `${kind} with ${at} null`,
        verdict: nullable.test(at) ? "valid" : "schema",
        kind,
        set: path,
        to: null,
      };
    }
    // An integer as text, a text or a list as a number, an object as true.
    const other =
      typeof value === "number"
        ? String(value)
        : typeof value === "string" || Array.isArray(value)
          ? 7
          : "true";
    yield { name: `${kind} with ${at} of another type`, verdict: "schema", kind, set: path, to: other };
  }
}

const set = (
  kind: Kind,
  verdict: "valid" | "schema",
  path: readonly (string | number)[],
  to: unknown,
  what: string,
): Case => ({
  name: `${kind} with ${path.join(".")} ${what}`,
  verdict,
  kind,
  set: path,
  to,
});

const setMany = (
  kind: Kind,
  verdict: "valid" | "schema",
  path: readonly string[],
  times: number,
  item: object,
): Case => ({
  name: `${kind} with ${path.join(".")} of ${times}`,
  verdict,
  kind,
  set: path,
  item,
  times,
});

export function messageVectors(): object {
  const cases: Case[] = (Object.keys(examples) as Kind[]).flatMap((kind) => [...systematic(kind)]);
  const lease = { job: "job-00000001", attempt: 1, token: ref.token };
  const input = { sha256: "1".repeat(64), size: 200_000 };
  const fetched = (verdict: "valid" | "schema", to: unknown, what: string): Case => ({
    ...set("offer", verdict, ["input"], to, what),
    remove: ["body"],
  });
  cases.push(
    set("goodbye", "valid", ["later"], { x: 1 }, "that is not known"),
    set("hello", "valid", ["version"], 2, "2 (of form; refused as `version` by the handshake)"),
    set("hello", "schema", ["audience"], "ftp://io.test", "of another scheme"),
    set("hello", "schema", ["version"], 1.5, "1.5"),
    set("hello", "schema", ["release_sequence"], -1, "-1"),
    set("ready", "schema", ["epoch"], 0, "0"),
    set("ready", "valid", ["latest", "release_sequence"], 0, "0 while nothing is published"),
    set("ready", "schema", ["heartbeat_ms"], 2_678_400_001, "over 31 days"),
    set("ready", "schema", ["sid"], `${"A".repeat(21)}B`, "of another spelling"),
    set("resume", "valid", ["jobs"], [], "empty"),
    setMany("resume", "valid", ["jobs"], 256, { ...lease, next_offset: 0, finished: true }),
    setMany("resume", "schema", ["jobs"], 257, { ...lease, next_offset: 0, finished: true }),
    set("resume", "schema", ["seq"], 0, "0"),
    set("resume", "schema", ["seq"], 9_007_199_254_740_992, "2^53"),
    set("resume", "schema", ["seq"], 1.5, "1.5"),
    set("verdict", "schema", ["jobs", 0, "action"], "stop", "off the list"),
    set("offer", "schema", ["endpoint"], "/v1/embeddings", "off the list"),
    set("offer", "schema", ["model"], "../etc/passwd", "that climbs"),
    set("offer", "schema", ["job"], "Job-00000001", "in upper case"),
    set("offer", "schema", ["attempt"], 1001, "1001"),
    set("offer", "valid", ["body"], "", "empty"),
    set("offer", "schema", ["input"], input, "beside body"),
    fetched("valid", input, "in place of body"),
    fetched("valid", { ...input, size: 33_554_432 }, "of 32 MiB"),
    fetched("schema", { ...input, size: 33_554_433 }, "of more than 32 MiB"),
    fetched("schema", { size: 1 }, "without a hash"),
    set("chunk", "schema", ["data"], "", "empty"),
    set("chunk", "schema", ["offset"], -1, "-1"),
    set("result", "schema", ["status"], 99, "99"),
    set("result", "valid", ["status"], 599, "599"),
    set("result", "schema", ["outcome"], "ok", "off the list"),
    set("result", "schema", ["output_sha256"], `sha256:${"1".repeat(64)}`, "with a prefix"),
    set("nack", "schema", ["code"], "E_OTHER", "off the list"),
    set("nack", "valid", ["reason"], "x".repeat(512), "of 512 characters"),
    set("nack", "schema", ["reason"], "x".repeat(513), "of 513 characters"),
    set("ack", "schema", ["results", 0, "status"], "done", "off the list"),
    set("ack", "valid", ["upto"], 0, "0"),
    set("heartbeat", "schema", ["report", "engine", "health"], "fine", "off the list"),
    setMany("heartbeat", "schema", ["report", "hardware", "gpus"], 65, { product: null, memory_mib: null }),
    set("heartbeat", "schema", ["report", "hardware", "gpus", 0, "xid", "code"], 0, "0, which is none"),
    set("heartbeat", "valid", ["leases"], [], "empty"),
    set("goodbye", "schema", ["reason"], "bored", "off the list"),
  );
  return {
    about:
      "`examples`: a payload of each kind. Each case starts from that of its `kind`, and leaves out the member at path `remove`, or sets the one at path `set` to `to`, or to a list that has `item` `times` times, or does both. Judged by form alone: signature, `sid` and `seq` come before.",
    examples,
    cases,
  };
}

/** What the parts of `ProtocolErrorCode` mean for a session: the close code with which it ends. */
const closes: Readonly<Record<ProtocolErrorCode, number>> = {
  malformed: 4400,
  schema: 4400,
  too_large: 1009,
  wrong_typ: 4401,
  wrong_alg: 4401,
  unknown_key: 4401,
  bad_signature: 4401,
  wrong_audience: 4401,
  wrong_challenge: 4401,
  wrong_node: 4401,
  wrong_transcript: 4401,
  clock_skew: 4401,
  threshold: 4401,
  expired: 4401,
  rollback: 4401,
  not_allowed: 4401,
  digest_mismatch: 4401,
  no_runtime: 4401,
  binding: 4401,
  wrong_session: 4412,
  sequence: 4412,
  wrong_network: 4413,
  version: 4426,
};

export function codeVectors(): object {
  return {
    about:
      "`errors`: the close code of each error code. `reasons`: the error code that the reason of a close frame names.",
    errors: closes,
    close_codes: Object.values(CloseCode),
    reasons: [
      { reason: "unknown_key: no node is registered with this key", code: "unknown_key" },
      { reason: "clock_skew", code: "clock_skew" },
      { reason: "unknown_keys: of another word", code: null },
      { reason: "a newer session of this node has begun", code: null },
      { reason: "", code: null },
    ],
  };
}
