import { setTimeout as wait } from "node:timers/promises";
import { messageOf } from "../../src/lib/errors.ts";
import { TestbedError } from "./errors.ts";

/** How long and how often {@link until} looks. Milliseconds. */
export interface UntilOptions {
  /** Longest time to wait. Default 60,000: machines that test are slow, and only a failure takes that long. */
  readonly deadlineMs?: number;
  /** Pause between two looks. Default 50. */
  readonly intervalMs?: number;
  /** Called before each look; throws when waiting has become pointless (the process to wait for has ended). */
  readonly giveUp?: () => void;
}

/**
 * Polls `look` until it returns something other than `undefined`, `null` or `false`, and returns that. A `look`
 * that throws counts as "not yet"; its last message is part of the error.
 *
 * @param what what is waited for, as the end of "waited 60 s for …"
 * @throws TestbedError `NotReady` when the deadline passes
 */
export async function until<T>(
  what: string,
  look: () => T | Promise<T>,
  { deadlineMs = 60_000, intervalMs = 50, giveUp }: UntilOptions = {},
): Promise<Exclude<T, undefined | null | false>> {
  const deadline = performance.now() + deadlineMs;
  let last = "";
  for (;;) {
    giveUp?.();
    try {
      const seen = await look();
      if (isSomething(seen)) return seen;
      last = "";
    } catch (thrown) {
      last = `; last seen: ${messageOf(thrown)}`;
    }
    if (performance.now() >= deadline) {
      throw new TestbedError("NotReady", `waited ${Math.round(deadlineMs / 1000)} s for ${what}${last}`);
    }
    await wait(intervalMs);
  }
}

function isSomething<T>(seen: T): seen is Exclude<T, undefined | null | false> {
  return seen !== undefined && seen !== null && seen !== false;
}
