import { Dispatch } from "../../../src/io/dispatch/dispatch.ts";
import {
  type DispatchAction,
  dispatchDefaults,
  type DispatchEvent,
  type DispatchOptions,
  type From,
  type JobSpec,
} from "../../../src/io/dispatch/types.ts";
import type { ConfigDigest, JobId } from "../../../src/protocol/fields.ts";
import type { NodeId } from "../../../src/protocol/keys.ts";
import type { Report } from "../../../src/protocol/messages.ts";
import { FakeClock } from "../../lib/fake-clock.ts";

export const digest = `sha256:${"1".repeat(64)}` as ConfigDigest;
export const nodeId = (name: string): NodeId => name.padEnd(43, "_") as NodeId;
export const jobId = (name: string | number): JobId => `job-${String(name).padStart(8, "0")}` as JobId;

type Offer = Extract<DispatchAction, { do: "offer" }>;

/** A healthy node's report. */
export function report(
  change: Partial<Report["load"]> & { models?: string[]; config?: ConfigDigest } = {},
): Report {
  const { models = ["m"], config = digest, ...load } = change;
  return {
    agent_version: "1",
    engine: { type: "vllm", version: null, image: null, health: "healthy" },
    hardware: { cpus: 1, memory_mib: 1, gpus: [] },
    config: { applied: config, target: null, staged: null, release_sequence: 1 },
    models: { installed: models, active: models },
    load: { slots: 2, active: 0, accepting: true, ...load },
    subclouds: [],
  };
}

/** Dispatch under a clock that is moved by hand, with the actions of all events kept. */
export class Floor {
  readonly clock = new FakeClock();
  dispatch: Dispatch;
  readonly #options: DispatchOptions;
  readonly #number: () => number;
  readonly actions: DispatchAction[] = [];
  #tokens = 0;
  #epochs = new Map<NodeId, number>();

  constructor(options: Partial<DispatchOptions> = {}, number: () => number = () => 0) {
    this.#options = { ...dispatchDefaults, ...options };
    this.#number = number;
    this.dispatch = this.#start();
    this.#release();
  }

  #start(): Dispatch {
    return new Dispatch(this.#options, { number: this.#number, token: () => `token-${++this.#tokens}` });
  }

  #release(): void {
    this.let({ on: "release", allowed: [{ digest, expires: this.clock.now() + 86_400_000 }] });
  }

  /** The service is killed and starts again; what it restores is the test's to say. */
  reboot(): void {
    this.dispatch = this.#start();
    this.#release();
  }

  /** The disk has every attempt that is on its way there; gives what follows. */
  keepAttempts(): readonly DispatchAction[] {
    const from = this.actions.length;
    for (const { job, attempt } of this.of("keep-attempt")) this.let({ on: "attempt-kept", job, attempt });
    return this.actions.slice(from);
  }

  /** Lets an event happen and gives the actions that it has caused. */
  let(event: DispatchEvent): readonly DispatchAction[] {
    const actions = this.dispatch.handle(event, { mono: this.clock.monotonic(), wall: this.clock.now() });
    this.actions.push(...actions);
    return actions;
  }

  /** Moves time on, with every tick that dispatch asks for. */
  pass(ms: number): readonly DispatchAction[] {
    const from = this.actions.length;
    const end = this.clock.monotonic() + ms;
    for (;;) {
      const due = this.dispatch.nextDue;
      if (due === undefined || due > end) break;
      this.clock.advance(Math.max(0, due - this.clock.monotonic()));
      this.let({ on: "tick" });
    }
    this.clock.advance(end - this.clock.monotonic());
    return this.actions.slice(from);
  }

  /** A node connects with a fresh epoch, resumes nothing, and reports. */
  connect(name: string, load: Parameters<typeof report>[0] = {}, instance = name): From {
    const from = this.open(name, instance);
    this.let({ on: "resume", from, jobs: [], last: true, committed: new Map() });
    this.let({ on: "report", from, report: report(load) });
    return from;
  }

  /** A session that has not said yet what it still holds. */
  open(name: string, instance = name): From {
    const node = nodeId(name);
    const epoch = (this.#epochs.get(node) ?? 0) + 1;
    this.#epochs.set(node, epoch);
    const from = { node, epoch };
    this.let({ on: "open", from, account: "acme", instance });
    return from;
  }

  submit(name: string | number, change: Partial<JobSpec> = {}): JobId {
    const id = jobId(name);
    const job = { id, consumer: "someone", model: "m", stream: true, durable: false, ...change };
    this.let({ on: "submit", job });
    return id;
  }

  /** The last offer of a job. */
  offer(job: JobId): Offer {
    const found = this.offers(job).at(-1);
    if (!found) throw new Error(`${job} was never offered`);
    return found;
  }

  offers(job: JobId): readonly Offer[] {
    return this.actions.filter((action): action is Offer => action.do === "offer" && action.job === job);
  }

  of<K extends DispatchAction["do"]>(kind: K, job?: JobId): Extract<DispatchAction, { do: K }>[] {
    return this.actions.filter(
      (action): action is Extract<DispatchAction, { do: K }> =>
        action.do === kind && (job === undefined || ("job" in action && action.job === job)),
    );
  }

  chunk(offer: Offer, offset: number, bytes: number, visible = true, from: From = offer.to) {
    return this.let({ on: "chunk", from, lease: offer, offset, bytes, visible });
  }

  /** A sound result, verified at once as the desk does. */
  result(offer: Offer, from: From = offer.to): readonly DispatchAction[] {
    const actions = this.let({ on: "result", from, lease: offer });
    const verify = actions.find((action) => action.do === "verify");
    if (!verify) return actions;
    const { job, attempt } = verify;
    return [...actions, ...this.let({ on: "verified", job, attempt, verdict: { is: "sound" } })];
  }

  nack(offer: Offer, code: "E_BUSY" | "E_ENGINE" | "E_MODEL" = "E_ENGINE") {
    return this.let({ on: "nack", from: offer.to, lease: offer, code, reason: "because" });
  }
}
