import type { NodeId } from "../../protocol/keys.ts";
import type { Payload } from "../../protocol/messages.ts";
import type { Change, ReceiptRow } from "../store/port.ts";
import type { BodyVault } from "./body-vault.ts";
import { failureMessages } from "./client.ts";
import type { LiveJob } from "./live-job.ts";

/** A commit, as it is written. */
export interface CommitFacts {
  readonly attempt: number;
  readonly node: NodeId;
  readonly result: Payload<"result">;
  readonly receipt: ReceiptRow;
  /** Wall time, ms. */
  readonly now: number;
}

/** Where a committed job ends: what the engine broke off while the client read it is receipted, and is not done. */
export function committedState({ outcome }: Payload<"result">): "COMMITTED" | "INTERRUPTED" {
  return outcome === "failed" ? "INTERRUPTED" : "COMMITTED";
}

/** What is kept of a commit: in one write, so that there is no answer without its receipt and no receipt without it. */
export function commitChanges(live: LiveJob, facts: CommitFacts, vault: BodyVault): readonly Change[] {
  const { attempt, node, result, receipt, now } = facts;
  const state = committedState(result);
  const row = live.row({
    state,
    attempt,
    node,
    finishedAt: now,
    outcome: result.outcome,
    httpStatus: result.status,
    error: state === "INTERRUPTED" ? "the engine failed in the middle of its answer" : null,
  });
  const changes: Change[] = [
    { put: "job", row },
    { put: "receipt", row: receipt },
  ];
  if (live.spec.durable) {
    const job = live.spec.id;
    const bytes = vault.seal(job, "output", Buffer.concat(live.output.held));
    changes.push({ put: "body", job, purpose: "output", bytes });
  }
  return changes;
}

/** Gives the client what was held back until the commit. */
export function answerClient(live: LiveJob, result: Payload<"result">): void {
  const { client, output } = live;
  const incomplete = result.outcome === "failed";
  if (output.kind === "whole") {
    for (const part of output.held) live.relayedBytes += part.length;
    // Success is 200 in this API: other codes of it have no body.
    client.answer(incomplete ? 502 : result.status < 300 ? 200 : result.status, output.held);
  } else if (incomplete) {
    client.fail({ code: "node_lost", message: failureMessages.node_lost });
  } else {
    for (const part of output.held) live.relayedBytes += part.length;
    client.end(output.held);
  }
}
