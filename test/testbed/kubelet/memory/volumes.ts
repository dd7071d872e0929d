/** The volumes of one pod in memory: ConfigMap, Secret, downward API and projected ones, emptyDir; hostPath is the disk's. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../../../../src/lib/errors.ts";
import type { PodVolumeStore } from "../process/backend.ts";
import { FieldError, type HostFacts } from "../process/fields.ts";
import type { Container, Pod, Volume } from "../process/types.ts";
import { payloadOf, type VolumeFailure, type VolumeSources } from "../process/volumes.ts";
import { ContainerFiles, MemoryFolder, type Mount } from "./folder.ts";

/** The volumes of one pod. They outlive a reboot of the host as on a disk; what lies in memory there does not. */
export class MemoryVolumes implements PodVolumeStore {
  readonly #folders = new Map<string, MemoryFolder>();
  readonly #mounted = new Set<string>();

  /** The host boots: nothing is mounted any more, and what was in its memory is gone. */
  reboot({ spec }: Pod): void {
    this.#mounted.clear();
    for (const { name, emptyDir } of spec.volumes ?? [])
      if (emptyDir?.medium === "Memory") this.#folders.delete(name);
  }

  async refresh(pod: Pod, facts: HostFacts, sources: VolumeSources): Promise<VolumeFailure[]> {
    const failures: VolumeFailure[] = [];
    for (const volume of pod.spec.volumes ?? []) {
      const { name, image } = volume;
      try {
        await this.#write(volume, pod, facts, sources);
        this.#mounted.add(name);
      } catch (thrown) {
        const mounted = this.#mounted.has(name);
        failures.push({ volume: name, message: messageOf(thrown), mounted, pull: image !== undefined });
      }
    }
    return failures;
  }

  async #write(volume: Volume, pod: Pod, facts: HostFacts, sources: VolumeSources): Promise<void> {
    if (volume.hostPath) {
      const { path, type } = volume.hostPath;
      if (type === "DirectoryOrCreate") mkdirSync(path, { recursive: true });
      return;
    }
    if (volume.image) return sources.image(volume.image.reference ?? "");
    if (volume.emptyDir) return;
    const payload = await payloadOf(volume, pod, facts, sources);
    if (!payload) {
      const kind = Object.keys(volume).find((key) => key !== "name") ?? "none";
      throw new FieldError(`volume type ${kind}: the memory kubelet does not serve it`);
    }
    this.#folder(volume.name).replace(new Map([...payload].map(([path, { content }]) => [path, content])));
  }

  readText(_pod: Pod, volumeName: string, path: string): string | undefined {
    return this.#folders.get(volumeName)?.read(path)?.toString("utf8");
  }

  remove(): void {
    this.#folders.clear();
  }

  /** What a container sees. @throws FieldError for a mount of a volume that the pod does not have */
  view(pod: Pod, container: Container): ContainerFiles {
    return new ContainerFiles(
      (container.volumeMounts ?? []).map((mount): Mount => {
        const volume = pod.spec.volumes?.find(({ name }) => name === mount.name);
        if (!volume) throw new FieldError(`volumeMount ${mount.name}: the pod has no such volume`);
        const readOnly = mount.readOnly === true || !(volume.emptyDir || volume.hostPath);
        const source = volume.hostPath ? volume.hostPath.path : this.#folder(volume.name);
        return { at: join("/", mount.mountPath), source, subPath: mount.subPath ?? "", readOnly };
      }),
    );
  }

  #folder(name: string): MemoryFolder {
    const folder = this.#folders.get(name) ?? new MemoryFolder();
    this.#folders.set(name, folder);
    return folder;
  }
}
