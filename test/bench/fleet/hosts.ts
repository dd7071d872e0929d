import { setTimeout as wait } from "node:timers/promises";
import type { Client } from "../../../src/kube/client.ts";
import { isKubeError } from "../../../src/kube/errors.ts";
import { controllerOf, keyOf, type KubeObject } from "../../../src/kube/object.ts";
import { Reflector } from "../../../src/kube/reflector.ts";
import { type Pod, pods, type Resource } from "../../../src/kube/resources.ts";
import { messageOf } from "../../../src/lib/errors.ts";
import { Dice } from "../../simulation/random.ts";
import type { PlayedAgents } from "./agents.ts";

/** How long things take on a played host, ms. */
export interface HostTimes {
  /** From the start of an engine until it serves. */
  readonly startMs: number;
  /** Until the running jobs of an engine that is to stop have ended. */
  readonly drainMs: number;
  /** Until an image that the host has not yet is there. */
  readonly pullMs: number;
  /** Start and drain are longer or shorter by up to this share, 0 to 1, each node by its own. */
  readonly spread: number;
}

/** All at once, as kwok's fast stages. */
export const atOnce: HostTimes = { startMs: 0, drainMs: 0, pullMs: 0, spread: 0 };

/** One time that an engine did not serve: monotonic ms. */
export interface Outage {
  readonly pod: string;
  /** The engine takes no more jobs. */
  readonly from: number;
  /** Its jobs have ended. */
  drained: number;
  /** The next engine serves. */
  until: number;
}

/** Binds pods to hosts; a subresource that is created only. */
const bindings: Resource<KubeObject> = { ...pods, plural: "bindings", kind: "Binding" };

interface Slot {
  readonly host: string;
  /** Images that run, or ran last. */
  images: string;
  ready: boolean;
  serving: boolean;
  busy: boolean;
}

type Container = NonNullable<Pod["spec"]>["containers"][number];

/**
 * The hosts of a fleet: bind pods, start, drain and end what is in them, and tell the API server what a kubelet would, a write for
 * each change that lasts. Each host takes as many as {@link podsPerHost}. Who it is that made a pod makes no difference.
 */
export class PlayedHosts {
  /** Times that engines did not serve, by their pod's name, in order. Starts of the first engine are not among them. */
  readonly outages: Outage[] = [];
  readonly #client: Client;
  readonly #agents: PlayedAgents;
  readonly #reflector: Reflector<Pod>;
  readonly #slots = new Map<string, Slot>();
  readonly #pulls = new Map<string, Promise<unknown>>();
  readonly #down = new Map<string, Outage>();
  #ready = 0;
  #serving = 0;
  #started = 0;
  #servedMs = 0;
  #servedUntil = performance.now();
  readonly #failures: string[] = [];
  times: HostTimes = atOnce;
  /** Pods with GPUs that a host takes. */
  podsPerHost = 8;

  constructor(client: Client, agents: PlayedAgents) {
    this.#client = client;
    this.#agents = agents;
    this.#reflector = new Reflector({ client, resource: pods });
    this.#reflector.handle({
      added: (pod) => this.#changed(pod),
      updated: (pod) => this.#changed(pod),
      deleted: (pod) => this.#gone(pod),
    });
  }

  /** Pods of nodes or ReplicaSets that are ready now, as the hosts have told the API server. */
  get ready(): number {
    return this.#ready;
  }

  /** @throws Error where a host could not do what it had to. */
  readonly requireWell = (): void => {
    if (this.#failures.length > 0) throw new Error(`a played host failed: ${this.#failures[0]}`);
  };

  /** Engines that take jobs now. */
  get serving(): number {
    return this.#serving;
  }

  /** Engines that were started so far. */
  get started(): number {
    return this.#started;
  }

  /** Time that engines took jobs so far, all added up, ms. */
  get servedMs(): number {
    const now = performance.now();
    this.#servedMs += this.#serving * (now - this.#servedUntil);
    this.#servedUntil = now;
    return this.#servedMs;
  }

  #serve(slot: Slot, serving: boolean): void {
    if (slot.serving === serving || this.servedMs < 0) return;
    slot.serving = serving;
    this.#serving += serving ? 1 : -1;
    if (serving) this.#started++;
  }

  /** Until `signal` aborts. */
  run(signal: AbortSignal): Promise<void> {
    return this.#reflector.run(signal);
  }

  /** How long the engine of a pod takes to drain and to start, ms. */
  timesOf(name: string): { readonly drain: number; readonly start: number } {
    const dice = new Dice(`times ${name}`);
    const factor = () => 1 + this.times.spread * (2 * dice.number() - 1);
    return { drain: this.times.drainMs * factor(), start: this.times.startMs * factor() };
  }

  #changed(pod: Pod): void {
    this.#agents.see(pod);
    this.#look(keyOf(pod)).catch((thrown: unknown) => this.#failures.push(messageOf(thrown)));
  }

  /** Does what is next for a pod, and then what is next after that. What fails was somebody else's doing: the next event shows it. */
  async #look(key: string): Promise<void> {
    const slot = this.#slots.get(key);
    if (slot?.busy) return;
    const pod = this.#reflector.store.get(key);
    if (!pod) return;
    const mine = slot ?? this.#newSlot(key, pod);
    mine.busy = true;
    let again = false;
    try {
      again = await this.#step(pod, mine);
    } catch (error) {
      if (!isKubeError(error, "NotFound", "Conflict", "AlreadyExists", "Invalid")) throw error;
    } finally {
      mine.busy = false;
    }
    const newer = this.#reflector.store.get(key)?.metadata.resourceVersion !== pod.metadata.resourceVersion;
    if (again || newer) await this.#look(key);
  }

  /** A pod that the hosts have not seen yet: one that runs already was begun before they were there. */
  #newSlot(key: string, pod: Pod): Slot {
    const host = pod.spec?.nodeName ?? this.#freeHost();
    const slot: Slot = { host, images: "", ready: false, serving: false, busy: false };
    this.#slots.set(key, slot);
    const images = imagesOf(pod);
    const statuses = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])];
    const running = statuses.every(({ ready }) => ready) && statuses.map(({ image }) => image).join(" ");
    if (running !== images) return slot;
    slot.images = images;
    for (const image of images.split(" ")) this.#pulls.set(`${host} ${image}`, Promise.resolve());
    this.#serve(slot, true);
    this.#count(slot, true);
    void this.#agents.of(pod).then((agent) => agent?.serve());
    return slot;
  }

  /** True if there is more to do although no event says so. */
  async #step(pod: Pod, slot: Slot): Promise<boolean> {
    const { name, namespace = "" } = pod.metadata;
    if (pod.metadata.deletionTimestamp !== undefined) {
      if (slot.images !== "") await this.#stop(pod, slot);
      await this.#client.delete(pods, { namespace, name }, { gracePeriodSeconds: 0 });
      return false;
    }
    if (!pod.spec?.nodeName) {
      await this.#bind(pod, slot.host);
      return false;
    }
    const images = imagesOf(pod);
    if (images === slot.images) return false;
    const first = slot.images === "";
    if (!first) {
      await this.#stop(pod, slot);
      await this.#tell(pod, slot, false);
    }
    slot.images = images;
    await this.#pull(pod, slot.host);
    if (takesGpu(pod)) {
      const agent = await this.#agents.of(pod);
      await wait(this.timesOf(name).start);
      agent?.serve();
      this.#serve(slot, true);
    }
    await this.#tell(pod, slot, true);
    return false;
  }

  async #bind(pod: Pod, host: string): Promise<void> {
    const { name, namespace } = pod.metadata;
    const binding = {
      metadata: { name, ...(namespace === undefined ? {} : { namespace }) },
      target: { apiVersion: "v1", kind: "Node", name: host },
    };
    await this.#client.create(bindings, binding);
  }

  /** Jobs end, then the engine. */
  async #stop(pod: Pod, slot: Slot): Promise<void> {
    if (!takesGpu(pod)) return;
    const { name } = pod.metadata;
    const from = performance.now();
    const outage: Outage = { pod: name, from, drained: from, until: Number.NaN };
    if (!this.#down.has(name)) {
      this.#down.set(name, outage);
      this.outages.push(outage);
    }
    this.#serve(slot, false);
    (await this.#agents.of(pod))?.drain();
    await wait(this.timesOf(name).drain);
    outage.drained = performance.now();
  }

  /** An image is fetched once for a host. Pods that only hold one by a volume fetch it too. */
  async #pull(pod: Pod, host: string): Promise<void> {
    const volumes = (pod.spec?.volumes ?? []).flatMap(({ image }) => image?.reference ?? []);
    const images = [...imagesOf(pod).split(" "), ...volumes];
    await Promise.all(
      images.map((image) => {
        const key = `${host} ${image}`;
        const known = this.#pulls.get(key) ?? wait(this.times.pullMs);
        this.#pulls.set(key, known);
        return known;
      }),
    );
  }

  async #tell(pod: Pod, slot: Slot, ready: boolean): Promise<void> {
    const { name, namespace = "" } = pod.metadata;
    const containers = (list: readonly Container[] | undefined, running: boolean) =>
      (list ?? []).map((container) => ({
        name: container.name,
        image: container.image ?? "",
        imageID: container.image ?? "",
        ready: running,
        started: running,
        restartCount: 0,
        state: running
          ? { running: { startedAt: new Date().toISOString().replace(/\.\d+Z$/, "Z") } }
          : { waiting: { reason: "ContainerCreating" } },
      }));
    const status = ready ? "True" : "False";
    const ip = this.#agents.addressOf(pod);
    await this.#client.patchStatus(
      pods,
      { namespace, name },
      {
        status: {
          phase: "Running",
          observedGeneration: pod.metadata.generation,
          ...(ip === undefined ? {} : { podIP: ip, podIPs: [{ ip }] }),
          conditions: [
            { type: "PodScheduled", status: "True" },
            { type: "Initialized", status: "True" },
            { type: "ContainersReady", status },
            { type: "Ready", status },
          ],
          initContainerStatuses: containers(pod.spec?.initContainers, true),
          containerStatuses: containers(pod.spec?.containers, ready),
        },
      },
    );
    if (!takesGpu(pod)) return;
    this.#count(slot, ready);
    const outage = this.#down.get(name);
    if (!ready || !outage) return;
    outage.until = performance.now();
    this.#down.delete(name);
  }

  #count(slot: Slot, ready: boolean): void {
    if (slot.ready === ready) return;
    slot.ready = ready;
    this.#ready += ready ? 1 : -1;
  }

  #gone(pod: Pod): void {
    const key = keyOf(pod);
    const slot = this.#slots.get(key);
    if (!slot) return;
    this.#slots.delete(key);
    if (!takesGpu(pod)) return;
    this.#freed.push(slot.host);
    this.#count(slot, false);
    this.#serve(slot, false);
    this.#agents.forget(pod);
  }

  #placed = 0;
  readonly #freed: string[] = [];
  #freeHost(): string {
    const name = (at: number) => `host-${String(at).padStart(5, "0")}`;
    const freed = this.#freed.pop();
    if (freed !== undefined) return freed;
    return name(Math.floor(this.#placed++ / this.podsPerHost));
  }
}

/** Pods that bring an image to a host have no GPU. */
const takesGpu = (pod: Pod): boolean => controllerOf(pod)?.kind !== "ResultityNetwork";

function imagesOf({ spec }: Pod): string {
  return [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])].map(({ image }) => image).join(" ");
}
