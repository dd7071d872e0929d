import type { Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Weights } from "../../protocol/config/weights.ts";
import type { ModelMirror } from "../../protocol/desired.ts";
import type { Ports } from "../ports.ts";
import { busy, type CacheOptions, type Held, ModelCache } from "./cache.ts";
import { ModelError } from "./failure.ts";
import { type Life, type LifeAction, type LifeEvent, newLife, stepLife } from "./machine.ts";
import type { ModelWorld } from "./world.ts";

/** How often bytes are told to the network, and logged. A change of the state is told at once. */
const progressEveryMs = 10_000;
const lookPatienceMs = 10_000;

/** How far one set of weights is, as it is told. */
export interface WeightsView {
  readonly life: Life;
  /** Bytes as told last. */
  readonly bytes: number;
}

interface Entry {
  weights: Weights;
  life: Life;
  held: Held | undefined;
  /** Ends the work on it. */
  work: AbortController | undefined;
  timer: Timer | undefined;
  /** There is work to do on it. */
  due: boolean;
  /** It has been looked at once. */
  seen: boolean;
  told: { state: Life["at"]; bytes: number; at: number };
}

/**
 * Keeps on disk the weights that are wanted: looks for them, has them fetched and verified one after the other, holds
 * them while they are wanted. Level triggered; I/O through the cache, decisions by `machine.ts`.
 */
export class Models {
  readonly #ports: Ports;
  readonly #cache: ModelCache | undefined;
  readonly #changed: () => void;
  readonly #entries = new Map<string, Entry>();
  #mirrors: readonly ModelMirror[] = [];
  #running = false;
  #waiting: (() => void)[] = [];
  #stopped = false;

  /**
   * @param world undefined = this agent keeps no models: what needs files is `failed`.
   * @param changed called when a state has changed, and at times when bytes have.
   */
  constructor(ports: Ports, world: ModelWorld | undefined, options: CacheOptions, changed: () => void) {
    this.#ports = ports;
    this.#cache = world && new ModelCache(ports, world, options);
    this.#changed = changed;
  }

  /** Wants these weights from now on, the first ones first, and no others. Cheap when nothing has changed. */
  want(weights: readonly Weights[], mirrors: readonly ModelMirror[]): void {
    if (this.#stopped) return;
    const moved = JSON.stringify(mirrors) !== JSON.stringify(this.#mirrors);
    this.#mirrors = mirrors;
    const wanted = new Map(weights.map((each) => [each.digest, each]));
    for (const [digest, entry] of this.#entries) if (!wanted.has(digest)) this.#drop(digest, entry);
    const known = [...this.#entries];
    this.#entries.clear();
    for (const [digest, each] of wanted) {
      const entry = known.find(([other]) => other === digest)?.[1];
      this.#entries.set(digest, entry ?? newEntry(each));
      if (entry) this.#again(entry, each, moved);
    }
    for (const entry of this.#entries.values())
      if (!known.some(([, other]) => other === entry)) void this.#look(entry);
    this.#wake();
  }

  /** The same files may be named by another config, with other sources: what had failed need not fail again. */
  #again(entry: Entry, weights: Weights, moved: boolean): void {
    const resourced = JSON.stringify(weights.sources) !== JSON.stringify(entry.weights.sources);
    entry.weights = weights;
    if (entry.life.at !== "failed" || !(moved || resourced)) return;
    entry.timer?.cancel();
    void this.#look(entry);
  }

  /**
   * Resolves when all that is wanted has been looked for on disk, which takes a look at each file; or after 10 s, because
   * a network file system that hangs must not hold up who asks.
   */
  async looked(): Promise<void> {
    const patience = { over: false };
    const timer = this.#ports.clock.setTimer(() => {
      patience.over = true;
      this.#wake();
    }, lookPatienceMs);
    while (!patience.over && !this.#stopped && [...this.#entries.values()].some(({ seen }) => !seen))
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    timer.cancel();
  }

  /** True when all of these are on disk, verified and held. */
  ready(weights: readonly Weights[]): boolean {
    return weights.every(({ digest }) => this.#entries.get(digest)?.held !== undefined);
  }

  /** Why the first of these that failed did; undefined = none has. */
  problem(weights: readonly Weights[]): string | undefined {
    for (const { digest } of weights) {
      const { life } = this.#entries.get(digest) ?? {};
      if (life?.at === "failed") return life.reason;
    }
    return undefined;
  }

  /** Folders that have the files, by model; of those that are held. */
  folders(weights: readonly Weights[]): Readonly<Record<string, string>> {
    return Object.fromEntries(
      weights.flatMap(({ model, digest }) => {
        const { held } = this.#entries.get(digest) ?? {};
        return held ? [[model, held.folder] as const] : [];
      }),
    );
  }

  view({ digest }: Weights): WeightsView | undefined {
    const entry = this.#entries.get(digest);
    return entry && { life: entry.life, bytes: entry.told.bytes };
  }

  stop(): void {
    this.#stopped = true;
    for (const [digest, entry] of this.#entries) this.#drop(digest, entry);
    this.#wake();
  }

  #drop(digest: string, entry: Entry): void {
    this.#entries.delete(digest);
    entry.timer?.cancel();
    entry.work?.abort();
    entry.held?.release();
    entry.held = undefined;
  }

  /** Takes hold of what is there; queues what is not. Never waits for work on others. */
  async #look(entry: Entry): Promise<void> {
    entry.due = false;
    try {
      if (!(await this.#there(entry))) entry.due = true;
    } catch (thrown) {
      await this.#failed(entry, thrown);
    }
    entry.seen = true;
    this.#wake();
    this.#run();
  }

  async #there(entry: Entry): Promise<boolean> {
    const { weights } = entry;
    const cache = this.#cacheFor(weights);
    if (!entry.held) return this.#hold(entry, cache);
    if (await cache.intact(weights)) {
      this.#event(entry, { type: "whole" });
      return true;
    }
    entry.held?.release();
    entry.held = undefined;
    this.#event(entry, { type: "gone", reason: "its files were removed or changed" });
    return false;
  }

  /** One set of weights at a time: two that are fetched at once are both late. */
  #run(): void {
    if (this.#running || this.#stopped) return;
    const next = [...this.#entries.values()].find(({ due }) => due);
    if (!next) return;
    this.#running = true;
    void this.#work(next).finally(() => {
      this.#running = false;
      this.#run();
    });
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  async #work(entry: Entry): Promise<void> {
    entry.due = false;
    const work = new AbortController();
    entry.work = work;
    try {
      await this.#complete(entry, work.signal);
    } catch (thrown) {
      if (!work.signal.aborted) await this.#failed(entry, thrown);
    } finally {
      entry.work = undefined;
    }
  }

  async #complete(entry: Entry, signal: AbortSignal): Promise<void> {
    const { weights } = entry;
    const cache = this.#cacheFor(weights);
    const listener = {
      verifying: (bytes: number) => this.#bytes(entry, "verify", bytes),
      downloading: (bytes: number) => this.#bytes(entry, "download", bytes),
    };
    const wanted = new Set(this.#entries.keys());
    const outcome = await cache.complete(weights, wanted, this.#mirrors, listener, signal);
    if (outcome === busy) this.#event(entry, { type: "busy" }, await cache.present(weights));
    else if (!(await this.#hold(entry, cache))) this.#event(entry, { type: "busy" });
  }

  #cacheFor({ model }: Weights): ModelCache {
    if (this.#cache) return this.#cache;
    throw new ModelError("disk", `model ${model} has files, and this agent keeps no models`);
  }

  async #hold(entry: Entry, cache: ModelCache): Promise<boolean> {
    const held = await cache.hold(entry.weights);
    if (!held) return false;
    // Not wanted any more?
    if (this.#entries.get(entry.weights.digest) !== entry) held.release();
    else {
      entry.held = held;
      this.#event(entry, { type: "whole" });
    }
    return true;
  }

  async #failed(entry: Entry, thrown: unknown): Promise<void> {
    const bytes = (await this.#cache?.present(entry.weights).catch(() => 0)) ?? 0;
    const kind = thrown instanceof ModelError ? thrown.code : "disk";
    this.#event(entry, { type: "failed", kind, reason: messageOf(thrown).slice(0, 500), bytes });
  }

  #bytes(entry: Entry, type: "download" | "verify", bytes: number): void {
    const at = type === "download" ? "downloading" : "verifying";
    this.#event(entry, entry.life.at === at ? { type: "progress", bytes } : { type, bytes });
  }

  /** @param seen bytes on disk, where the event does not say. */
  #event(entry: Entry, event: LifeEvent, seen?: number): void {
    if (this.#entries.get(entry.weights.digest) !== entry) return;
    const { life, action } = stepLife(entry.life, event, this.#ports.random.number);
    entry.life = life;
    this.#later(entry, action);
    const bytes = "bytes" in life ? life.bytes : life.at === "verified" ? entry.weights.total : (seen ?? 0);
    this.#tell(entry, bytes);
  }

  #later(entry: Entry, action: LifeAction): void {
    if (action.type === "none") return;
    entry.timer?.cancel();
    entry.timer = this.#ports.clock.setTimer(() => void this.#look(entry), action.ms);
  }

  #tell(entry: Entry, bytes: number): void {
    const { life, told, weights } = entry;
    const now = this.#ports.clock.monotonic();
    const same = life.at === told.state;
    if (same && (bytes === told.bytes || now - told.at < progressEveryMs)) return;
    entry.told = { state: life.at, bytes, at: now };
    const { model, digest, total } = weights;
    const reason = "reason" in life ? life.reason : undefined;
    const line = {
      model,
      digest,
      state: life.at,
      bytes,
      total,
      ...(reason !== undefined && { why: reason }),
    };
    if (life.at === "failed") this.#ports.log.error(line, "model: cannot be had as things are; tried again");
    else this.#ports.log.info(line, "model");
    this.#changed();
  }
}

function newEntry(weights: Weights): Entry {
  return {
    weights,
    life: newLife,
    held: undefined,
    work: undefined,
    timer: undefined,
    due: false,
    seen: false,
    told: { state: "pending", bytes: 0, at: Number.NEGATIVE_INFINITY },
  };
}
