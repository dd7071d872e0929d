import type { Random } from "../../../../src/lib/backoff.ts";
import type { Addresses } from "../process/addresses.ts";

/**
 * Addresses of all hosts and pods of one fleet: 127.a.x.y for a random `a` and the next ones, so that fleets side by side on one
 * machine hardly ever meet. A quarter of a million addresses begin anew only after that.
 */
export class FleetAddresses {
  readonly #first: number;
  #next = 0;

  constructor(random: Random) {
    this.#first = 1 + Math.floor(random() * 250);
  }

  take(): string {
    const at = this.#next++;
    const a = 1 + ((this.#first + Math.floor(at / 62_500) - 1) % 254);
    return `127.${a}.${1 + (Math.floor(at / 250) % 250)}.${1 + (at % 250)}`;
  }

  /** Addresses of a new host. */
  host(): Addresses {
    const hostIP = this.take();
    return { hostIP, podIP: () => this.take() };
  }
}
