import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Random } from "../../../../src/lib/backoff.ts";

/** The addresses of one host. */
export interface Addresses {
  readonly hostIP: string;
  /** An address that no other pod has. */
  podIP(): string;
}

/** Second octets in use by the hosts of this process. */
const taken = new Set<number>();

/**
 * Addresses of one virtual host in 127/8, all of which the loopback interface answers on Linux: the host's own is
 * `127.<host>.0.1`, pods get `127.<host>.x.y` in turn from a random start, so that runs side by side on one machine
 * hardly ever meet. A host keeps its octet in its folder, as a machine keeps its address over a reboot.
 */
export class HostAddresses implements Addresses {
  readonly hostIP: string;
  readonly #octet: number;
  #next: number;

  constructor(dir: string, random: Random) {
    const file = join(dir, "address");
    this.#octet = readOctet(file) ?? pickOctet(random);
    taken.add(this.#octet);
    mkdirSync(dir, { recursive: true });
    writeFileSync(file, String(this.#octet));
    this.hostIP = `127.${this.#octet}.0.1`;
    this.#next = Math.floor(random() * 250 * 250);
  }

  /** An address that this host has not given out before. */
  podIP(): string {
    const n = this.#next++ % (250 * 250);
    return `127.${this.#octet}.${1 + Math.floor(n / 250)}.${1 + (n % 250)}`;
  }

  /** Lets other hosts of this process have the octet. */
  release(): void {
    taken.delete(this.#octet);
  }
}

function readOctet(file: string): number | undefined {
  try {
    const octet = Number(readFileSync(file, "utf8"));
    return Number.isInteger(octet) && octet > 0 && octet < 255 ? octet : undefined;
  } catch {
    return undefined;
  }
}

function pickOctet(random: Random): number {
  for (;;) {
    const octet = 1 + Math.floor(random() * 254);
    if (!taken.has(octet) || taken.size >= 254) return octet;
  }
}
