import { type Clock, sleep } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import { StoreError } from "../store/port.ts";

/** How often the store is asked for what it cannot give now, and how soon again, ms. */
const maxTries = 30;
const againMs = 1_000;

/**
 * Reads from a store whose disk may fail for a moment: that must not end a service whose sessions are well.
 *
 * @param ended true once nobody wants it any more.
 * @throws what `read` throws, at once if it is no {@link StoreError} `unavailable`, and after 30 s of those.
 */
export async function onceReadable<T>(
  read: () => Promise<T>,
  { clock, log }: { readonly clock: Clock; readonly log: Logger },
  ended: () => boolean,
): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await read();
    } catch (error) {
      const passing = error instanceof StoreError && error.code === "unavailable";
      if (!passing || tries === maxTries || ended()) throw error;
      if (tries === 1) log.error({ why: messageOf(error) }, "the store cannot be read; tried again for 30 s");
      await sleep(clock, againMs);
    }
  }
}
