import { checkAllowed, type Release } from "../../protocol/config/release.ts";
import type { Desired, ModelMirror } from "../../protocol/desired.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { type DailyWindow, inWindows } from "./windows.ts";

/** How a node without an operator decides by itself. */
export interface Standalone {
  /** What its owner wants of it, in the words in which an operator would say it; undefined = the config's first engine. */
  readonly wish: Desired | undefined;
  /** Config to stay on as long as the network allows it. */
  readonly pin: ConfigDigest | undefined;
  /** Hours in which it may move to another config; empty = always. */
  readonly windows: readonly DailyWindow[];
  /** Other places of the weights. */
  readonly mirrors: readonly ModelMirror[];
}

/** What a standalone node's config file can say of the node itself. */
export type OwnWish = Pick<
  Desired,
  | "engine"
  | "models"
  | "args"
  | "gpuProduct"
  | "gpuCount"
  | "accept"
  | "subclouds"
  | "drainTimeoutMs"
  | "evictionTimeoutMs"
>;

/** Completes a wish with what only an operator can want. */
export function desiredOf(wish: OwnWish): Desired {
  return { revision: 1, stage: null, target: null, image: null, plannedStop: null, ...wish };
}

/**
 * The config that a node without an operator runs: the pinned one, else the release's current. Outside the windows it stays
 * where it is, as long as the network allows that.
 *
 * @param now wall time, ms.
 */
export function standaloneTarget(
  { pin, windows }: Pick<Standalone, "pin" | "windows">,
  release: Release | undefined,
  applied: ConfigDigest | null,
  now: number,
): ConfigDigest | null {
  if (!release) return applied;
  if (pin !== undefined) return pin;
  if (applied === null || applied === release.current || inWindows(windows, now)) return release.current;
  try {
    checkAllowed(release, applied, now);
    return applied;
  } catch {
    // Withdrawn or expired: no jobs may be taken under it, so there is nothing to wait for.
    return release.current;
  }
}
