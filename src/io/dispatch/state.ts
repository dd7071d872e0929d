import type { Random } from "../../lib/backoff.ts";
import type { ConfigDigest, JobId } from "../../protocol/fields.ts";
import type { NodeId } from "../../protocol/keys.ts";
import { Agenda } from "./agenda.ts";
import type { FairQueue } from "./fair-queue.ts";
import type { DispatchJob } from "./job.ts";
import { MassLoss } from "./mass-loss.ts";
import type { DispatchNode } from "./node.ts";
import type { Pool } from "./pool.ts";
import type { Standing } from "./standing.ts";
import type { DispatchAction, DispatchOptions, Instant } from "./types.ts";

/** What an agenda entry is about: a job to look at, or a node whose pause in offers is over. */
export type Due = { readonly job: DispatchJob } | { readonly node: DispatchNode };

/** Randomness of dispatch. */
export interface DispatchRandom {
  readonly number: Random;
  /** A new fencing token: 16 random bytes, base64url. */
  readonly token: () => string;
}

/** Everything that dispatch knows. The functions of this folder change it, one decision a file. */
export class DispatchState {
  readonly options: DispatchOptions;
  readonly random: DispatchRandom;
  /** Nodes that have had a session since the service started. */
  readonly nodes = new Map<NodeId, DispatchNode>();
  /** Jobs that are not over, and commits on their way to the disk. */
  readonly jobs = new Map<JobId, DispatchJob>();
  /** By model, none of them empty. */
  readonly queues = new Map<string, FairQueue>();
  /** The same of asynchronous jobs, which go after those that somebody waits for. */
  readonly asyncQueues = new Map<string, FairQueue>();
  /** By model. */
  readonly pools = new Map<string, Pool>();
  readonly accounts = new Map<string, Standing>();
  readonly agenda = new Agenda<Due>();
  readonly massLoss = new MassLoss();
  /** Configs that the current release allows, with their ends (wall ms). */
  allowed: ReadonlyMap<ConfigDigest, number> = new Map();
  /** Mean time of a job over the fleet, ms; 0 = unknown. */
  fleetLatency = 0;
  /** Jobs in state QUEUED: synchronous, asynchronous. */
  queued = 0;
  asyncQueued = 0;
  /** Nodes with a session. */
  connected = 0;
  /** The moment of the event that is being handled. */
  at: Instant = { mono: 0, wall: 0 };
  #actions: DispatchAction[] = [];

  constructor(options: DispatchOptions, random: DispatchRandom) {
    this.options = options;
    this.random = random;
  }

  /** Wants something done. */
  act(action: DispatchAction): void {
    this.#actions.push(action);
  }

  /** What is to be done, in order; the list begins anew. */
  takeActions(): readonly DispatchAction[] {
    const actions = this.#actions;
    this.#actions = [];
    return actions;
  }
}
