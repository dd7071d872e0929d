import type { DispatchNode } from "./node.ts";
import { penalties } from "./standing.ts";

/** Nodes that went within this time count as gone at once, ms. */
const windowMs = 10_000;
const fleetAtLeast = 10;
const shareAtLeast = 0.55;

/**
 * Tells one node's failing from a failure of the network: when at least 55 % of at least ten nodes vanish within ten
 * seconds, nobody is punished, and what they got for it just before is taken back.
 */
export class MassLoss {
  #gone: { readonly node: DispatchNode; readonly at: number; punished: boolean }[] = [];

  /**
   * Notes that a node vanished, and punishes it if it held jobs, unless most of the fleet went with it.
   *
   * @param left nodes that are still connected.
   * @param now monotonic ms.
   */
  vanished(node: DispatchNode, left: number, now: number): void {
    this.#gone = this.#gone.filter((loss) => now - loss.at <= windowMs && loss.node !== node);
    const punished = node.leases.size > 0;
    if (punished) node.standing.add(penalties.vanished, now);
    this.#gone.push({ node, at: now, punished });
    const gone = this.#gone.filter((loss) => !loss.node.connected).length;
    const before = left + gone;
    if (before < fleetAtLeast || gone < shareAtLeast * before) return;
    for (const loss of this.#gone) {
      if (loss.punished) loss.node.standing.forgive(penalties.vanished, loss.at, now);
      loss.punished = false;
    }
  }
}
