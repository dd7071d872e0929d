import type { Screen } from "../text/screen.ts";
import { table } from "../text/table.ts";
import { counted, shortDigest, shortened } from "../text/words.ts";
import { askOperator } from "../verdict.ts";
import type { PlanView } from "./view.ts";

/** Said where actions are due: they are not due for long. */
export const soon = `The operator does this as soon as it looks. If it stays here, ${askOperator}.`;

export function renderPlan(view: PlanView, screen: Screen): string {
  const { next, steps, waits } = view;
  const title = (text: string) => screen.paint(text, "heading");
  const parts = [head(view)];
  if (next.length > 0) {
    const rows = next.map(({ action, object, reason }) => [action, object, shortened(reason)]);
    parts.push(`${title("Next")}\n${table(["ACTION", "OBJECT", "WHY"], rows, screen)}\n${soon}`);
  }
  if (steps.length > 0) {
    const rows = steps.map(({ node, does, reason, inService }, at) => [
      String(at + 1),
      node,
      does.join(", "),
      `${inService}/${view.size}`,
      shortened(reason),
    ]);
    const more = view.cut ? `\n… and so on: only the first ${steps.length} steps are shown` : "";
    parts.push(
      `${title("Order, if each node that moves arrives")}\n${table(["STEP", "NODE", "DOES", "IN-SERVICE", "WHY"], rows, screen)}${more}`,
      `In service at the least: ${view.lowest} of ${view.size}; the operator takes none out of service below ${view.minAvailable}.`,
    );
  }
  if (waits.length > 0)
    parts.push(`${title("Waits")}\n${waits.map((wait) => `- ${shortened(wait)}`).join("\n")}`);
  if (next.length + steps.length + waits.length === 0) {
    parts.push("Nothing to do: every node has the newest template and config.");
  }
  return parts.join("\n\n");
}

function head(view: PlanView): string {
  const { namespace, name, network, wanted, children, target, size } = view;
  const config = target === undefined ? "no config yet" : `config ${shortDigest(target)}`;
  const parked = wanted - size;
  return [
    `ResultityNodePool ${namespace}/${name}: ${counted(wanted, "node")} wanted, ${children} there, on network ${network}, ${config}`,
    `In service: ${view.inServiceNow} of ${size}${parked > 0 ? ` (${parked} parked)` : ""}; at least ${view.minAvailable} stay so (maxUnavailable ${view.maxUnavailable})${view.paused ? "; updates are paused" : ""}`,
  ].join("\n");
}
