import { type BackoffOptions, fullJitter } from "../../lib/backoff.ts";
import type { Random } from "../../lib/backoff.ts";

/**
 * Where one set of weights is in its life on this node. Whether verified weights are served is the engine's to say, so
 * Active and Inactive come together outside (`states.ts`).
 */
export type Life =
  /** Not looked for yet, or another agent is at it. */
  | { readonly at: "pending"; readonly reason?: string }
  | {
      readonly at: "downloading";
      readonly bytes: number;
      readonly attempts: number;
      readonly reason?: string;
    }
  | { readonly at: "verifying"; readonly bytes: number; readonly attempts: number }
  | { readonly at: "verified" }
  /** Not to be had as things are. It is tried again. */
  | { readonly at: "failed"; readonly bytes: number; readonly attempts: number; readonly reason: string };

/**
 * Why weights could not be had.
 * - `unavailable`: no place gave all of it; often over soon.
 * - `wrong`: what all places gave is not what the network signed.
 * - `room`: the disk, or the bound on it, is too small.
 * - `disk`: the folder cannot be used, or lacks what only a person can put there.
 */
export type FailureKind = "unavailable" | "wrong" | "room" | "disk";

export type LifeEvent =
  /** Somebody else writes these weights. */
  | { readonly type: "busy" }
  /** Work has begun on files that are there in part. */
  | { readonly type: "download" | "verify"; readonly bytes: number }
  | { readonly type: "progress"; readonly bytes: number }
  /** Every file is on disk and its hash is right. */
  | { readonly type: "whole" }
  | { readonly type: "failed"; readonly kind: FailureKind; readonly reason: string; readonly bytes: number }
  /** Files that were verified are not there any more, or look different. */
  | { readonly type: "gone"; readonly reason: string };

/** What is to be done next. */
export type LifeAction = { readonly type: "look-in"; readonly ms: number } | { readonly type: "none" };

export const newLife: Life = { at: "pending" };

/** How often somebody else's work is looked at. */
export const busyPollMs = 2_000;
/** How often verified files are looked at: somebody may have removed them. */
export const verifiedPollMs = 60_000;
/** Failures of the network that are waited out before they are called one. */
const patience = 3;

const retries: Readonly<Record<FailureKind, BackoffOptions>> = {
  unavailable: { base: 1_000, cap: 60_000 },
  // Only people change these; asking a mirror for 100 GB again and again would harm others.
  wrong: { base: 30_000, cap: 600_000 },
  room: { base: 10_000, cap: 120_000 },
  disk: { base: 10_000, cap: 120_000 },
};
/** At least this much of the upper bound is waited, so that a retry is never at once. */
const leastWait = 0.25;

const none: LifeAction = { type: "none" };

/** One step of a life. Pure. */
export function stepLife(
  life: Life,
  event: LifeEvent,
  random: Random,
): { readonly life: Life; readonly action: LifeAction } {
  switch (event.type) {
    case "busy":
      return {
        life: { at: "pending", reason: "another agent fetches it into the same folder" },
        action: { type: "look-in", ms: busyPollMs },
      };
    case "download":
      return {
        life: { at: "downloading", bytes: event.bytes, attempts: attemptsOf(life) },
        action: none,
      };
    case "verify":
      return { life: { at: "verifying", bytes: event.bytes, attempts: attemptsOf(life) }, action: none };
    case "progress":
      return { life: progressed(life, event.bytes), action: none };
    case "whole":
      return { life: { at: "verified" }, action: { type: "look-in", ms: verifiedPollMs } };
    case "failed":
      return failed(life, event, random);
    case "gone":
      return { life: { at: "pending", reason: event.reason }, action: none };
  }
}

const attemptsOf = (life: Life): number => ("attempts" in life ? life.attempts : 0);

function progressed(life: Life, bytes: number): Life {
  switch (life.at) {
    case "downloading":
      // Bytes that came are a sign of life: the next failure is a first one.
      return { at: "downloading", bytes, attempts: bytes > life.bytes ? 0 : life.attempts };
    case "verifying":
      return { ...life, bytes };
    default:
      return life;
  }
}

function failed(
  life: Life,
  { kind, reason, bytes }: Extract<LifeEvent, { type: "failed" }>,
  random: Random,
): { readonly life: Life; readonly action: LifeAction } {
  const attempts = attemptsOf(life) + 1;
  const bounds = retries[kind];
  const ceiling = Math.min(bounds.cap, bounds.base * 2 ** Math.min(attempts - 1, 30));
  const ms = Math.ceil(ceiling * leastWait) + fullJitter(attempts - 1, bounds, random) * (1 - leastWait);
  const waitsOn = kind === "unavailable" && attempts < patience && life.at !== "failed";
  return {
    life: waitsOn
      ? { at: "downloading", bytes, attempts, reason }
      : { at: "failed", bytes, attempts, reason },
    action: { type: "look-in", ms: Math.floor(ms) },
  };
}
