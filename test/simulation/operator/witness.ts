/**
 * What is seen of a world from outside of the operator, and what must never be seen. Nothing here asks the code under test: pods
 * come from a watch of the API server, the operator's writes from the proxy in front of it, programs from the hosts, and budgets from
 * what the world itself has asked for.
 */
import { parseDesired } from "../../../src/protocol/desired.ts";
import type { Asked } from "../../testbed/fault-proxy.ts";
import type { MemoryFleet } from "../../testbed/kubelet/memory/fleet.ts";
import type { Pod } from "../../testbed/kubelet/process/types.ts";

/** Something that must never be. */
export class Violation extends Error {
  readonly id: string;

  constructor(id: string, message: string) {
    super(`${id}: ${message}`);
    this.id = id;
  }
}

/**
 * What is lost this long before the operator takes a node from service, it need not know of: news travel by a kubelet's status
 * write and a watch, which a busy machine makes slow. A bug that takes too many does so without any such loss.
 */
const newsMs = 15_000;
/** Likewise, for who is back in service: where the operator shares a process with a hundred agents it hears of that late. */
const returnNewsMs = 5_000;
/** How long after the operator's deed a node's end of service is still its doing. */
const doingMs = 45_000;

/** What the operator may have in a pool at any time, as its spec says since `since`. */
export interface Budget {
  readonly since: number;
  readonly minAvailable: number;
}

interface Seen {
  readonly pod: Pod;
  readonly available: boolean;
}

/** Everything that was ever seen of a node's service. */
interface Service {
  /** When it last began to serve. */
  servesSince: number | undefined;
  /** When it was lost for a reason that is not the operator's. */
  lostAt: number | undefined;
  /** When the operator told its agent of a stop that is not over, and whether it served then. */
  word: { readonly at: number; readonly served: boolean } | undefined;
  /** When the operator last wrote what ends its service. */
  takenAt: number | undefined;
}

const nodeLabel = "resultity.com/node";
const volumeOfIdentity = "resultity-identity";

export class Witness {
  readonly #fleet: MemoryFleet;
  readonly #pods = new Map<string, Seen>();
  readonly #services = new Map<string, Service>();
  readonly #faults = new Map<string, number>();
  /** Pods that the API server has told of, by UID. */
  readonly #uids = new Set<string>();
  readonly #note: (text: string) => void;
  #budgets: Budget[] = [];
  /** Counted for the report. */
  readonly counts = { events: 0, checks: 0, taken: 0, lost: 0 };
  /** The first thing that went wrong. */
  problem: Violation | undefined;

  constructor(fleet: MemoryFleet, note: (text: string) => void) {
    this.#fleet = fleet;
    this.#note = note;
  }

  /** From now on a pool of this size may miss so many nodes for what the operator does. */
  budget(replicas: number, maxUnavailable: number): void {
    this.#budgets.push({ since: performance.now(), minAvailable: Math.max(0, replicas - maxUnavailable) });
  }

  /** A fault was injected into a node. */
  fault(node: string): void {
    this.#faults.set(node, performance.now());
  }

  /** Nodes in service now. */
  get available(): readonly string[] {
    return [...this.#pods.values()].flatMap(({ pod, available }) => (available ? [nameOf(pod)] : []));
  }

  get pods(): readonly Pod[] {
    return [...this.#pods.values()].map(({ pod }) => pod);
  }

  /** UIDs of all pods that were ever seen. */
  get seenPods(): number {
    return this.#uids.size;
  }

  /** A write that the API server took from the operator. */
  wrote({ method, resource, name, url, body }: Asked): void {
    if (resource !== "pods" || url.includes("dryRun")) return;
    if (method === "DELETE" && !/"preconditions":\{[^}]*"uid":"[^"]+"/.test(body))
      this.#fail("I1", `the operator deletes the pod ${name} without saying which: it may be a successor`);
    const service = this.#service(name);
    const planned = method === "PATCH" ? plannedStopIn(body) : undefined;
    if (planned === null) service.word = undefined;
    else if (planned !== undefined) service.word ??= { at: performance.now(), served: this.#hasServed(name) };
    if (planned || method === "DELETE" || (method === "PATCH" && body.includes('/image"')))
      service.takenAt = performance.now();
  }

  /** What the API server says of a pod. */
  changed(pod: Pod): void {
    if (pod.metadata.labels?.[nodeLabel] === undefined) return;
    const { uid } = pod.metadata;
    const before = this.#pods.get(uid);
    this.#uids.add(uid);
    this.#pods.set(uid, { pod, available: isAvailable(pod) });
    this.#after(before, this.#pods.get(uid), pod);
  }

  gone(pod: Pod): void {
    const before = this.#pods.get(pod.metadata.uid);
    this.#pods.delete(pod.metadata.uid);
    if (before) this.#after(before, undefined, pod);
  }

  /** All pods that there are: what is not among them is gone. */
  all(pods: readonly Pod[]): void {
    const listed = new Set(pods.map(({ metadata: { uid } }) => uid));
    for (const { pod } of this.#pods.values()) if (!listed.has(pod.metadata.uid)) this.gone(pod);
    for (const pod of pods) this.changed(pod);
  }

  /** I1, at any time: one pod object, and one process, per identity. */
  check(): void {
    this.counts.checks++;
    const pods = new Map<string, Pod>();
    for (const { pod } of this.#pods.values()) {
      if (pod.status?.phase === "Failed" || pod.status?.phase === "Succeeded") continue;
      const identity = identityOf(pod);
      const other = pods.get(identity);
      if (other)
        this.#fail(
          "I1",
          `${identity} is the identity of two pods: ${other.metadata.name} ${other.metadata.uid} and ${pod.metadata.name} ${pod.metadata.uid}`,
        );
      pods.set(identity, pod);
    }
    const agents = new Map<string, string>();
    for (const { container, pod, uid, host } of this.#fleet.containers()) {
      if (container !== "agent") continue;
      const seen = this.#pods.get(uid);
      const identity = seen ? identityOf(seen.pod) : `${pod}-identity`;
      const other = agents.get(identity);
      if (other !== undefined)
        this.#fail("I1", `${identity} is the identity of two agents that run: on ${other} and on ${host}`);
      agents.set(identity, host);
    }
  }

  #after(before: Seen | undefined, after: Seen | undefined, pod: Pod): void {
    this.counts.events++;
    this.check();
    const node = nameOf(pod);
    const service = this.#service(node);
    if (!before?.available && after?.available) {
      service.servesSince = performance.now();
      service.lostAt = undefined;
      if (!service.word) service.takenAt = undefined;
      this.#note(`${node} serves`);
    }
    if (before?.available && !after?.available) this.#ended(node, service);
  }

  /**
   * I7: a node that served does so no more. What counts is the moment in which the operator gave its word, which its agent
   * acts on: who was out of service then is taken for nothing.
   */
  #ended(node: string, service: Service): void {
    const now = performance.now();
    const { takenAt, word } = service;
    const faultAt = this.#faults.get(node) ?? -Infinity;
    const isTaken = takenAt !== undefined && now - takenAt < doingMs && faultAt < takenAt;
    if (!isTaken) {
      service.lostAt = now;
      this.counts.lost++;
      this.#note(`${node} is lost`);
      return;
    }
    this.counts.taken++;
    this.#note(`${node} is taken by the operator`);
    if (word && !word.served) return;
    const decidedAt = word?.at ?? takenAt;
    const serving = new Set(this.available);
    // Who was lost after the operator had decided, or so shortly before that it could not know, served as far as it knew.
    const unknown = [...this.#services].filter(
      ([name, { lostAt }]) => !serving.has(name) && lostAt !== undefined && lostAt > decidedAt - newsMs,
    );
    const known = serving.size + unknown.length;
    const least = this.#least(decidedAt - newsMs);
    if (known < least)
      this.#fail(
        "I7",
        `the operator takes ${node} from service: ${serving.size} nodes serve (and ${unknown.length} did until just now) where ${least} are to`,
      );
  }

  /** The smallest budget that was in force since then. */
  #least(since: number): number {
    const last = this.#budgets.findLastIndex((budget) => budget.since <= since);
    return Math.min(...this.#budgets.slice(Math.max(0, last)).map(({ minAvailable }) => minAvailable));
  }

  /** Serves, and has for so long that the operator can know. */
  #hasServed(node: string): boolean {
    const { servesSince } = this.#service(node);
    return this.available.includes(node) && (servesSince ?? Infinity) < performance.now() - returnNewsMs;
  }

  #service(node: string): Service {
    const service = this.#services.get(node) ?? {
      servesSince: undefined,
      lostAt: undefined,
      word: undefined,
      takenAt: undefined,
    };
    this.#services.set(node, service);
    return service;
  }

  #fail(id: string, message: string): void {
    if (this.problem) return;
    this.problem = new Violation(id, message);
    this.#note(this.problem.message);
  }
}

const nameOf = (pod: Pod): string => pod.metadata.labels?.[nodeLabel] ?? pod.metadata.name;

/** In service as Kubernetes counts it: Ready, and not on its way out. */
function isAvailable({ metadata, status }: Pod): boolean {
  const ready = status?.conditions?.find(({ type }) => type === "Ready");
  return metadata.deletionTimestamp === undefined && ready?.status === "True";
}

/** Name of the Secret with the key that the pod's agent signs with. */
function identityOf(pod: Pod): string {
  const volume = pod.spec.volumes?.find(({ name }) => name === volumeOfIdentity);
  return volume?.secret?.secretName ?? `${pod.metadata.name} (no identity)`;
}

interface PatchOperation {
  readonly op?: string;
  readonly path?: string;
  readonly value?: unknown;
}

/** The stop that a JSON Patch tells the agent of: null = none any more, undefined = it says nothing of stops. */
function plannedStopIn(body: string): string | null | undefined {
  const operations: unknown = JSON.parse(body);
  if (!Array.isArray(operations)) return undefined;
  const orders = operations.find(
    ({ op, path, value }: PatchOperation) =>
      op !== "test" && path?.includes("desired") === true && typeof value === "string",
  );
  return orders && parseDesired(orders.value).plannedStop;
}
