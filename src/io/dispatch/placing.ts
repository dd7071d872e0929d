import { choose } from "./choose.ts";
import { FairQueue } from "./fair-queue.ts";
import type { DispatchJob } from "./job.ts";
import type { DispatchNode } from "./node.ts";
import { Pool } from "./pool.ts";
import type { DispatchState } from "./state.ts";
import { cancelAttempt, schedule } from "./telling.ts";

/** Nodes looked at for one choice in a large pool. */
const sampleSize = 64;

const none: readonly string[] = [];

/** The job is QUEUED from now on. */
export function wait(state: DispatchState, job: DispatchJob): void {
  job.state = "QUEUED";
  if (job.spec.durable) state.asyncQueued++;
  else state.queued++;
}

function queuesFor(state: DispatchState, { spec }: DispatchJob): Map<string, FairQueue> {
  return spec.durable ? state.asyncQueues : state.queues;
}

/** Puts a job into its model's queue. */
export function enqueue(state: DispatchState, job: DispatchJob): void {
  const { model, consumer, id } = job.spec;
  const queues = queuesFor(state, job);
  let queue = queues.get(model);
  if (!queue) queues.set(model, (queue = new FairQueue()));
  queue.push(consumer, id, job.attempt > 0);
  job.queued = true;
}

/** Takes a job out of waiting, also where it waits for its retry. `served`: its consumer's turn is over. */
export function dequeue(state: DispatchState, job: DispatchJob, served: boolean): void {
  if (job.state === "QUEUED") {
    if (job.spec.durable) state.asyncQueued--;
    else state.queued--;
  }
  if (!job.queued) return;
  job.queued = false;
  const { model, consumer, id } = job.spec;
  const queues = queuesFor(state, job);
  const queue = queues.get(model);
  queue?.remove(consumer, id, served);
  if (queue?.size === 0) queues.delete(model);
}

/** Offers what waits for a model, in turn, as long as there is a node for it; first what somebody waits for. */
export function place(state: DispatchState, model: string): void {
  for (;;) {
    const head = state.queues.get(model)?.peek() ?? state.asyncQueues.get(model)?.peek();
    const job = head && state.jobs.get(head.job);
    if (!job) return;
    const node = nodeFor(state, job);
    if (!node) return;
    offerTo(state, job, node);
  }
}

/** Offers what waits for any model that a node serves. */
export function placeOn(state: DispatchState, node: DispatchNode): void {
  for (const model of node.listed) {
    if (state.queues.has(model) || state.asyncQueues.has(model)) place(state, model);
  }
}

function nodeFor(state: DispatchState, job: DispatchJob): DispatchNode | undefined {
  const pool = state.pools.get(job.spec.model);
  if (!pool || pool.size === 0) return undefined;
  const context = {
    at: state.at,
    freshMs: state.options.freshMs,
    allowed: state.allowed,
    fleetLatency: state.fleetLatency,
    accounts: state.accounts,
  };
  const start = state.random.number();
  return (
    choose(pool.from(start, sampleSize), job.tried, context) ??
    (pool.size > sampleSize ? choose(pool.from(start, pool.size), job.tried, context) : undefined)
  );
}

function offerTo(state: DispatchState, job: DispatchJob, node: DispatchNode): void {
  const { mono } = state.at;
  const { id } = job.spec;
  // The attempt before loses its right to commit now, and its node learns that if it can hear.
  if (job.token !== "") cancelAttempt(state, job, "offered to another node");
  if (job.attempt > 0) state.act({ do: "restart", job: id });
  dequeue(state, job, true);
  job.state = "OFFERED";
  job.attempt++;
  job.token = state.random.token();
  job.node = node.id;
  job.instance = node.instance;
  job.received = 0;
  job.offeredAt = mono;
  job.tried.add(node.id);
  leaseTo(state, job, node);
  if (!job.spec.durable) {
    sendOffer(state, job, node);
    return;
  }
  const { attempt, token, failures } = job;
  job.unsure = true;
  // However long the disk takes: the node cannot know of it yet.
  job.leaseUntil = Infinity;
  job.attemptUntil = Infinity;
  const reasons = [...job.reasons];
  state.act({ do: "keep-attempt", job: id, attempt, node: node.id, token, failures, reasons });
}

/** Tells a node of its attempt. */
export function sendOffer(state: DispatchState, job: DispatchJob, node: DispatchNode): void {
  state.act({
    do: "offer",
    to: { node: node.id, epoch: node.epoch },
    job: job.spec.id,
    attempt: job.attempt,
    token: job.token,
    deadlineMs: Math.max(
      0,
      Math.round(Math.min(job.deadline, job.attemptUntil - state.options.leaseMs) - state.at.mono),
    ),
  });
}

/** Gives a node the lease of the job's current attempt. */
export function leaseTo(state: DispatchState, job: DispatchJob, node: DispatchNode): void {
  job.leased = true;
  job.leaseUntil = state.at.mono + state.options.leaseMs;
  node.leases.add(job.spec.id);
  schedule(state, job);
  relist(state, node);
}

/** Takes the lease from the node that has it. */
export function endLease(state: DispatchState, job: DispatchJob): void {
  job.leased = false;
  const node = job.node === undefined ? undefined : state.nodes.get(job.node);
  if (!node?.leases.delete(job.spec.id)) return;
  relist(state, node);
}

/** Takes the lease from the node and uses the slot for what waits. */
export function freeSlot(state: DispatchState, job: DispatchJob): void {
  const node = job.node === undefined ? undefined : state.nodes.get(job.node);
  endLease(state, job);
  if (node) placeOn(state, node);
}

/** Puts a node into the pools of the models that it could serve now, and takes it out of the others. */
export function relist(state: DispatchState, node: DispatchNode): void {
  const wanted = node.open && node.report ? node.report.models.active : none;
  if (wanted === node.listed) return;
  for (const model of node.listed) {
    const pool = wanted.includes(model) ? undefined : state.pools.get(model);
    pool?.remove(node);
    // Names of models are what nodes say they are: an empty pool that stayed would be a way to fill the memory.
    if (pool?.size === 0) state.pools.delete(model);
  }
  for (const model of wanted) {
    let pool = state.pools.get(model);
    if (!pool) state.pools.set(model, (pool = new Pool()));
    pool.add(node);
  }
  node.listed = wanted;
}
