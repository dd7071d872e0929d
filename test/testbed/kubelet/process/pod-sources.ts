import type { Clock } from "../../../../src/lib/clock.ts";
import { type Api, isStatus } from "./api.ts";
import type { PodVolumeStore } from "./backend.ts";
import type { EnvSources } from "./env.ts";
import type { ImageStore } from "./images.ts";
import type { ConfigMap, Pod, Secret, TokenSource } from "./types.ts";
import type { VolumeSources } from "./volumes.ts";

interface TokenRequest {
  readonly status: { readonly token: string; readonly expirationTimestamp: string };
}

/** Reads what a pod refers to from the API server, with the kubelet's own rights. */
export class PodSources {
  readonly #api: Api;
  readonly #images: ImageStore;
  readonly #clock: Clock;
  readonly #tokens = new Map<string, { readonly token: string; readonly renewAt: number }>();

  constructor(api: Api, images: ImageStore, clock: Clock) {
    this.#api = api;
    this.#images = images;
    this.#clock = clock;
  }

  /** Sources of the pod's volumes. Every object is read at most once for the returned value. */
  forVolumes(pod: Pod, signal: AbortSignal): VolumeSources {
    const { configMap, secret } = this.#objects(pod, signal);
    return {
      configMap,
      secret,
      token: (source) => this.#token(pod, source, signal),
      image: async (reference) => {
        const policy = pod.spec.volumes?.find((volume) => volume.image?.reference === reference)?.image
          ?.pullPolicy;
        const always = policy === "Always" && !this.#images.has(reference);
        await this.#images.ensure(
          reference,
          always ? "Always" : policy === "Never" ? "Never" : "IfNotPresent",
          signal,
        );
      },
    };
  }

  /** Sources of a container's environment. */
  forEnv(pod: Pod, volumes: PodVolumeStore, signal: AbortSignal): EnvSources {
    return {
      ...this.#objects(pod, signal),
      file: (volume, path) => Promise.resolve(volumes.readText(pod, volume, path)),
    };
  }

  #objects(pod: Pod, signal: AbortSignal) {
    const read = <T>(kind: string) => {
      const seen = new Map<string, Promise<T | undefined>>();
      return (name: string): Promise<T | undefined> => {
        const path = `/api/v1/namespaces/${pod.metadata.namespace}/${kind}/${encodeURIComponent(name)}`;
        const asked =
          seen.get(name) ??
          this.#api.get<T>(path, { signal }).catch((thrown: unknown) => {
            if (isStatus(thrown, 404)) return undefined;
            throw thrown;
          });
        seen.set(name, asked);
        return asked;
      };
    };
    return { configMap: read<ConfigMap>("configmaps"), secret: read<Secret>("secrets") };
  }

  /** A token bound to the pod, asked for again when four fifths of its life are over (KEP-1205). */
  async #token(pod: Pod, source: TokenSource, signal: AbortSignal): Promise<string> {
    const key = `${source.path}\0${source.audience ?? ""}`;
    const known = this.#tokens.get(key);
    const now = this.#clock.now();
    if (known && now < known.renewAt) return known.token;
    const { name, namespace, uid } = pod.metadata;
    const account = pod.spec.serviceAccountName ?? "default";
    const { status } = await this.#api.create<TokenRequest>(
      `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`,
      {
        apiVersion: "authentication.k8s.io/v1",
        kind: "TokenRequest",
        spec: {
          ...(source.audience ? { audiences: [source.audience] } : {}),
          expirationSeconds: source.expirationSeconds ?? 3600,
          boundObjectRef: { apiVersion: "v1", kind: "Pod", name, uid },
        },
      },
      { signal },
    );
    const life = Date.parse(status.expirationTimestamp) - now;
    this.#tokens.set(key, { token: status.token, renewAt: now + life * 0.8 });
    return status.token;
  }
}
