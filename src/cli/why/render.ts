import type { Screen } from "../text/screen.ts";
import { aligned, type Cell, table } from "../text/table.ts";
import { ago } from "../text/words.ts";
import { why } from "../verdict.ts";
import type { ConditionView, WhyView } from "./view.ts";

/** Whole messages, nothing cut: this is where one looks when the short form was not enough. `now` in ms. */
export function renderWhy(view: WhyView, { now, screen }: { now: number; screen: Screen }): string {
  const title = (text: string) => screen.paint(text, "heading");
  const wide: Screen = { ...screen, columns: undefined };
  const parts = [head(view, now)];
  if (view.cause) parts.push(causeLines(view.cause, now).join("\n"));
  parts.push(
    `${title("Conditions")}\n${table(
      ["TYPE", "STATUS", "SINCE", "WHY"],
      view.conditions.map((condition, at) => conditionCells(condition, view.conditions.slice(0, at), now)),
      wide,
    )}`,
  );
  const todos = new Set(
    view.conditions.flatMap(({ reason, todo }) => (todo === undefined ? [] : [`- ${reason}: ${todo}`])),
  );
  if (todos.size > 0) parts.push(`${title("What to do")}\n${[...todos].join("\n")}`);
  if (view.facts.length > 0) parts.push(`${title("Known")}\n${aligned(view.facts, wide)}`);
  const next = [
    ...view.next.map(({ what, why }) => `- ${what}: ${why}`),
    ...view.waits.map((wait) => `- ${wait}`),
  ];
  if (next.length > 0) parts.push(`${title("What comes next")}\n${next.join("\n")}`);
  if (view.events.length > 0) {
    parts.push(
      `${title("Events")}\n${table(
        ["LAST", "TYPE", "OBJECT", "REASON", "COUNT", "NOTE"],
        view.events.map(({ last, type, object, reason, count, note }) => [
          ago(last, now),
          type,
          object,
          reason,
          String(count),
          note,
        ]),
        wide,
      )}`,
    );
  }
  if (view.notes.length > 0) parts.push(view.notes.map((note) => `Note: ${note}`).join("\n"));
  return parts.join("\n\n");
}

function head({ kind, namespace, name, ready }: WhyView, now: number): string {
  const is = { True: "is Ready", False: "is not Ready", Unknown: "may or may not be Ready" }[ready.status];
  const since = ready.since === undefined ? "" : ` since ${ago(ready.since, now)} (${ready.since})`;
  return `${kind} ${namespace}/${name} ${is}${since}\n${why(ready)}`;
}

/** What it comes from, since when, and what to do about it. */
function causeLines(
  { type, status, since, reason, message, todo }: ConditionView,
  now: number,
): readonly string[] {
  const when = since === undefined ? "" : ` since ${ago(since, now)} (${since})`;
  return [
    `First cause: ${type} is ${status}${when}, ${reason}: ${message}`,
    ...(todo === undefined ? [] : [`What to do: ${todo}`]),
  ];
}

function conditionCells(
  { type, status, well, meant, since, reason, message }: ConditionView,
  before: readonly ConditionView[],
  now: number,
): readonly Cell[] {
  const tone = well ? "well" : meant || status === "Unknown" ? "unsure" : "unwell";
  const same = before.find((other) => other.reason === reason && other.message === message);
  const said = same && message.length > 40 ? `as ${same.type}` : message;
  return [
    type,
    { text: well || meant ? status : `${status} !`, tone },
    ago(since, now),
    `${reason}: ${said}`,
  ];
}
