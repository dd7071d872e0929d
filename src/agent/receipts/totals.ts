import type { ClaimedReceipt } from "./line.ts";

/** What was earned with one model on one day (UTC, by the time of the countersignature). */
export interface DayTotal {
  readonly day: string;
  readonly model: string;
  readonly jobs: number;
  /** Of them, those whose engine broke off. */
  readonly failed: number;
  /** Metered tokens. */
  readonly promptTokens: number;
  readonly completionTokens: number;
}

/** Day (UTC) of a wall time in ms, `2026-01-31`. */
export const dayOf = (ms: number): string => new Date(ms).toISOString().slice(0, 10);

/** Adds receipts up per day and model, in that order. */
export function totalsOf(receipts: Iterable<ClaimedReceipt>): readonly DayTotal[] {
  const totals = new Map<string, DayTotal>();
  for (const { countersign, receipt } of receipts) {
    const day = dayOf(countersign.committed_at);
    const { model } = receipt;
    const place = `${day}\n${model}`;
    const before = totals.get(place);
    totals.set(place, {
      day,
      model,
      jobs: (before?.jobs ?? 0) + 1,
      failed: (before?.failed ?? 0) + Number(receipt.outcome === "failed"),
      promptTokens: (before?.promptTokens ?? 0) + countersign.metered.prompt_tokens,
      completionTokens: (before?.completionTokens ?? 0) + countersign.metered.completion_tokens,
    });
  }
  return [...totals.keys()].toSorted().flatMap((place) => totals.get(place) ?? []);
}
