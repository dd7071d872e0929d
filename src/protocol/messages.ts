import * as z from "zod/mini";
import { nackCodes } from "./codes.ts";
import {
  attemptField,
  bytes16Field,
  bytes32Field,
  countField,
  digestField,
  durationField,
  jobIdField,
  modelField,
  nameField,
  nodeIdField,
  seqField,
  sha256Field,
  textField,
  timeField,
  urlField,
  versionField,
} from "./fields.ts";

/**
 * Every message of a session: its payload schema, keyed by the `typ` of its JWS. docs/protocol.md describes each
 * field. Unknown members are ignored, so a newer peer may add some.
 */

/** Protocol version that `hello` carries. */
export const protocolVersion = 1;
/** Most bytes of one frame. */
export const maxFrameBytes = 256 * 1024;
/** Most bytes of job input or of one piece of output in one frame; base64url and the envelope take the rest. */
export const maxInlineBytes = 160 * 1024;
/** Most bytes of one job's input, and of its output: what does not fit into frames crosses by HTTP (`http.ts`). */
export const maxBodyBytes = 32 * 1024 * 1024;
/** WebSocket subprotocol. */
export const subprotocol = "resultity.v1";

const jobRef = { job: jobIdField, attempt: attemptField, token: bytes16Field };
const inSession = { sid: bytes16Field, seq: seqField };

/** Signed statement carried inside a message, in the general JWS serialisation. See `config/statement.ts`. */
export const statementField = z.object({
  payload: z.string().check(z.maxLength(64 * 1024)),
  signatures: z
    .array(
      z.object({
        protected: z.string().check(z.maxLength(4096)),
        signature: z.string().check(z.maxLength(128)),
      }),
    )
    .check(z.minLength(1), z.maxLength(32)),
});

export const challenge = z.object({
  challenge: bytes32Field,
  time: timeField,
  network: nameField,
  /** Statement of the root's delegation role that names the key which signed this frame. */
  delegation: statementField,
});

export const hello = z.object({
  version: z.int(),
  challenge: bytes32Field,
  /** The URL that the agent dialled, as written in its configuration. */
  audience: urlField,
  network: nameField,
  node_id: nodeIdField,
  nonce: bytes32Field,
  time: timeField,
  /** Random, one per process: tells a reconnect from a second process with the same key. */
  instance: bytes16Field,
  agent_version: versionField,
  /** Newest release that the node knows; 0 = none. */
  release_sequence: countField,
});

/** What the service knows to be current: detects a frozen mirror without a clock. */
export const latest = z.object({
  release_sequence: countField,
  /** `current` of that release; null while nothing is published. */
  digest: z.nullable(digestField),
  /** Echo of the asker's nonce. */
  nonce: bytes32Field,
});

export const ready = z.object({
  /** SHA-256 over the challenge frame, a newline and the hello frame, as sent. */
  transcript: bytes32Field,
  sid: bytes16Field,
  epoch: z.int().check(z.minimum(1)),
  time: timeField,
  /** Last `seq` of the HTTP envelope that the service has accepted from this node. */
  http_seq: countField,
  latest,
  heartbeat_ms: durationField,
  lease_ms: durationField,
});

/** Jobs that the agent still holds after a reconnect. At least one frame is sent; the last one is marked. */
export const resume = z.object({
  ...inSession,
  jobs: z
    .array(
      z.object({
        ...jobRef,
        /** Bytes of output that exist so far; the service answers from where it wants them. */
        next_offset: countField,
        finished: z.boolean(),
      }),
    )
    .check(z.maxLength(256)),
  last: z.boolean(),
});

export const verdict = z.object({
  ...inSession,
  jobs: z
    .array(
      z.object({
        job: jobIdField,
        attempt: attemptField,
        /** `keep`: go on, sending output from `offset`. `cancel`: stop and forget. `committed`: the result is in; forget. */
        action: z.enum(["keep", "cancel", "committed"]),
        offset: countField,
        /** Countersigned receipt (compact JWS); only with `committed`, whose `ack` may have been lost. */
        receipt: z.optional(z.string().check(z.maxLength(8192))),
      }),
    )
    .check(z.maxLength(256)),
  last: z.boolean(),
});

/** Size of a body that crosses by HTTP, bytes. */
export const bodySizeField = z.int().check(z.minimum(0), z.maximum(maxBodyBytes));

export const offer = z
  .object({
    ...inSession,
    ...jobRef,
    model: modelField,
    /** Path of the engine's API that takes the input. */
    endpoint: z.enum(["/v1/chat/completions"]),
    stream: z.boolean(),
    /** The node keeps the result on its disk, synced before `result` is sent, until it is acknowledged. */
    durable: z.boolean(),
    /** The client's body as it came, UTF-8 JSON text. Either this or `input`. */
    body: z.optional(z.string().check(z.maxLength(maxInlineBytes))),
    /** A body that is too large for a frame: the node fetches it by HTTP (`job-input`). */
    input: z.optional(z.object({ sha256: sha256Field, size: bodySizeField })),
    /** Account whose client asked; goes into the receipt. */
    consumer: nameField,
    /** Time left for the whole job. */
    deadline_ms: durationField,
  })
  .check(z.refine(({ body, input }) => (body === undefined) !== (input === undefined)));

/** Sent only when the engine has been silent for 500 ms: otherwise the first job message is the accept. */
export const accept = z.object({ ...inSession, ...jobRef });

/** A piece of output. `data` is UTF-8 text that ends at an event boundary where the output is a stream of events. */
export const chunk = z.object({
  ...inSession,
  ...jobRef,
  /** Byte offset of `data` in the whole output. */
  offset: countField,
  data: z.string().check(z.minLength(1), z.maxLength(maxInlineBytes)),
});

export const usage = z.object({ prompt_tokens: countField, completion_tokens: countField });

export const result = z.object({
  ...inSession,
  ...jobRef,
  outcome: z.enum(["completed", "failed"]),
  /** HTTP status of the engine's answer. */
  status: z.int().check(z.minimum(100), z.maximum(599)),
  /** SHA-256 (hex) and size of the whole output, all pieces together. */
  output_sha256: sha256Field,
  output_bytes: countField,
  usage,
  /** Milliseconds from offer to end at the node. */
  duration_ms: durationField,
  /** Receipt signed by the node (compact JWS, `receipt.ts`). */
  receipt: z.string().check(z.maxLength(4096)),
});

/** The agent hands a job back, not begun or not finished. */
export const nack = z.object({
  ...inSession,
  ...jobRef,
  code: z.enum(nackCodes),
  reason: textField,
});

export const cancel = z.object({ ...inSession, job: jobIdField, attempt: attemptField, reason: textField });

/**
 * Cumulative acknowledgement. Every frame up to `upto` has been processed, and what it asked to keep is durable. Job
 * results are told apart because their fate differs.
 */
export const ack = z.object({
  ...inSession,
  upto: countField,
  results: z
    .array(
      z.object({
        job: jobIdField,
        attempt: attemptField,
        /** `committed`: also when it had been before. `stale`: E_LEASE_STALE, delete it. `refused`: it contradicts what was relayed. */
        status: z.enum(["committed", "stale", "refused"]),
        /** Countersigned receipt (compact JWS); only with `committed`. */
        receipt: z.optional(z.string().check(z.maxLength(8192))),
      }),
    )
    .check(z.maxLength(256)),
});

/** A model's life on a node: `active` takes jobs, `inactive` is there and verified but is not served. */
export const modelStates = ["pending", "downloading", "verifying", "inactive", "active", "failed"] as const;

export const engineHealth = ["starting", "healthy", "unhealthy", "stopped"] as const;

/**
 * What the driver last said of a GPU (an XID of NVIDIA's). It says it once and it stays, so `since` tells whether it is news: null = it
 * was so when the agent began, and says nothing of what runs now.
 */
export const xidField = z.object({
  code: z.int().check(z.minimum(1), z.maximum(65_535)),
  since: z.nullable(timeField),
});
export type Xid = z.infer<typeof xidField>;

/** What a node says of itself; the same in a heartbeat on the socket and by HTTP. */
export const report = z.object({
  agent_version: versionField,
  engine: z.object({
    type: nameField,
    version: z.nullable(versionField),
    image: z.nullable(z.string().check(z.maxLength(512))),
    health: z.enum(engineHealth),
    reason: z.optional(textField),
    /** Times that it has ended by itself since it last served; absent = none. */
    crashes: z.optional(countField),
  }),
  hardware: z.object({
    cpus: countField,
    memory_mib: countField,
    /** `product` and `memory_mib` are null where unknown, never 0. */
    gpus: z
      .array(
        z.object({
          product: z.nullable(textField),
          memory_mib: z.nullable(countField),
          /** Absent: none, or nobody tells. */
          xid: z.optional(xidField),
        }),
      )
      .check(z.maxLength(64)),
  }),
  config: z.object({
    applied: z.nullable(digestField),
    target: z.nullable(digestField),
    staged: z.nullable(digestField),
    release_sequence: countField,
  }),
  models: z.object({
    installed: z.array(modelField).check(z.maxLength(256)),
    active: z.array(modelField).check(z.maxLength(256)),
    /** How far each wanted model is, the config's that is being staged among them. Absent: the agent does not tell. */
    states: z.optional(
      z
        .array(
          z.object({
            model: modelField,
            state: z.enum(modelStates),
            /** Bytes on the node's disk, of how many; 0 of 0 where its engine alone knows. */
            bytes: countField,
            total: countField,
            reason: z.optional(textField),
          }),
        )
        .check(z.maxLength(256)),
    ),
  }),
  load: z.object({
    /** Jobs that the node runs at once, jobs that it runs now. */
    slots: countField,
    active: countField,
    /** False while draining, stopped or without a valid config. `reason` says why. */
    accepting: z.boolean(),
    reason: z.optional(textField),
  }),
  subclouds: z.array(nameField).check(z.maxLength(64)),
});

export const heartbeat = z.object({
  ...inSession,
  time: timeField,
  nonce: bytes32Field,
  report,
  /** Leases to renew. */
  leases: z.array(z.object(jobRef)).check(z.maxLength(1024)),
});

export const heartbeatAck = z.object({
  ...inSession,
  time: timeField,
  latest,
  /** Leases of the heartbeat that are no longer the node's. Their jobs are to be stopped and forgotten. */
  lost: z.array(z.object({ job: jobIdField, attempt: attemptField })).check(z.maxLength(1024)),
});

export const goodbye = z.object({
  ...inSession,
  reason: z.enum(["drained", "shutdown", "superseded", "config"]),
});

/** Payload schemas by kind. The `typ` of a kind's JWS is `rn1.` and the kind. */
export const schemas = {
  challenge,
  hello,
  ready,
  resume,
  verdict,
  offer,
  accept,
  chunk,
  result,
  nack,
  cancel,
  ack,
  heartbeat,
  "heartbeat-ack": heartbeatAck,
  goodbye,
} as const;

export type Kind = keyof typeof schemas;
/** Payload of a kind of message. */
export type Payload<K extends Kind> = z.infer<(typeof schemas)[K]>;
/** Payload without what the channel adds (`sid`, `seq`). */
export type Body<K extends Kind> = Omit<Payload<K>, "sid" | "seq">;
export type Report = z.infer<typeof report>;
export type Latest = z.infer<typeof latest>;
export type Usage = z.infer<typeof usage>;

/** Kinds that an agent sends once the session is open, and kinds that the service sends. */
export const agentKinds = ["resume", "accept", "chunk", "result", "nack", "heartbeat", "goodbye"] as const;
export const serviceKinds = ["verdict", "offer", "cancel", "ack", "heartbeat-ack"] as const;
export type AgentKind = (typeof agentKinds)[number];
export type ServiceKind = (typeof serviceKinds)[number];

export const typOf = <K extends string>(kind: K): `rn1.${K}` => `rn1.${kind}`;
