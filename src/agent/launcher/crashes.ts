import type { LauncherState } from "./launch-dir.ts";

/**
 * Crashes after which the container is begun anew, and how often that is tried: processes that an engine left behind hold its GPU's
 * memory, and go with their container alone. With the launcher's pauses the first takes half a minute and five starts.
 */
const crashesPerContainer = 5;
const containersPerLoop = 2;

/** Counts how often an engine has ended by itself since it last served, over all containers that it has had meanwhile. */
export class EngineCrashes {
  #last: LauncherState | undefined;
  #count = 0;
  #inContainer = 0;
  #containers = 0;

  get count(): number {
    return this.#count;
  }

  /** The launcher says something. What it had counted before the first time is not counted: the engine may have served since. */
  see(state: LauncherState): void {
    const last = this.#last;
    this.#last = state;
    if (!last) return;
    const anew = state.starts !== last.starts;
    if (anew) this.#inContainer = 0;
    const more = Math.max(0, state.crashes - (anew ? 0 : last.crashes));
    this.#inContainer += more;
    // A container that ended without being told to, as when its memory runs out, takes its engine with it.
    this.#count += more + (anew && last.phase === "running" ? 1 : 0);
  }

  /** The engine serves. */
  served(): void {
    this.#count = 0;
    this.#inContainer = 0;
    this.#containers = 0;
  }

  /** Whether the container is to be begun anew. Says so once for each. */
  wantsContainer(): boolean {
    if (this.#inContainer < crashesPerContainer || this.#containers >= containersPerLoop) return false;
    this.#inContainer = 0;
    this.#containers++;
    return true;
  }
}
