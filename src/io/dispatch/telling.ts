import type { NodeId } from "../../protocol/keys.ts";
import type { DispatchJob } from "./job.ts";
import { accountShare, Standing } from "./standing.ts";
import type { DispatchState } from "./state.ts";

/** Tells the node of the current attempt to stop, if it can hear; nothing of the attempt is believed any more. */
export function cancelAttempt(state: DispatchState, job: DispatchJob, reason: string): void {
  job.token = "";
  const node = job.node === undefined ? undefined : state.nodes.get(job.node);
  if (!node?.connected) return;
  const to = { node: node.id, epoch: node.epoch };
  state.act({ do: "cancel", to, job: job.spec.id, attempt: job.attempt, reason: reason.slice(0, 200) });
}

/** Enters a job into the agenda. A lease that is renewed leaves its entry: whoever meets it enters the new time. */
export function schedule(state: DispatchState, job: DispatchJob): void {
  const at = job.nextDue;
  if (job.entry) {
    if (job.entry.at <= at) return;
    state.agenda.remove(job.entry);
  }
  job.entry = state.agenda.add(at, { job });
}

/** Nothing of the job is due any more. */
export function unschedule(state: DispatchState, job: DispatchJob): void {
  if (job.entry) state.agenda.remove(job.entry);
  job.entry = undefined;
}

/** Notes a failing of a node, and a part of it against its account. */
export function punish(state: DispatchState, id: NodeId, weight: number): void {
  const node = state.nodes.get(id);
  if (!node) return;
  const { mono } = state.at;
  node.standing.add(weight, mono);
  let account = state.accounts.get(node.account);
  if (!account) state.accounts.set(node.account, (account = new Standing()));
  account.add(weight * accountShare, mono);
  state.act({ do: "node-changed", node: id });
}
