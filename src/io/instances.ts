/** Superseded processes remembered of one node. */
const maxSuperseded = 8;

/**
 * Which processes have spoken for a node. One that another has taken the place of is gone for good, as when a pod is
 * replaced; if it comes back while the other is there, two processes hold one identity. Memory is bounded.
 */
export class Instances {
  #holder: string | undefined;
  readonly #superseded = new Set<string>();

  /** A process has opened a session: it takes the place of whoever held it before. */
  took(instance: string): void {
    if (instance === this.#holder) return;
    if (this.#holder !== undefined) this.#superseded.add(this.#holder);
    this.#superseded.delete(instance);
    this.#holder = instance;
    for (const oldest of this.#superseded) {
      if (this.#superseded.size <= maxSuperseded) break;
      this.#superseded.delete(oldest);
    }
  }

  /** True if the process had its place taken by the one that holds it now. */
  superseded(instance: string): boolean {
    return this.#superseded.has(instance);
  }
}
