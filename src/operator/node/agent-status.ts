import { randomBytes } from "node:crypto";
import { request } from "node:http";
import type { Clock, Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Counter, Metrics } from "../../lib/metrics.ts";
import type { VerifyKey } from "../../protocol/keys.ts";
import { agentPort, type AgentStatus, openStatus } from "../../protocol/status.ts";
import { canonical } from "../hash.ts";
import type { AgentView } from "./observation.ts";
import { patienceMs } from "./plan-stop.ts";

/** Longest wait for an agent's answer, milliseconds; most bytes of it; most questions at once. */
const timeoutMs = 2_000;
const maxBytes = 128 * 1024;
const maxInFlight = 64;
/** Between two questions about the same matter, milliseconds: from a quarter of a second, growing to this. */
const askBaseMs = 250;
const askCapMs = 5_000;

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
  /** Monotonic time of its coming. */
  answeredAt: number | undefined;
  problem: string;
  /** Monotonic time since which no answer has come; undefined = the last question was answered. */
  silentSince: number | undefined;
  /** {@link silentSince} of a silence of which it was told that it lasts. */
  lateSince: number | undefined;
  asking: boolean;
  address: AgentAddress;
  /** What it is asked about, how often that has been, and the monotonic time of the last one. */
  question: string;
  asked: number;
  askedAt: number;
  /** Runs until the next question is asked. */
  timer: Timer | undefined;
  /** Asking goes on after an answer without news. */
  wanted: boolean;
}

/** Fetches `http://host:port/status?nonce=`; a test puts its own in place. */
export type FetchStatus = (ip: string, nonce: string) => Promise<string>;

/** Parts of {@link AgentStatuses}. */
export interface AgentStatusesOptions {
  readonly clock: Clock;
  readonly metrics: Metrics;
  /** Called with the node's key when an answer says something new, or answers stop, come again, or have not come for long. */
  readonly answered: (nodeKey: string) => void;
  readonly fetch?: FetchStatus;
}

/**
 * Asks agents for their signed status and remembers the newest of each. Outside the workers: a reconcile reads what is known,
 * and is queued again when there is news. A slow or dead agent holds up nobody.
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
    const { status, answeredAt, problem, silentSince } = memory;
    const now = this.#options.clock.monotonic();
    const silentMs = silentSince === undefined ? 0 : Math.max(1, now - silentSince);
    const ageMs = answeredAt === undefined ? undefined : now - answeredAt;
    return { status, ageMs, silentMs, problem };
  }

  /**
   * Asks until there is news: at once about a new matter (`question`), less and less often about the same one. Who was told the
   * news says anew whether to go on, here or by {@link rest}.
   */
  ask(address: AgentAddress, question = ""): void {
    const { nodeKey, podUid } = address;
    const now = this.#options.clock.monotonic();
    let memory = this.#known.get(nodeKey);
    if (!memory || memory.podUid !== podUid) {
      memory?.timer?.cancel();
      const silence = { silentSince: undefined, lateSince: undefined, problem: "" };
      const asks = {
        address,
        question,
        asked: 0,
        askedAt: now,
        asking: false,
        timer: undefined,
        wanted: true,
      };
      memory = { podUid, status: undefined, answeredAt: undefined, ...silence, ...asks };
      this.#known.set(nodeKey, memory);
    }
    if (memory.question !== question) {
      memory.timer?.cancel();
      Object.assign(memory, { question, asked: 0, timer: undefined });
    }
    Object.assign(memory, { wanted: true, address });
    if (!memory.asking && !memory.timer) this.#askLater(memory);
  }

  /** Nothing is left to be asked of a node's agent. */
  rest(nodeKey: string): void {
    const memory = this.#known.get(nodeKey);
    memory?.timer?.cancel();
    if (memory) Object.assign(memory, { timer: undefined, wanted: false });
  }

  /** Ends all asking; what is known stays. */
  restAll(): void {
    for (const nodeKey of this.#known.keys()) this.rest(nodeKey);
  }

  /** Forgets a node that is gone. */
  forget(nodeKey: string): void {
    this.rest(nodeKey);
    this.#known.delete(nodeKey);
  }

  #askLater(memory: Memory): void {
    const { clock } = this.#options;
    const pause = Math.min(askCapMs, askBaseMs * 1.5 ** Math.min(memory.asked - 1, 20));
    const wait = memory.asked === 0 ? 0 : memory.askedAt + pause - clock.monotonic();
    const ask = () => {
      memory.timer = undefined;
      memory.asking = true;
      memory.asked++;
      memory.askedAt = clock.monotonic();
      this.#waiting.push(memory.address);
      this.#next();
    };
    if (wait <= 0) ask();
    else memory.timer = clock.setTimer(ask, wait);
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
    const silent = memory.silentSince;
    let news: boolean;
    if (status) {
      news = silent !== undefined || !memory.status || substanceOf(memory.status) !== substanceOf(status);
      memory.status = status;
      memory.answeredAt = clock.monotonic();
      memory.silentSince = undefined;
    } else {
      memory.silentSince ??= started;
      const late = clock.monotonic() - memory.silentSince > patienceMs;
      news = silent === undefined || (late && memory.lateSince !== memory.silentSince);
      if (late) memory.lateSince = memory.silentSince;
    }
    if (news) answered(nodeKey);
    else if (memory.wanted) this.#askLater(memory);
  }
}

/** What of a status decides anything by itself: not times, load, progress and free disk, which are another each time. */
function substanceOf({ nonce: _n, time: _t, image_disk: _d, drain, report, ...rest }: AgentStatus): string {
  const { load: _l, hardware: _h, models, ...said } = report;
  const states = models.states?.map(({ model, state, reason }) => ({ model, state, reason }));
  return canonical({ ...rest, drain: drain.state, said, models: { ...models, states } });
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
