/** A pod of the fixture program: how it is made, and how a row reads what happened in it. */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { request } from "undici";
import type { KubeJson, KubeObject } from "../kube-json.ts";
import { until } from "../until.ts";
import type { KubeletUnderTest } from "./under-test.ts";

/** One line of the fixture's timeline (see `fixture.mjs`). */
export interface FixtureEvent {
  /** Milliseconds since the epoch. */
  readonly t: number;
  readonly who: string;
  readonly version: string;
  /** One per process. */
  readonly instance: string;
  readonly event: string;
  readonly path?: string;
  readonly content?: string;
  readonly error?: string;
  readonly values?: Readonly<Record<string, string | null>>;
}

/** State of a container: one of the three is set. */
export interface ContainerState {
  readonly waiting?: { readonly reason?: string; readonly message?: string };
  readonly running?: { readonly startedAt: string };
  readonly terminated?: { readonly exitCode: number; readonly reason?: string; readonly signal?: number };
}

/** What the suite reads of a container's status. */
export interface ContainerStatus {
  readonly name: string;
  readonly image: string;
  readonly imageID: string;
  readonly ready: boolean;
  readonly started?: boolean;
  readonly restartCount: number;
  readonly state?: ContainerState;
  readonly lastState?: ContainerState;
}

/** What the suite reads of a pod. */
export interface PodObject extends KubeObject {
  readonly status?: {
    readonly phase?: string;
    readonly reason?: string;
    readonly message?: string;
    readonly podIP?: string;
    readonly podIPs?: readonly { readonly ip: string }[];
    readonly hostIP?: string;
    readonly startTime?: string;
    readonly observedGeneration?: number;
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly reason?: string;
    }[];
    readonly initContainerStatuses?: readonly ContainerStatus[];
    readonly containerStatuses?: readonly ContainerStatus[];
  };
}

/** What a row may say about its pod; everything else is the same in all. */
export interface FixturePodSpec {
  /** Name of the pod. */
  readonly name: string;
  /** Options of the sidecar's program. */
  readonly agentArgs?: readonly string[];
  /** Options of the engine's program. */
  readonly runtimeArgs?: readonly string[];
  /** Fields of the sidecar, over the usual ones. `volumeMounts` are added to the usual ones. */
  readonly agent?: Readonly<Record<string, unknown>> & { readonly volumeMounts?: readonly object[] };
  /** Fields of the runtime, likewise. */
  readonly runtime?: Readonly<Record<string, unknown>> & { readonly volumeMounts?: readonly object[] };
  readonly volumes?: readonly object[];
  readonly annotations?: Readonly<Record<string, string>>;
  /** How long the runtime's `preStop` drain takes, in milliseconds. Default 0. */
  readonly drainMs?: number;
  /** Seconds. Default 30. */
  readonly terminationGracePeriodSeconds?: number;
}

/** Port of the sidecar. */
export const agentPort = 9440;
/** Longest wait for anything, ms: rows run side by side on two cores, and the real kubelet's back-offs are its own. */
const longest = 110_000;

/** Namespace of the suite's objects. */
export const namespace = "kubelet-suite";

const pods = `/api/v1/namespaces/${namespace}/pods`;

/** `httpGet` on the sidecar, as probes and hooks take it. */
export function onAgent(path: string): object {
  return { path, port: agentPort };
}

/** A probe of the sidecar every second that fails at the first failure, and not because a busy machine is late with its answer. */
export function agentProbe(path: string, failureThreshold = 1): object {
  return { httpGet: onAgent(path), periodSeconds: 1, timeoutSeconds: 10, failureThreshold };
}

/** The pod of a row, bound to the host under test. `folder` is where its timeline goes. */
export function fixturePodManifest(kubelet: KubeletUnderTest, folder: string, spec: FixturePodSpec): object {
  const env = (who: string) => [
    { name: "WHO", value: who },
    { name: "TIMELINE", value: "/timeline/events.jsonl" },
    { name: "POD_IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } },
  ];
  const timeline = { name: "timeline", mountPath: "/timeline" };
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: spec.name, namespace, annotations: spec.annotations ?? {} },
    spec: {
      nodeName: kubelet.hostName,
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      terminationGracePeriodSeconds: spec.terminationGracePeriodSeconds ?? 30,
      initContainers: [
        {
          name: "agent",
          image: kubelet.image("fixture-v1"),
          restartPolicy: "Always",
          args: ["sidecar", ...(spec.agentArgs ?? [])],
          env: env("agent"),
          startupProbe: agentProbe("/startup", 120),
          ...spec.agent,
          volumeMounts: [timeline, ...(spec.agent?.volumeMounts ?? [])],
        },
      ],
      containers: [
        {
          name: "runtime",
          image: kubelet.image("fixture-v1"),
          args: ["engine", ...(spec.runtimeArgs ?? [])],
          env: env("runtime"),
          lifecycle: { preStop: { httpGet: onAgent(`/drain?delay=${spec.drainMs ?? 0}`) } },
          ...spec.runtime,
          volumeMounts: [timeline, ...(spec.runtime?.volumeMounts ?? [])],
        },
      ],
      volumes: [
        { name: "timeline", hostPath: { path: folder, type: "DirectoryOrCreate" } },
        ...(spec.volumes ?? []),
      ],
    },
  };
}

/** Events that make up a pod's story; the others are looked at one by one. */
const storyEvents = new Set(["start", "term", "exit", "drain-begin", "drain-end"]);

/** A pod on the kubelet under test. Leaving its scope (`await using`) deletes it by force, without waiting. */
export class FixturePod implements AsyncDisposable {
  readonly name: string;
  readonly uid: string;
  readonly #kube: KubeJson;
  readonly #folder: string;

  private constructor(kube: KubeJson, folder: string, created: KubeObject) {
    this.#kube = kube;
    this.#folder = folder;
    this.name = created.metadata.name;
    this.uid = created.metadata.uid ?? "";
  }

  /** Creates the pod. Its timeline lies in a folder of its name under `folder`. */
  static async create(
    kube: KubeJson,
    kubelet: KubeletUnderTest,
    folder: string,
    spec: FixturePodSpec,
  ): Promise<FixturePod> {
    const own = join(folder, spec.name);
    mkdirSync(own, { recursive: true });
    return new FixturePod(kube, own, await kube.create(pods, fixturePodManifest(kubelet, own, spec)));
  }

  /** The pod as the API server has it; undefined once it is gone. */
  read(): Promise<PodObject | undefined> {
    return this.#kube.get<PodObject>(`${pods}/${this.name}`);
  }

  /** Status of a container; undefined before the kubelet wrote one. */
  async container(name: "agent" | "runtime"): Promise<ContainerStatus | undefined> {
    const status = (await this.read())?.status;
    const all = [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])];
    return all.find((container) => container.name === name);
  }

  /** Everything that the fixture noted, oldest first. */
  events(): FixtureEvent[] {
    let text: string;
    try {
      text = readFileSync(join(this.#folder, "events.jsonl"), "utf8");
    } catch {
      return [];
    }
    // The last line may be half written.
    const lines = text.split("\n").slice(0, -1);
    return lines.map((line): FixtureEvent => JSON.parse(line));
  }

  /** Starts, ends and drains in order: `agent start v1`, `agent drain-begin`, `runtime term`, … */
  story(): string[] {
    return this.events()
      .filter(({ event }) => storyEvents.has(event))
      .map(({ who, version, event }) => (event === "start" ? `${who} start ${version}` : `${who} ${event}`));
  }

  /** Events of one container of one kind. */
  seen(who: string, event: string): FixtureEvent[] {
    return this.events().filter((each) => each.who === who && each.event === event);
  }

  /** Contents that the sidecar saw in a watched file, in order. */
  contentsOf(path: string): string[] {
    return this.seen("agent", "file").flatMap((each) => (each.path === path ? [each.content ?? ""] : []));
  }

  /** Waits until the story holds `line` `times` times. On a deadline the error shows story and status. */
  async toldOf(line: string, times = 1, deadlineMs = longest): Promise<void> {
    await this.until(
      `"${line}" (${times})`,
      () => this.story().filter((each) => each === line).length >= times,
      deadlineMs,
    );
  }

  /** Waits for the pod's `Ready` condition, and for the engine's first note: a container runs before its program does. */
  async ready(): Promise<PodObject> {
    await this.until("the engine to start", () => this.seen("runtime", "start").length > 0);
    return this.until("it to be ready", async () => {
      const pod = await this.read();
      return conditionOf(pod, "Ready") === "True" && pod;
    });
  }

  /** Waits until `look` gives something. On a deadline the error shows story and status. */
  async until<T>(
    what: string,
    look: () => T | Promise<T>,
    deadlineMs = longest,
  ): Promise<Exclude<T, undefined | null | false>> {
    try {
      return await until(`pod ${this.name}: ${what}`, look, { deadlineMs, intervalMs: 100 });
    } catch (cause) {
      const status = JSON.stringify((await this.read())?.status ?? "gone", null, 1);
      throw new Error(`${String(cause)}\nstory: ${this.story().join(", ")}\nstatus: ${status}`, { cause });
    }
  }

  /** Replaces images in one PATCH. */
  async patchImages(images: { readonly agent?: string; readonly runtime?: string }): Promise<PodObject> {
    return this.#kube.patch(`${pods}/${this.name}`, "json", [
      ...replaceImage("/spec/initContainers/0/image", images.agent),
      ...replaceImage("/spec/containers/0/image", images.runtime),
    ]);
  }

  async annotate(annotations: Readonly<Record<string, string>>): Promise<void> {
    await this.#kube.patch(`${pods}/${this.name}`, "merge", { metadata: { annotations } });
  }

  /** Turns a switch of the sidecar. */
  async turn(name: "startup" | "ready" | "live", value: "on" | "off"): Promise<void> {
    const ip = (await this.read())?.status?.podIP ?? "";
    // The sidecar tells its story from its first moment on, and listens a little later.
    await this.until("the sidecar to listen", async () => {
      const answer = await request(`http://${ip}:${agentPort}/switch?${name}=${value}`, { method: "POST" });
      await answer.body.dump();
      return answer.statusCode < 300;
    });
  }

  /** Asks the API server to delete the pod, with its own grace period unless told otherwise. */
  async delete(gracePeriodSeconds?: number): Promise<void> {
    await this.#kube.delete(`${pods}/${this.name}`, gracePeriodSeconds);
  }

  /** Ends the pod as kube-scheduler ends one of low priority: it says so in the status, then deletes it. */
  async preempt(): Promise<void> {
    const condition = {
      type: "DisruptionTarget",
      status: "True",
      reason: "PreemptionByScheduler",
      message: "default-scheduler: preempting to accommodate a higher priority pod",
    };
    await this.#kube.patch(`${pods}/${this.name}/status`, "strategic", {
      status: { conditions: [condition] },
    });
    await this.delete();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.delete(0);
  }

  /** Waits until the pod object is gone. */
  async gone(deadlineMs = longest): Promise<void> {
    await this.until("the pod to be gone", async () => (await this.read()) === undefined, deadlineMs);
  }
}

/** Status of a condition of a pod: `True`, `False` or undefined. */
export function conditionOf(pod: PodObject | undefined, type: string): string | undefined {
  return pod?.status?.conditions?.find((condition) => condition.type === type)?.status;
}

function replaceImage(path: string, image: string | undefined): object[] {
  return image === undefined ? [] : [{ op: "replace", path, value: image }];
}
