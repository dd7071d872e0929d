/** The volumes of one pod: made before its first container, written anew at each sync, removed with the pod. */
import { chmodSync, chownSync, lstatSync, mkdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../../../../src/lib/errors.ts";
import { writeAtomically } from "./atomic-writer.ts";
import type { PodVolumeStore } from "./backend.ts";
import { FieldError, type HostFacts } from "./fields.ts";
import {
  configMapPayload,
  defaultFileMode,
  downwardPayload,
  type Payload,
  type PayloadFile,
  secretPayload,
} from "./payload.ts";
import type { ConfigMap, Pod, ProjectedSource, Secret, TokenSource, Volume, VolumeMount } from "./types.ts";

/** Where volumes get what is not in the pod. Undefined is "there is none"; other failures reject. */
export interface VolumeSources {
  configMap(name: string): Promise<ConfigMap | undefined>;
  secret(name: string): Promise<Secret | undefined>;
  token(source: TokenSource): Promise<string>;
  /** Pulls the image of an image volume; rejects with the reference in the message. */
  image(reference: string): Promise<void>;
}

/** A volume that could not be written. */
export interface VolumeFailure {
  readonly volume: string;
  readonly message: string;
  /** It has been written before, so containers go on with what is there. */
  readonly mounted: boolean;
  /** What failed is the pull of an image volume. */
  readonly pull: boolean;
}

/** The volumes of one pod below one folder. */
export class PodVolumes implements PodVolumeStore {
  readonly #disk: string;
  readonly #memory: string;
  readonly #canChown: boolean;
  readonly #mounted = new Set<string>();

  /**
   * @param disk folder of what outlives a reboot of the host
   * @param memory folder of what does not (`emptyDir` with medium Memory)
   * @param canChown whether this process may give files to a pod's group; else `fsGroup` is passed over
   */
  constructor(disk: string, memory: string, canChown: boolean) {
    this.#disk = disk;
    this.#memory = memory;
    this.#canChown = canChown;
  }

  /** Brings every volume up to date and returns those that could not be. */
  async refresh(pod: Pod, facts: HostFacts, sources: VolumeSources): Promise<VolumeFailure[]> {
    const failures: VolumeFailure[] = [];
    for (const volume of pod.spec.volumes ?? []) {
      try {
        await this.#write(volume, pod, facts, sources);
        this.#mounted.add(volume.name);
      } catch (thrown) {
        failures.push({
          volume: volume.name,
          message: messageOf(thrown),
          mounted: this.#mounted.has(volume.name),
          pull: volume.image !== undefined,
        });
      }
    }
    return failures;
  }

  /** Folder or file of the host that `mount` shows. */
  hostPath(pod: Pod, mount: VolumeMount): { path: string; readOnly: boolean } {
    const volume = pod.spec.volumes?.find((entry) => entry.name === mount.name);
    if (!volume) throw new FieldError(`volumeMount ${mount.name}: the pod has no such volume`);
    const root = volume.hostPath ? volume.hostPath.path : this.#folder(volume);
    const path = mount.subPath ? join(root, mount.subPath) : root;
    if (mount.subPath && !path.startsWith(root)) {
      throw new FieldError(`subPath ${mount.subPath} leaves its volume`);
    }
    if (mount.subPath && volume.emptyDir) mkdirSync(path, { recursive: true });
    const readOnly = mount.readOnly === true || !(volume.emptyDir || volume.hostPath);
    return { path, readOnly };
  }

  /** Text of a file in one of the volumes, or undefined. */
  readText(pod: Pod, volumeName: string, path: string): string | undefined {
    const volume = pod.spec.volumes?.find((entry) => entry.name === volumeName);
    if (!volume) return undefined;
    try {
      return readFileSync(join(this.#folder(volume), path), "utf8");
    } catch {
      return undefined;
    }
  }

  /** Removes everything. Volumes of the host itself (`hostPath`) are left alone. */
  remove(): void {
    rmSync(this.#disk, { recursive: true, force: true });
    rmSync(this.#memory, { recursive: true, force: true });
  }

  #folder(volume: Volume): string {
    return join(volume.emptyDir?.medium === "Memory" ? this.#memory : this.#disk, volume.name);
  }

  async #write(volume: Volume, pod: Pod, facts: HostFacts, sources: VolumeSources): Promise<void> {
    const group = this.#canChown ? pod.spec.securityContext?.fsGroup : undefined;
    if (volume.hostPath) {
      prepareHostPath(volume.hostPath.path, volume.hostPath.type ?? "");
      return;
    }
    if (volume.image) await sources.image(volume.image.reference ?? "");
    const folder = this.#folder(volume);
    mkdirSync(folder, { recursive: true });
    if (volume.emptyDir) {
      chmodSync(folder, group === undefined ? 0o777 : 0o2777);
      if (group !== undefined) chownSync(folder, -1, group);
      return;
    }
    const payload = await payloadOf(volume, pod, facts, sources);
    if (payload) writeAtomically(folder, payload, group);
    else if (!volume.image) {
      const kind = Object.keys(volume).find((key) => key !== "name") ?? "none";
      throw new FieldError(`volume type ${kind}: the process kubelet does not serve it`);
    }
  }
}

/** Files of a volume that the API server has the content of; undefined for every other kind. */
export async function payloadOf(
  volume: Volume,
  pod: Pod,
  facts: HostFacts,
  sources: VolumeSources,
): Promise<Payload | undefined> {
  const { configMap, secret, downwardAPI, projected } = volume;
  if (configMap) {
    const { items, optional = false, defaultMode = defaultFileMode } = configMap;
    const map = found(await sources.configMap(configMap.name ?? ""), "configmap", configMap.name, optional);
    return configMapPayload(map ?? {}, items, defaultMode, optional);
  }
  if (secret) {
    const { items, optional = false, defaultMode = defaultFileMode } = secret;
    const map = found(await sources.secret(secret.secretName ?? ""), "secret", secret.secretName, optional);
    return secretPayload(map ?? {}, items, defaultMode, optional);
  }
  if (downwardAPI) {
    return downwardPayload(downwardAPI.items, downwardAPI.defaultMode ?? defaultFileMode, pod, facts);
  }
  if (projected) {
    const merged = new Map<string, PayloadFile>();
    for (const source of projected.sources ?? []) {
      const mode = projected.defaultMode ?? defaultFileMode;
      for (const [path, file] of await projectedPayload(source, mode, pod, facts, sources)) {
        merged.set(path, file);
      }
    }
    return merged;
  }
  return undefined;
}

async function projectedPayload(
  source: ProjectedSource,
  mode: number,
  pod: Pod,
  facts: HostFacts,
  sources: VolumeSources,
): Promise<Payload> {
  const { configMap, secret, downwardAPI, serviceAccountToken } = source;
  if (configMap) {
    const { name, items, optional = false } = configMap;
    const map = found(await sources.configMap(name ?? ""), "configmap", name, optional);
    return configMapPayload(map ?? {}, items, mode, optional);
  }
  if (secret) {
    const { name, items, optional = false } = secret;
    const map = found(await sources.secret(name ?? ""), "secret", name, optional);
    return secretPayload(map ?? {}, items, mode, optional);
  }
  if (downwardAPI) return downwardPayload(downwardAPI.items, mode, pod, facts);
  if (serviceAccountToken) {
    const token = await sources.token(serviceAccountToken);
    return new Map([[serviceAccountToken.path, { content: Buffer.from(token), mode }]]);
  }
  return new Map();
}

function found<T>(object: T | undefined, kind: string, name = "", optional: boolean): T | undefined {
  if (object === undefined && !optional) throw new FieldError(`${kind} "${name}" not found`);
  return object;
}

/** Types of the API reference, HostPathVolumeSource; `""` takes what is there. */
function prepareHostPath(path: string, type: string): void {
  if (type === "DirectoryOrCreate") mkdirSync(path, { recursive: true, mode: 0o755 });
  const stat = lstatSync(path, { throwIfNoEntry: false }) && statSync(path, { throwIfNoEntry: false });
  if (!stat) throw new FieldError(`hostPath ${path} does not exist on the host`);
  if (type === "Directory" && !stat.isDirectory()) throw new FieldError(`hostPath ${path} is no directory`);
  if (type === "File" && !stat.isFile()) throw new FieldError(`hostPath ${path} is no file`);
}
