import type { JobId } from "../../protocol/fields.ts";
import type { NodeId } from "../../protocol/keys.ts";
import { timePassed } from "./due.ts";
import type { DispatchJob } from "./job.ts";
import {
  attemptKept,
  chunkCame,
  commitDurable,
  liveJob,
  nackCame,
  renewed,
  resultCame,
  resultVerified,
} from "./job-messages.ts";
import type { DispatchNode } from "./node.ts";
import { banChanged, releaseChanged, reported, resumed, sessionClosed, sessionOpened } from "./presence.ts";
import { type DispatchRandom, DispatchState } from "./state.ts";
import { abandoned, restored, spoiled, submitted } from "./submission.ts";
import type { DispatchAction, DispatchEvent, DispatchOptions, Instant } from "./types.ts";

/**
 * Nodes, jobs and leases as one pure state machine: an event and the moment go in, actions come out; no I/O, no clock, no
 * timer. Invariants (tested as properties): a job commits at most once and ends exactly once; attempts only grow; at most
 * one lease per job; nothing of an attempt is believed once the next has been offered.
 */
export class Dispatch {
  readonly #state: DispatchState;

  constructor(options: DispatchOptions, random: DispatchRandom) {
    this.#state = new DispatchState(options, random);
  }

  /** Monotonic ms at which a `tick` is wanted; undefined = no need. */
  get nextDue(): number | undefined {
    return this.#state.agenda.next;
  }

  /** Synchronous jobs that wait for a node, or for their retry. */
  get queued(): number {
    return this.#state.queued;
  }

  /** The same of asynchronous ones. */
  get asyncQueued(): number {
    return this.#state.asyncQueued;
  }

  /** Jobs that are not over, and commits on their way to the disk. */
  get unfinished(): number {
    return this.#state.jobs.size;
  }

  job(id: JobId): Readonly<DispatchJob> | undefined {
    return this.#state.jobs.get(id);
  }

  jobs(): Iterable<Readonly<DispatchJob>> {
    return this.#state.jobs.values();
  }

  node(id: NodeId): Readonly<DispatchNode> | undefined {
    return this.#state.nodes.get(id);
  }

  /** Whether another synchronous job of this consumer may wait. */
  hasRoom(consumer: string, model: string): boolean {
    const { maxQueued, maxQueuedPerConsumer } = this.#state.options;
    if (this.#state.queued >= maxQueued) return false;
    return (this.#state.queues.get(model)?.waiting(consumer) ?? 0) < maxQueuedPerConsumer;
  }

  /** Lets an event happen. The actions are to be carried out in their order, before the next event. */
  handle(event: DispatchEvent, at: Instant): readonly DispatchAction[] {
    this.#state.at = at;
    happen(this.#state, event);
    return this.#state.takeActions();
  }
}

function happen(state: DispatchState, event: DispatchEvent): void {
  switch (event.on) {
    case "submit":
      return submitted(state, event);
    case "restore":
      return restored(state, event);
    case "attempt-kept":
      return attemptKept(state, event.job, event.attempt);
    case "spoiled":
      return spoiled(state, event);
    case "abandon":
      return abandoned(state, event);
    case "open":
      return sessionOpened(state, event);
    case "close":
      return sessionClosed(state, event);
    case "report":
      return reported(state, event);
    case "renew":
      return renewed(state, event);
    case "resume":
      return resumed(state, event);
    case "accept":
      liveJob(state, event.from, event.lease);
      return;
    case "chunk":
      return chunkCame(state, event);
    case "result":
      return resultCame(state, event);
    case "verified":
      return resultVerified(state, event);
    case "durable":
      return commitDurable(state, event.job);
    case "nack":
      return nackCame(state, event);
    case "release":
      return releaseChanged(state, event.allowed);
    case "ban":
      return banChanged(state, event.node, event.banned);
    case "tick":
      return timePassed(state);
    default:
      event satisfies never;
  }
}
