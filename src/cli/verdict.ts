import { type Condition, findCondition } from "../api/v1alpha1/conditions.ts";
import type { Tone } from "./text/screen.ts";

/** Whether an object is well, and if not why: its condition `Ready`. */
export interface Verdict {
  readonly status: Condition["status"];
  readonly reason: string;
  readonly message: string;
  /** RFC 3339; absent while nobody has said anything. */
  readonly since?: string;
  /** The spec is newer than what the operator has looked at. */
  readonly stale: boolean;
}

interface Judged {
  readonly metadata: { readonly generation: number };
  readonly status?: {
    readonly observedGeneration?: number | undefined;
    readonly conditions?: readonly Condition[] | undefined;
  };
}

/** Where to look when an object is not looked at. */
export const askOperator = "see whether the operator runs: kubectl -n resultity-system get deployment,pods";

export function verdictOf({ metadata, status }: Judged): Verdict {
  const ready = findCondition(status?.conditions, "Ready");
  if (!ready) {
    return {
      status: "Unknown",
      reason: "NotReported",
      message: `the operator has not looked at it yet: ${askOperator}`,
      stale: false,
    };
  }
  return {
    status: ready.status,
    reason: ready.reason,
    message: ready.message,
    since: ready.lastTransitionTime,
    stale: status?.observedGeneration !== metadata.generation,
  };
}

/** Reason and message on one line; of what is well the reason alone. */
export function why({ status, reason, message, stale }: Verdict): string {
  const said = status === "True" || message === "" ? reason : `${reason}: ${message}`;
  return stale ? `${said} (the operator has not seen the newest spec yet)` : said;
}

/** How a status is shown. `well` is the one that is. */
export function toneOf(status: string, well: "True" | "False" = "True"): Tone {
  if (status === well) return "well";
  return status === "Unknown" ? "unsure" : "unwell";
}
