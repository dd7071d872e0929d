import { type Condition, findCondition } from "../../../src/api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import type { NewResultityNodePool, ResultityNodePool } from "../../../src/api/v1alpha1/pool.ts";
import type { Work } from "../../../src/operator/pool/canary.ts";
import { childSpec, isLeaving } from "../../../src/operator/pool/child.ts";
import type { PoolAction } from "../../../src/operator/pool/observation.ts";
import { sameJson } from "../../../src/operator/same.ts";
import { Fleet, makePool } from "../../operator/pool/fleet.ts";
import type { Dice } from "../random.ts";
import { DueQueue } from "./queue.ts";

/** What a config is like when nodes run it. */
export interface Quality {
  /** Between configs of one family nothing is restarted. */
  readonly family: number;
  /** Share of the jobs that fail, 0 to 1. */
  readonly errors: number;
  /** Its engine does not come up. */
  readonly broken: boolean;
}

/** A node as it really is, whatever its object says. */
export interface Truth {
  serving: boolean;
  /** Told to move, or edited, while it served, and not back since. */
  interrupted: boolean;
  host: string;
  /** Its engine has failed, and stays so until it is mended. */
  failed: boolean;
  /** Others have taken its GPUs. */
  taken: boolean;
  /** Config and spec that run. */
  runs: string | undefined;
  spec: ResultityNode["spec"] | undefined;
  /** Generation that its controller has looked at. */
  generation: number;
  /** Counts its starts: one that was overtaken comes to nothing. */
  start: number;
  /** The network's time with traffic when it began to serve, ms. */
  trafficAt: number;
  /** {@link PoolWorld.wish} when it was last told a config. */
  toldAt: number;
}

type Event =
  | { readonly type: "reconcile" }
  | { readonly type: "look" | "gone"; readonly name: string }
  /** A start comes to its end: of the `start`-th, with this config and spec. */
  | {
      readonly type: "up";
      readonly name: string;
      readonly start: number;
      readonly digest: string;
      readonly spec: ResultityNode["spec"];
    };

/** Jobs a second that a node answers while there is traffic. */
const jobsPerSecond = 2;

/**
 * A pool, its nodes and its network in memory, on a clock of its own. Plays the API server and the controllers of nodes and
 * network; the pool's own controller is the code under test. Each event touches one node.
 */
export class PoolWorld {
  readonly fleet: Fleet;
  readonly dice: Dice;
  readonly truths = new Map<string, Truth>();
  readonly configs = new Map<string, Quality>();
  readonly allowed = new Set<string>();
  readonly lostHosts = new Set<string>();
  readonly hosts: number;
  /** Counts what people and the network have asked for: nobody is told twice for one wish. */
  wish = 0;
  /** Nothing fails any more: neither nodes nor writes. */
  calm = false;
  #traffic = true;
  #trafficMs = 0;
  #trafficSince: number;
  readonly #events = new DueQueue<Event>();
  #reconcileAt = Number.POSITIVE_INFINITY;

  /** The last that was done, for who looks into a failure. */
  readonly trace: string[] = [];
  readonly #begun: number;

  note(line: string): void {
    this.trace.push(`${((this.fleet.now - this.#begun) / 1000).toFixed(1)} s ${line}`);
    if (this.trace.length > 200) this.trace.splice(0, 100);
  }

  constructor(dice: Dice, spec: Partial<NewResultityNodePool["spec"]>, hosts: number) {
    this.dice = dice;
    this.hosts = hosts;
    this.fleet = new Fleet(makePool(spec));
    this.#begun = this.#trafficSince = this.fleet.now;
    this.fleet.current = undefined;
    this.fleet.allows = (digest) => this.allowed.has(digest);
    this.fleet.interrupts = (child, digest) => this.interrupts(child.status?.config?.applied, digest);
    this.fleet.observeWork = (child) => this.#workOf(child);
  }

  get pool(): ResultityNodePool {
    return this.fleet.pool;
  }

  interrupts(from: string | undefined, to: string): boolean {
    return from === undefined || this.configs.get(from)?.family !== this.configs.get(to)?.family;
  }

  truth(name: string): Truth {
    const truth = this.truths.get(name);
    if (!truth) throw new Error(`no node ${name}`);
    return truth;
  }

  /** Whether carrying out an action takes a node away that serves. */
  isCostly(action: PoolAction): boolean {
    if (action.type !== "update" && action.type !== "target") return false;
    const { serving, runs, spec } = this.truth(action.child.metadata.name);
    if (!serving) return false;
    if (action.type === "target") return this.interrupts(runs, action.digest);
    return !sameJson(rest(spec), rest(childSpec(this.pool.spec)));
  }

  /** Carries out an action, as the API server does; its node's controller looks at it soon. */
  carryOut(action: PoolAction): void {
    const costly = this.isCostly(action);
    this.fleet.apply(action);
    if (action.type === "budget") return;
    const name = action.type === "create" ? action.name : action.child.metadata.name;
    if (action.type === "delete") {
      this.truths.delete(name);
      return;
    }
    if (action.type === "create") this.truths.set(name, this.#newTruth());
    const truth = this.truth(name);
    if (action.type === "target") truth.toldAt = this.wish;
    // Told back before its controller has looked, it has never gone.
    const back = this.fleet.children.get(name);
    if (costly) truth.interrupted = true;
    else if (action.type === "target" && truth.serving && back && this.#same(back, truth))
      truth.interrupted = false;
    this.lookSoon(name);
  }

  #newTruth(): Truth {
    return {
      serving: false,
      interrupted: false,
      host: `host-${this.dice.int(1, this.hosts)}`,
      failed: false,
      taken: false,
      runs: undefined,
      spec: undefined,
      generation: 0,
      start: 0,
      trafficAt: 0,
      toldAt: -1,
    };
  }

  setPool(spec: Partial<ResultityNodePool["spec"]>): void {
    const { pool } = this;
    const generation = pool.metadata.generation + 1;
    this.fleet.pool = {
      ...pool,
      metadata: { ...pool.metadata, generation },
      spec: { ...pool.spec, ...spec },
    };
    this.wished();
  }

  setStrategy(rollingUpdate: Partial<ResultityNodePool["spec"]["strategy"]["rollingUpdate"]>): void {
    const { strategy } = this.pool.spec;
    this.setPool({
      strategy: { ...strategy, rollingUpdate: { ...strategy.rollingUpdate, ...rollingUpdate } },
    });
  }

  /** Somebody asks for something else than before. */
  wished(): void {
    this.wish++;
    this.reconcileIn(50);
  }

  set traffic(on: boolean) {
    if (this.#traffic) this.#trafficMs += this.fleet.now - this.#trafficSince;
    this.#traffic = on;
    this.#trafficSince = this.fleet.now;
  }

  get #trafficNow(): number {
    return this.#trafficMs + (this.#traffic ? this.fleet.now - this.#trafficSince : 0);
  }

  #workOf({ metadata, status }: ResultityNode): Work | undefined {
    const truth = this.truth(metadata.name);
    const config = status?.config?.applied;
    if (config === undefined || !truth.serving) return undefined;
    const jobs = Math.floor(((this.#trafficNow - truth.trafficAt) / 1000) * jobsPerSecond);
    const failed = Math.round(jobs * (this.configs.get(config)?.errors ?? 0));
    return { config, completed: jobs - failed, failed, durationMs: (jobs - failed) * 100 };
  }

  reconcileIn(ms: number): void {
    const at = this.fleet.now + ms;
    if (at >= this.#reconcileAt) return;
    this.#reconcileAt = at;
    this.#events.put(at, { type: "reconcile" });
  }

  lookSoon(name: string): void {
    this.#events.put(this.fleet.now + this.dice.int(100, 3000), { type: "look", name });
  }

  /** Nothing is left to come by itself. */
  get quiet(): boolean {
    return this.#events.next === undefined;
  }

  /** Lets time pass until `at`, wall time, ms; `reconcile` is the pool's controller. */
  runUntil(at: number, reconcile: () => void): void {
    for (let next = this.#events.next; next !== undefined && next <= at; next = this.#events.next) {
      this.fleet.now = Math.max(this.fleet.now, next);
      const event = this.#events.take();
      if (event?.type === "reconcile") {
        if (this.#reconcileAt > next) continue;
        this.#reconcileAt = Number.POSITIVE_INFINITY;
        reconcile();
      } else if (event) this.#happen(event);
    }
    this.fleet.now = Math.max(this.fleet.now, at);
  }

  #happen(event: Exclude<Event, { type: "reconcile" }>): void {
    const child = this.fleet.children.get(event.name);
    const truth = this.truths.get(event.name);
    if (!child || !truth) return;
    if (event.type === "look") this.#look(child, truth);
    else if (event.type === "up") this.#up(child, truth, event);
    else this.#gone(child, truth);
    // What happens to many nodes at about the same time is looked at once.
    this.reconcileIn(this.truths.size > 1000 ? 3000 : 300);
  }

  /** The node's controller. */
  #look(child: ResultityNode, truth: Truth): void {
    const { name, generation } = child.metadata;
    const target = child.status?.config?.target;
    truth.generation = generation;
    if (isLeaving(child) || child.spec.replicas === 0) {
      truth.serving = false;
      this.#report(name, "Parked");
      this.#events.put(this.fleet.now + this.dice.int(500, 20_000), { type: "gone", name });
    } else if (truth.taken && child.spec.capacity === "Opportunistic") {
      Object.assign(truth, { serving: false, interrupted: false, spec: undefined });
      truth.start++;
      this.#report(name, "NoCapacity");
    } else if (truth.failed || this.lostHosts.has(truth.host)) {
      truth.serving = false;
      this.#report(name, "HostLost");
    } else if (target === undefined) {
      this.#report(name, "NoConfig");
    } else if (truth.serving && this.#same(child, truth) && !this.interrupts(truth.runs, target)) {
      if (truth.runs !== target) truth.trafficAt = this.#trafficNow;
      truth.runs = target;
      truth.interrupted = false;
      this.#report(name, "AllWell", target);
    } else if (this.configs.get(target)?.broken) {
      truth.serving = false;
      truth.start++;
      this.#report(name, "EngineFailed");
    } else {
      truth.serving = false;
      this.#report(name, "Starting");
      const start = ++truth.start;
      const { spec } = child;
      this.#events.put(this.fleet.now + this.dice.int(5_000, 90_000), {
        type: "up",
        name,
        start,
        digest: target,
        spec,
      });
    }
  }

  #same(child: ResultityNode, { spec }: Truth): boolean {
    return sameJson(rest(child.spec), rest(spec));
  }

  #up(child: ResultityNode, truth: Truth, { start, digest, spec }: Event & { type: "up" }): void {
    if (truth.start !== start || truth.serving) return;
    if (isLeaving(child) || child.spec.replicas === 0 || truth.failed || this.lostHosts.has(truth.host))
      return;
    if (truth.taken) return;
    Object.assign(truth, { serving: true, runs: digest, spec, trafficAt: this.#trafficNow });
    this.fleet.pods.add(child.metadata.name);
    // It may have been told something else meanwhile: then that look is yet to come.
    const { target } = child.status?.config ?? {};
    truth.interrupted &&= this.interrupts(digest, target ?? digest) || !this.#same(child, truth);
    this.#report(child.metadata.name, "AllWell", digest);
  }

  #gone(child: ResultityNode, truth: Truth): void {
    const { name, deletionTimestamp } = child.metadata;
    if (!isLeaving(child) && child.spec.replicas !== 0) return;
    this.fleet.pods.delete(name);
    Object.assign(truth, { interrupted: false, spec: undefined });
    if (deletionTimestamp === undefined) return;
    this.fleet.children.delete(name);
    this.truths.delete(name);
  }

  /** A node falls out of service, or is mended. */
  fail(name: string, failed: boolean): void {
    this.truth(name).failed = failed;
    this.lookSoon(name);
  }

  /** Others take the GPUs of a node, or give them back. */
  take(name: string, taken: boolean): void {
    this.truth(name).taken = taken;
    this.lookSoon(name);
  }

  loseHost(host: string, lost: boolean): void {
    if (lost) this.lostHosts.add(host);
    else this.lostHosts.delete(host);
    for (const [name, truth] of this.truths) if (truth.host === host) this.lookSoon(name);
  }

  /** Writes the node's status; `applied` only where it has changed. */
  #report(name: string, reason: string, applied?: string): void {
    const ready = reason === "AllWell";
    const time = `${new Date(this.fleet.now).toISOString().slice(0, 19)}Z`;
    const { generation: observedGeneration, host: hostName } = this.truth(name);
    this.fleet.change(name, (child) => {
      const config = { ...child.status?.config, ...(applied === undefined ? {} : { applied }) };
      const condition = (
        type: "Scheduled" | "Ready" | "RuntimeReady" | "ConfigApplied",
        is: boolean,
      ): Condition<typeof type> => {
        const before = findCondition(child.status?.conditions, type);
        const status = is ? "True" : "False";
        const lastTransitionTime = before?.status === status ? before.lastTransitionTime : time;
        return { type, status, observedGeneration, lastTransitionTime, reason, message: "" };
      };
      const isApplied = config.applied !== undefined && config.applied === config.target;
      const conditions = [
        condition("Scheduled", reason !== "NoCapacity"),
        condition("RuntimeReady", ready),
        condition("ConfigApplied", isApplied),
        condition("Ready", ready),
      ];
      return { ...child, status: { ...child.status, observedGeneration, hostName, config, conditions } };
    });
  }
}

/** A spec without what each node has of its own, and without the pin, which stops nothing by itself. */
function rest(spec: Partial<ResultityNode["spec"]> | undefined): unknown {
  if (!spec) return undefined;
  const { replicas: _replicas, identity: _identity, config: _pin, ...shared } = spec;
  return shared;
}
