import type { Screen } from "../text/screen.ts";
import { table } from "../text/table.ts";
import { counted, duration, shortDigest, shortened, shortImage } from "../text/words.ts";
import { askOperator } from "../verdict.ts";
import type { PlansView } from "./command.ts";
import type { CurvePoint } from "./forecast.ts";
import type { NodePlan } from "./nodes.ts";
import type { PlanView } from "./view.ts";

/** Said where actions are due: they are not due for long. */
export const soon = `The operator does this as soon as it looks. If it stays here, ${askOperator}.`;

/** Rows of the longest tables: what comes after is like what is shown. `-o json` has all of it. */
const mostRows = 40;
/** Points of the curve that are shown, and characters of its bars. */
const mostPoints = 12;
const barWidth = 30;

export function renderPlans({ pools, nodes, notes }: PlansView, screen: Screen): string {
  const parts = pools.map((view) => renderPlan(view, screen));
  if (nodes.length > 0) {
    const title = screen.paint(pools.length > 0 ? "Nodes without a pool" : "Nodes", "heading");
    parts.push([`${title}\n${nodeTable(nodes, screen)}`, ...refusals(nodes, screen)].join("\n\n"));
  }
  if (parts.length === 0 && notes.length === 0)
    parts.push("There is no pool and no node that this is about.");
  if (notes.length > 0) parts.push(notes.map((note) => `Note: ${shortened(note)}`).join("\n"));
  return parts.join("\n\n");
}

export function renderPlan(view: PlanView, screen: Screen): string {
  const { next, steps, waits, nodes = [], prefetches } = view;
  const title = (text: string) => screen.paint(text, "heading");
  const parts = [head(view)];
  const changed = nodes.filter(({ does, refused }) => does !== "none" || refused);
  if (changed.length > 0) parts.push(`${title("What becomes of the nodes")}\n${nodeTable(changed, screen)}`);
  parts.push(...refusals(nodes, screen));
  if (prefetches.length > 0) {
    const rows = prefetches.map(({ image, hosts }) => [
      shortImage(image),
      String(hosts.length),
      listed(hosts),
    ]);
    parts.push(`${title("Fetched first")}\n${table(["IMAGE", "HOSTS", "WHICH"], rows, screen)}`);
  }
  if (next.length > 0) {
    const rows = next
      .slice(0, mostRows)
      .map(({ action, object, reason }) => [action, object, shortened(reason)]);
    const why = view.proposed ? "" : `\n${soon}`;
    parts.push(
      `${title(view.proposed ? "First" : "Next")}\n${table(["ACTION", "OBJECT", "WHY"], rows, screen)}${more(next.length)}${why}`,
    );
  }
  if (steps.length > 0) {
    const rows = steps
      .slice(0, mostRows)
      .map(({ node, does, reason, inService }, at) => [
        String(at + 1),
        node,
        does.join(", "),
        `${inService}/${view.size}`,
        shortened(reason),
      ]);
    parts.push(
      `${title("Order, if each node that moves arrives")}\n${table(["STEP", "NODE", "DOES", "IN-SERVICE", "WHY"], rows, screen)}${more(steps.length)}`,
      `${title("Capacity")}\n${curve(view, screen)}\nIn service at the least: ${view.lowest} of ${view.size}; the operator takes none out of service below ${view.minAvailable}.\n${length(view)}`,
    );
  }
  if (waits.length > 0)
    parts.push(`${title("Waits")}\n${waits.map((wait) => `- ${shortened(wait)}`).join("\n")}`);
  if (next.length + steps.length + waits.length + changed.length === 0) {
    parts.push("Nothing to do: every node has the newest template and config.");
  }
  return parts.join("\n\n");
}

const more = (count: number): string =>
  count > mostRows ? `\n… and ${count - mostRows} more: -o json has them` : "";

function head(view: PlanView): string {
  const { namespace, name, network, wanted, children, target, size } = view;
  const config = target === undefined ? "no config yet" : `config ${shortDigest(target)}`;
  const parked = wanted - size;
  return [
    `ResultityNodePool ${namespace}/${name}: ${counted(wanted, "node")} wanted, ${children} there, on network ${network}, ${config}`,
    `In service: ${view.inServiceNow} of ${size}${parked > 0 ? ` (${parked} parked)` : ""}; at least ${view.minAvailable} stay so (maxUnavailable ${view.maxUnavailable})${view.paused ? "; updates are paused" : ""}`,
  ].join("\n");
}

/** Nodes to which the same happens are one row. */
function nodeTable(nodes: readonly NodePlan[], screen: Screen): string {
  const groups = new Map<string, NodePlan[]>();
  for (const node of nodes) {
    const { does, steps, held, refused } = node;
    const key = JSON.stringify([does, steps, held, refused]);
    const group = groups.get(key);
    if (group) group.push(node);
    else groups.set(key, [node]);
  }
  const rows = [...groups.values()].map((group) => {
    const [{ does, steps, interrupts, held, refused } = noNode] = group;
    const action = refused ? "refused" : does;
    return [
      action,
      String(group.length),
      listed(group.map(({ node }) => node)),
      refused || does === "none" || (does === "unknown" && !interrupts)
        ? ""
        : interrupts
          ? "drained"
          : "go on",
      held ?? "",
      shortened(refused ? refused.reason : steps.map(({ reason }) => reason).join("; ")),
    ];
  });
  return table(["ACTION", "NODES", "WHICH", "JOBS", "HELD BY", "WHY"], rows, screen);
}

const noNode: NodePlan = { node: "", does: "none", steps: [], interrupts: false };

function refusals(nodes: readonly NodePlan[], screen: Screen): readonly string[] {
  const reasons = new Map<string, string[]>();
  for (const { node, refused } of nodes) {
    if (!refused) continue;
    const text = `${refused.reason}: ${refused.message}`;
    reasons.set(text, [...(reasons.get(text) ?? []), node]);
  }
  if (reasons.size === 0) return [];
  const lines = [...reasons].map(([text, names]) => `- ${listed(names)}: ${shortened(text)}`);
  return [`${screen.paint("Refused", "unwell")}\n${lines.join("\n")}`];
}

function curve({ curve: all, inServiceNow, size, minAvailable, pace }: PlanView, screen: Screen): string {
  const rows = [{ at: 0, inService: inServiceNow, now: true }, ...thinned(all)].map((point) => [
    "now" in point ? "now" : pace ? `+${duration(point.at * pace.restartMs)}` : `+${point.at}`,
    `${point.inService}/${size}`,
    bar(point.inService, size, minAvailable),
  ]);
  return table([pace ? "AFTER" : "RESTARTS", "IN-SERVICE", "BUDGET |"], rows, screen);
}

/** A bar of what is in service; `|` is the budget. */
function bar(inService: number, size: number, budget: number): string {
  if (size === 0) return "";
  const width = (count: number) => Math.round((Math.min(count, size) / size) * barWidth);
  const cells: string[] = Array.from({ length: barWidth + 1 }, (_, at) =>
    at < width(inService) ? "#" : " ",
  );
  cells[width(budget)] = "|";
  return cells.join("").trimEnd();
}

/** Evenly spread ones of many, the last among them. */
function thinned(points: readonly CurvePoint[]): readonly CurvePoint[] {
  if (points.length <= mostPoints) return points;
  const at = (index: number) => points[Math.round((index * (points.length - 1)) / (mostPoints - 1))];
  return Array.from({ length: mostPoints }, (_, index) => at(index)).filter((point) => point !== undefined);
}

function length({ length: restarts, pace, durationMs }: PlanView): string {
  const rounds = `${counted(restarts, "restart")} one after the other`;
  if (!pace || durationMs === undefined)
    return `It takes as long as ${rounds}; how long one takes the pool has not shown yet.`;
  return `It takes about ${duration(durationMs)}: ${rounds}, ${duration(pace.restartMs)} each (${pace.basis}).`;
}

/** Names, the first few of many. */
function listed(names: readonly string[]): string {
  const few = 4;
  const others = names.length - few;
  return others > 0 ? `${names.slice(0, few).join(", ")} and ${others} more` : names.join(", ");
}
