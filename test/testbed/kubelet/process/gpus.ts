import type { Container, Pod } from "./types.ts";

/** Resource name of whole GPUs. */
export const gpuResource = "nvidia.com/gpu";

/** GPUs that a container asks for. Limits and requests of an extended resource are equal. */
export function gpusWanted(container: Container): number {
  return Number(container.resources?.limits?.[gpuResource] ?? 0);
}

/** The GPUs of one host, each given to at most one container. */
export class GpuSlots {
  readonly #count: number;
  readonly #owners = new Map<number, string>();

  constructor(count: number) {
    this.#count = count;
  }

  get free(): number {
    return this.#count - this.#owners.size;
  }

  /**
   * Gives every container of `pod` that asks for GPUs its own, for as long as the pod is on the host.
   *
   * @returns indexes by container name, or how many were asked for when there are too few (then nothing is given)
   */
  allocate(pod: Pod): Map<string, number[]> | { readonly wanted: number; readonly free: number } {
    const containers = [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
    const wanted = containers.reduce((sum, container) => sum + gpusWanted(container), 0);
    if (wanted > this.free) return { wanted, free: this.free };
    const given = new Map<string, number[]>();
    for (const container of containers) {
      const indexes: number[] = [];
      for (let index = 0; index < this.#count && indexes.length < gpusWanted(container); index++) {
        if (this.#owners.has(index)) continue;
        this.#owners.set(index, pod.metadata.uid);
        indexes.push(index);
      }
      if (indexes.length > 0) given.set(container.name, indexes);
    }
    return given;
  }

  /** Takes back what the pod with this uid had. */
  release(uid: string): void {
    for (const [index, owner] of this.#owners) if (owner === uid) this.#owners.delete(index);
  }
}
