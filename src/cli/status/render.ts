import type { Screen } from "../text/screen.ts";
import { type Cell, table } from "../text/table.ts";
import { ago, counted, expiry, shortDigest, shortened, shortImage } from "../text/words.ts";
import { toneOf, type Verdict, why } from "../verdict.ts";
import type { NetworkRow, NodeRow, PoolRow, StatusView } from "./view.ts";

/** Most nodes that are shown on a screen: those that are not well, then the first of the others. */
const nodesOnScreen = 40;

/**
 * Three tables. `now` in ms; `allNamespaces`: a column says which. A screen shows at most 40 nodes, and says how many it
 * leaves out; a file or a pipe gets all of them.
 */
export function renderStatus(
  { networks, pools, nodes }: StatusView,
  { now, allNamespaces, screen }: { now: number; allNamespaces: boolean; screen: Screen },
): string {
  const some = screen.columns === undefined ? nodes : fit(nodes);
  const section = <Row extends { namespace: string }>(
    title: string,
    heading: readonly string[],
    rows: readonly Row[],
    cells: (row: Row, now: number) => readonly Cell[],
  ) => {
    if (rows.length === 0) return [];
    const where = (row: Row) => (allNamespaces ? [row.namespace] : []);
    const body = table(
      [...(allNamespaces ? ["NAMESPACE"] : []), ...heading],
      rows.map((row) => [...where(row), ...cells(row, now)]),
      screen,
    );
    return [`${screen.paint(title, "heading")}\n${body}`];
  };
  const sections = [
    ...section("Networks", networkHeading, networks, networkCells),
    ...section("Pools", poolHeading, pools, poolCells),
    ...section("Nodes", nodeHeading, some, nodeCells),
  ];
  if (some.length < nodes.length) {
    const left = nodes.length - some.length;
    const well = nodes.filter((node) => !some.includes(node)).every(isWell);
    sections.push(
      `… and ${counted(left, "more node")}${well ? ", all Ready" : ""} (kubectl resultity status | less shows all)`,
    );
  }
  return sections.join("\n\n");
}

const isWell = ({ ready }: NodeRow): boolean => ready.status === "True";

function fit(nodes: readonly NodeRow[]): readonly NodeRow[] {
  if (nodes.length <= nodesOnScreen) return nodes;
  const first = [...nodes.filter((node) => !isWell(node)), ...nodes.filter(isWell)].slice(0, nodesOnScreen);
  const chosen = new Set(first);
  return nodes.filter((node) => chosen.has(node));
}

const readyCells = (ready: Verdict, now: number): readonly Cell[] => [
  { text: ready.status, tone: ready.reason === "NoCapacity" ? "unsure" : toneOf(ready.status) },
  ago(ready.since, now),
  shortened(why(ready)),
];

const networkHeading = [
  "NAME",
  "ENVIRONMENT",
  "CONFIG",
  "VERSION",
  "RELEASE",
  "EXPIRES",
  "NODES-READY",
  "READY",
  "SINCE",
  "WHY",
];

function networkCells(row: NetworkRow, now: number): readonly Cell[] {
  const pinned = row.pinned ? " (pinned)" : "";
  return [
    row.name,
    row.environment,
    row.config === undefined ? "" : `${shortDigest(row.config)}${pinned}`,
    row.version ?? "",
    row.releaseSequence === undefined ? "" : String(row.releaseSequence),
    expiry(row.expiresAt, now),
    row.nodes ? `${row.nodes.ready}/${row.nodes.total}` : "",
    ...readyCells(row.ready, now),
  ];
}

const poolHeading = [
  "NAME",
  "NODES-READY",
  "AVAILABLE",
  "UPDATED",
  "WANTED",
  "TARGET",
  "WAITING-ON",
  "WAITING-SINCE",
  "READY",
  "SINCE",
  "WHY",
];

function poolCells(row: PoolRow, now: number): readonly Cell[] {
  const { waitingOn } = row;
  return [
    row.name,
    String(row.readyNodes),
    String(row.availableNodes),
    String(row.updatedNodes),
    `${row.wanted}${row.parked > 0 ? ` (${row.parked} parked)` : ""}`,
    row.target === undefined ? "" : `${shortDigest(row.target)}${row.paused ? " (paused)" : ""}`,
    waitingOn?.node ?? "",
    ago(waitingOn?.since, now),
    ...readyCells(row.ready, now),
  ];
}

const nodeHeading = [
  "NAME",
  "HOST",
  "ENGINE",
  "IMAGE",
  "TARGET",
  "APPLIED",
  "CONNECTED",
  "READY",
  "SINCE",
  "WHY",
];

function nodeCells(row: NodeRow, now: number): readonly Cell[] {
  return [
    row.name,
    row.host ?? "",
    row.engine,
    shortImage(row.image),
    shortDigest(row.target),
    shortDigest(row.applied),
    { text: row.connected, tone: toneOf(row.connected) },
    ...readyCells(row.ready, now),
  ];
}
