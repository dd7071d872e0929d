import type { JobId } from "../../protocol/fields.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { Payload } from "../../protocol/messages.ts";
import type { DispatchJob } from "./job.ts";
import { liveJob, speaker } from "./job-messages.ts";
import { loseAttempt } from "./losing.ts";
import { DispatchNode } from "./node.ts";
import { place, placeOn, relist } from "./placing.ts";
import type { DispatchState } from "./state.ts";
import { cancelAttempt, schedule } from "./telling.ts";
import type { Allowed, EventOf, From } from "./types.ts";

/** A session of a node has begun. No offers before its last `resume` frame. */
export function sessionOpened(state: DispatchState, { from, account, instance }: EventOf<"open">): void {
  let node = state.nodes.get(from.node);
  if (!node) state.nodes.set(from.node, (node = new DispatchNode(from.node, account)));
  if (!node.connected) state.connected++;
  // Another process knows nothing of what the one before reported.
  if (node.instance !== instance) node.report = undefined;
  node.epoch = from.epoch;
  node.instance = instance;
  node.connected = true;
  node.resumed = false;
  node.resuming.clear();
  relist(state, node);
  state.act({ do: "node-changed", node: node.id });
}

/** A session ended. `orderly`: with a goodbye, so its jobs are given up at once. */
export function sessionClosed(state: DispatchState, { from, orderly }: EventOf<"close">): void {
  const node = speaker(state, from);
  if (!node) return;
  node.connected = false;
  node.resumed = false;
  state.connected--;
  relist(state, node);
  const held = heldBy(state, node);
  if (orderly) {
    for (const job of held) loseAttempt(state, job, "the node left", { failed: false });
  } else {
    state.massLoss.vanished(node, state.connected, state.at.mono);
    const until = state.at.mono + state.options.disconnectGraceMs;
    for (const job of held) {
      // A client that waits and has seen nothing yet need not wait for the whole lease.
      if (job.pinned || job.spec.durable || job.leaseUntil <= until) continue;
      job.leaseUntil = until;
      schedule(state, job);
    }
  }
  state.act({ do: "node-changed", node: node.id });
}

/** Jobs whose current attempt is leased to a node. */
export function heldBy(state: DispatchState, node: DispatchNode): DispatchJob[] {
  return [...node.leases].flatMap((id) => state.jobs.get(id) ?? []);
}

/** What a node still holds after a (re)connect; what it does not name is lost. */
export function resumed(state: DispatchState, { from, jobs, last, committed }: EventOf<"resume">): void {
  const node = speaker(state, from);
  if (!node) return;
  const verdicts: Payload<"verdict">["jobs"] = jobs.map((held) => {
    node.resuming.add(held.job);
    return verdictOn(state, node, from, held, committed);
  });
  state.act({ do: "verdict", to: from, jobs: verdicts, last });
  if (!last || node.resumed) return;
  node.resumed = true;
  for (const job of heldBy(state, node)) {
    if (!node.resuming.has(job.spec.id))
      loseAttempt(state, job, "the agent no longer has it", { failed: !job.unsure });
  }
  node.resuming.clear();
  relist(state, node);
  placeOn(state, node);
}

function verdictOn(
  state: DispatchState,
  node: DispatchNode,
  from: From,
  held: Payload<"resume">["jobs"][number],
  committed: ReadonlyMap<JobId, string>,
): Payload<"verdict">["jobs"][number] {
  const { job: id, attempt } = held;
  const job = state.jobs.get(id);
  const receipt = committed.get(id);
  if (receipt !== undefined) return { job: id, attempt, action: "committed", offset: 0, receipt };
  // Its commit is on the way to the disk: the node keeps the result until the ack says that it is there.
  if (job?.isCommitOf(from, attempt)) return { job: id, attempt, action: "keep", offset: job.received };
  if (!job?.admits(from, held)) return { job: id, attempt, action: "cancel", offset: 0 };
  if (job.instance !== node.instance && job.received > 0) {
    if (job.pinned) {
      loseAttempt(state, job, "the agent's process ended", { failed: true });
      return { job: id, attempt, action: "cancel", offset: 0 };
    }
    // Another process may have other output: nothing was shown, so it begins anew.
    job.received = 0;
    state.act({ do: "restart", job: id });
  }
  job.instance = node.instance;
  liveJob(state, from, held);
  return { job: id, attempt, action: "keep", offset: job.received };
}

/** A node's report of itself. */
export function reported(state: DispatchState, { from, report }: EventOf<"report">): void {
  const node = speaker(state, from);
  if (!node) return;
  const before = node.report;
  node.report = report;
  node.reportAt = state.at.mono;
  const shown =
    before?.config.applied === report.config.applied &&
    before?.models.active.join("\n") === report.models.active.join("\n");
  if (!shown) state.act({ do: "node-changed", node: node.id });
  relist(state, node);
  placeOn(state, node);
}

/** Another release is current. */
export function releaseChanged(state: DispatchState, allowed: readonly Allowed[]): void {
  state.allowed = new Map(allowed.map(({ digest, expires }) => [digest, expires]));
  for (const model of [...state.queues.keys(), ...state.asyncQueues.keys()]) place(state, model);
}

/** A node was banned, or is no longer. */
export function banChanged(state: DispatchState, id: NodeId, banned: boolean): void {
  const node = state.nodes.get(id);
  if (!node) return;
  node.banned = banned;
  relist(state, node);
  if (banned) {
    for (const job of heldBy(state, node)) {
      cancelAttempt(state, job, "the node is banned");
      loseAttempt(state, job, "the node is banned", { failed: false });
    }
  }
  state.act({ do: "node-changed", node: id });
}
