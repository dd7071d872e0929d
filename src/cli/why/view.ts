import type { Condition } from "../../api/v1alpha1/conditions.ts";
import type { Kind } from "../../api/v1alpha1/kinds.ts";
import type { AnyEvent } from "../resources.ts";
import type { Verdict } from "../verdict.ts";

/** A condition, and what to do about it. */
export interface ConditionView {
  readonly type: string;
  readonly status: Condition["status"];
  /** Whether that is as it should be: Draining and Degraded should be False, the others True. */
  readonly well: boolean;
  /** Not well, and nothing is wrong: it is parked for want of capacity. */
  readonly meant?: true;
  readonly reason: string;
  readonly message: string;
  /** RFC 3339. */
  readonly since?: string;
  /** A command, or a thing to do, beyond what the message says. */
  readonly todo?: string;
}

/** One thing that the operator does next. */
export interface NextView {
  readonly what: string;
  readonly why: string;
}

export interface EventView {
  /** RFC 3339; empty where the reporter gave no time. */
  readonly last: string;
  readonly type: string;
  readonly object: string;
  readonly reason: string;
  readonly note: string;
  readonly count: number;
}

/** What `why` tells; with `-o json` as it is. */
export interface WhyView {
  readonly kind: Kind["kind"];
  readonly namespace: string;
  readonly name: string;
  readonly ready: Verdict;
  readonly conditions: readonly ConditionView[];
  /** The condition that the others follow from; absent where all is well. */
  readonly cause?: ConditionView;
  /** What else is known, in pairs. */
  readonly facts: readonly (readonly [label: string, value: string])[];
  readonly next: readonly NextView[];
  /** What it waits for, or that nothing is to be done. */
  readonly waits: readonly string[];
  /** What is left out of the answer, and why. */
  readonly notes: readonly string[];
  readonly events: readonly EventView[];
}

/** What `why` adds to conditions. Given the object, so that it can be a command to paste. */
export type Advice = (object: { readonly namespace: string; readonly name: string }) => string;

/**
 * Conditions in the order of `types`, those that nobody has reported among them. Types listed in `wellWhenFalse` are
 * well when False.
 */
export function conditionViews(
  list: readonly Condition[] | undefined,
  types: readonly string[],
  wellWhenFalse: readonly string[],
  advice: (condition: Condition) => string | undefined,
): readonly ConditionView[] {
  return types.map((type) => {
    const condition = list?.find((candidate) => candidate.type === type);
    if (!condition) {
      return { type, status: "Unknown", well: false, reason: "NotReported", message: "not looked at yet" };
    }
    const { status, reason, message, lastTransitionTime } = condition;
    const well = status === (wellWhenFalse.includes(type) ? "False" : "True");
    // What sums up the others repeats the advice of one of them.
    const todo = well || type === "Ready" ? undefined : advice(condition);
    return {
      type,
      status,
      well,
      reason,
      message,
      since: lastTransitionTime,
      ...(todo === undefined ? {} : { todo }),
    };
  });
}

/** Most events that are shown. */
const eventsShown = 10;

/** The newest events about objects of these kinds, oldest first. */
export function eventViews(events: readonly AnyEvent[], kinds: readonly string[]): readonly EventView[] {
  return events
    .filter(({ regarding }) => kinds.includes(regarding.kind))
    .map(
      ({ regarding, type, reason, note, series, eventTime, deprecatedLastTimestamp, deprecatedCount }) => ({
        last: series?.lastObservedTime ?? eventTime ?? deprecatedLastTimestamp ?? "",
        type,
        object: `${regarding.kind} ${regarding.name}`,
        reason,
        note,
        count: series?.count ?? deprecatedCount ?? 1,
      }),
    )
    .sort((a, b) => Date.parse(a.last || "1970-01-01") - Date.parse(b.last || "1970-01-01"))
    .slice(-eventsShown);
}
