import { randomBytes } from "node:crypto";
import { request } from "node:http";
import type { Clock } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Counter, Metrics } from "../../lib/metrics.ts";
import type { VerifyKey } from "../../protocol/keys.ts";
import { agentPort, type AgentStatus, openStatus } from "../../protocol/status.ts";
import type { AgentView } from "./observation.ts";

/** Longest wait for an agent's answer, milliseconds; most bytes of it; most questions at once. */
const timeoutMs = 2_000;
const maxBytes = 128 * 1024;
const maxInFlight = 64;

/** Whom to ask: one pod of one node. */
export interface AgentAddress {
  /** `namespace/name` of the ResultityNode. */
  readonly nodeKey: string;
  readonly podUid: string;
  readonly podIp: string;
  /** Keys one of which must have signed the answer: the node's, and while that is rolled over the next one. */
  readonly keys: readonly VerifyKey[];
}

interface Memory {
  podUid: string;
  status: AgentStatus | undefined;
  problem: string;
  /** Monotonic time since which no answer has come; undefined = the last question was answered. */
  silentSince: number | undefined;
  asking: boolean;
}

/** Fetches `http://host:port/status?nonce=`; a test puts its own in place. */
export type FetchStatus = (ip: string, nonce: string) => Promise<string>;

/** Parts of {@link AgentStatuses}. */
export interface AgentStatusesOptions {
  readonly clock: Clock;
  readonly metrics: Metrics;
  /** Called with the node's key after each answer and each failure. */
  readonly answered: (nodeKey: string) => void;
  readonly fetch?: FetchStatus;
}

/**
 * Asks agents for their signed status and remembers the newest of each. Outside the workers: a reconcile reads what is
 * known, and is queued again when an answer has come. A slow or dead agent holds up nobody.
 */
export class AgentStatuses {
  readonly #options: AgentStatusesOptions;
  readonly #fetch: FetchStatus;
  readonly #asked: Counter;
  readonly #known = new Map<string, Memory>();
  readonly #waiting: AgentAddress[] = [];
  #inFlight = 0;

  constructor(options: AgentStatusesOptions) {
    this.#options = options;
    this.#fetch = options.fetch ?? fetchStatus;
    this.#asked = options.metrics.counter(
      "resultity_operator_agent_status_requests_total",
      "Questions to agents for their signed status, by result.",
      ["result"],
    );
  }

  /** What is known of the agent in this pod. */
  view(nodeKey: string, podUid: string | undefined): AgentView {
    const memory = this.#known.get(nodeKey);
    if (!memory || memory.podUid !== podUid) return { status: undefined, silentMs: 0, problem: "" };
    const { status, problem, silentSince } = memory;
    const silentMs =
      silentSince === undefined ? 0 : Math.max(1, this.#options.clock.monotonic() - silentSince);
    return { status, silentMs, problem };
  }

  /** Asks, unless that is under way. */
  ask(address: AgentAddress): void {
    const { nodeKey, podUid } = address;
    let memory = this.#known.get(nodeKey);
    if (!memory || memory.podUid !== podUid) {
      memory = { podUid, status: undefined, problem: "", silentSince: undefined, asking: false };
      this.#known.set(nodeKey, memory);
    }
    if (memory.asking) return;
    memory.asking = true;
    this.#waiting.push(address);
    this.#next();
  }

  /** Forgets a node that is gone. */
  forget(nodeKey: string): void {
    this.#known.delete(nodeKey);
  }

  #next(): void {
    while (this.#inFlight < maxInFlight) {
      const address = this.#waiting.shift();
      if (!address) return;
      this.#inFlight++;
      void this.#exchange(address).finally(() => {
        this.#inFlight--;
        this.#next();
      });
    }
  }

  async #exchange({ nodeKey, podUid, podIp, keys }: AgentAddress): Promise<void> {
    const { clock, answered } = this.#options;
    const started = clock.monotonic();
    const nonce = randomBytes(32).toString("base64url");
    let status: AgentStatus | undefined;
    let problem = "";
    try {
      status = openStatus(await this.#fetch(podIp, nonce), keys, nonce);
    } catch (thrown) {
      problem = messageOf(thrown);
    }
    this.#asked.inc({ result: status ? "answered" : "failed" });
    const memory = this.#known.get(nodeKey);
    // Forgotten, or another pod by now: what this one said is of no use.
    if (!memory || memory.podUid !== podUid) return;
    memory.asking = false;
    memory.problem = problem;
    if (status) {
      memory.status = status;
      memory.silentSince = undefined;
    } else memory.silentSince ??= started;
    answered(nodeKey);
  }
}

/** One bounded GET. */
export const fetchStatus: FetchStatus = (ip, nonce) =>
  new Promise((resolve, reject) => {
    const exchange = request(
      {
        host: ip,
        port: agentPort,
        path: `/status?nonce=${nonce}`,
        agent: false,
        signal: AbortSignal.timeout(timeoutMs),
      },
      (answer) => {
        const chunks: Buffer[] = [];
        let size = 0;
        answer.on("data", (chunk: Buffer) => {
          size += chunk.length;
          if (size > maxBytes) exchange.destroy(new Error(`status is larger than ${maxBytes} bytes`));
          else chunks.push(chunk);
        });
        answer.once("error", reject);
        answer.once("end", () => {
          if (answer.statusCode === 200) resolve(Buffer.concat(chunks).toString("utf8"));
          else reject(new Error(`HTTP ${answer.statusCode ?? 0}`));
        });
      },
    );
    exchange.once("error", reject);
    exchange.end();
  });
