import type { ResultityNetwork } from "../api/v1alpha1/network.ts";
import type { ResultityNodePool } from "../api/v1alpha1/pool.ts";
import type { Screen } from "./text/screen.ts";
import { table } from "./text/table.ts";
import { ago } from "./text/words.ts";

/** Configs of a pool's network, newest first, and where the pool is among them. */
export interface HistoryView {
  readonly pool: string;
  readonly network: string;
  readonly entries: readonly {
    readonly digest: string;
    readonly version: string;
    readonly since: string;
    /** The network's nodes move to it. */
    readonly current: boolean;
    /** The pool stays at it. */
    readonly pinned: boolean;
  }[];
}

export function historyView(pool: ResultityNodePool, network: ResultityNetwork | undefined): HistoryView {
  const pin = pool.spec.template.spec.config?.pin;
  const current = network?.status?.config?.digest;
  return {
    pool: pool.metadata.name,
    network: pool.spec.template.spec.networkRef.name,
    entries: (network?.status?.history ?? []).map(({ digest, version, since }) => ({
      digest,
      version,
      since,
      current: digest === current,
      pinned: digest === pin,
    })),
  };
}

export function renderHistory(
  { network, entries }: HistoryView,
  { now, screen }: { readonly now: number; readonly screen: Screen },
): string {
  if (entries.length === 0) return `network ${network} has had no config yet`;
  const rows = entries.map(({ digest, version, since, current, pinned }) => [
    version,
    ago(since, now),
    [...(current ? ["the network is at it"] : []), ...(pinned ? ["the pool stays at it"] : [])].join(", "),
    digest,
  ]);
  return table(["VERSION", "SINCE", "WHO", "DIGEST"], rows, screen);
}

/** How far a pool is. */
export interface RolloutView {
  readonly pool: string;
  readonly target: string | null;
  readonly updated: number;
  readonly total: number;
  readonly available: number;
  readonly done: boolean;
  readonly progress: { readonly reason: string; readonly message: string };
  readonly startedAt: string | null;
  readonly waitingOn: {
    readonly node: string;
    readonly reason: string;
    readonly since: string | null;
  } | null;
}

export function rolloutView(pool: ResultityNodePool): RolloutView {
  const { status, metadata, spec } = pool;
  const rollout = status?.rollout;
  const progress = status?.conditions?.find(({ type }) => type === "Progressing");
  const seen = status?.observedGeneration === metadata.generation;
  const updated = status?.updatedReplicas ?? 0;
  const available = status?.availableReplicas ?? 0;
  const all = updated === spec.replicas && available === spec.replicas && status?.replicas === spec.replicas;
  return {
    pool: metadata.name,
    target: rollout?.target ?? null,
    updated,
    total: spec.replicas,
    available,
    done: seen && all,
    progress: seen
      ? { reason: progress?.reason ?? "NotYetKnown", message: progress?.message ?? "" }
      : { reason: "NotYetKnown", message: "the operator has not seen the newest spec yet" },
    startedAt: rollout?.startedAt ?? null,
    waitingOn: rollout?.waitingOn
      ? {
          node: rollout.waitingOn.node,
          reason: rollout.waitingOn.reason,
          since: rollout.waitingOn.since ?? null,
        }
      : null,
  };
}

export function renderRollout(view: RolloutView, now: number): string {
  const { pool, target, updated, total, available, done, progress, startedAt, waitingOn } = view;
  const lines = [
    `pool ${pool}: ${updated} of ${total} nodes updated, ${available} in service${done ? "; done" : ""}`,
    `config    ${target ?? "none yet"}${startedAt === null ? "" : `, since ${ago(startedAt, now)}`}`,
    `progress  ${progress.reason}${progress.message === "" ? "" : `: ${progress.message}`}`,
  ];
  if (waitingOn !== null) {
    const since = waitingOn.since === null ? "" : ` (for ${ago(waitingOn.since, now)})`;
    lines.push(`waits for ${waitingOn.node}${since}: ${waitingOn.reason}`);
  }
  return lines.join("\n");
}
