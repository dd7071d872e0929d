import type { Timer } from "../../lib/clock.ts";
import { fullJitter } from "../../lib/backoff.ts";
import { messageOf } from "../../lib/errors.ts";
import { requestBytes } from "../http-bytes.ts";
import type { Ports } from "../ports.ts";
import type { EngineRequest, LiveModels } from "./adapter.ts";
import { engineHost } from "./argv.ts";
import { type Pulling, pullModel } from "./pull.ts";

/** Longest that one request may take: a load of large weights from a slow disk. */
const requestTimeoutMs = 3_600_000;
/** How often the bytes of a pull are told. */
const progressEveryMs = 10_000;
const retry = { base: 2_000, cap: 60_000 };
const maxAnswerBytes = 64 * 1024;

/** What is to be served, and where. */
export interface LiveWish {
  readonly port: number;
  readonly models: readonly string[];
  /** Models that the engine has on its disk. */
  readonly installed: readonly string[];
}

/**
 * Has an engine that loads models while it serves (Ollama) pull and load the wanted ones and unload all others. Level
 * triggered: each look at the engine calls {@link want}. A model is loaded once per engine process: one that the engine
 * has thrown out of memory for another is loaded again by the next job, not by the agent, or two that do not fit
 * together would take turns for ever.
 */
export class LiveLoader {
  readonly #ports: Ports;
  readonly #live: LiveModels;
  readonly #changed: () => void;
  #wish: LiveWish | undefined;
  readonly #loaded = new Set<string>();
  #busy = false;
  #attempt = 0;
  #retry: Timer | undefined;
  #problem: string | undefined;
  readonly #faults = new Map<string, string>();
  #pulling: Pulling | undefined;
  #abortPull: AbortController | undefined;
  /** Counts engine processes: what an older one answers is of no interest. */
  #process = 0;

  /** @param changed called when a model has been loaded, or could not be. */
  constructor(ports: Ports, live: LiveModels, changed: () => void) {
    this.#ports = ports;
    this.#live = live;
    this.#changed = changed;
  }

  /** True when the model has been loaded into this engine process. */
  has(model: string): boolean {
    return this.#loaded.has(model);
  }

  /** Why the wanted models are not all loaded, if something failed. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Why models could not be pulled or loaded, by model. */
  get faults(): Readonly<Record<string, string>> {
    return Object.fromEntries(this.#faults);
  }

  /** Model that the engine pulls now, as told last. */
  get pulling(): Pulling | undefined {
    return this.#pulling;
  }

  /** A new engine process has nothing loaded. */
  reset(): void {
    this.#process++;
    this.#faults.clear();
    this.#pulling = undefined;
    this.#abortPull?.abort();
    this.#loaded.clear();
    this.#wish = undefined;
    this.#problem = undefined;
    this.#attempt = 0;
    this.#retry?.cancel();
    this.#retry = undefined;
    this.#busy = false;
  }

  /** Goes on towards the wish, one request at a time. */
  want(wish: LiveWish): void {
    this.#wish = wish;
    for (const model of this.#loaded) if (!wish.models.includes(model)) this.#loaded.delete(model);
    for (const model of this.#faults.keys()) if (!wish.models.includes(model)) this.#faults.delete(model);
    // What is no longer approved need not be fetched to its end.
    if (this.#pulling && !wish.models.includes(this.#pulling.model)) this.#abortPull?.abort();
    if (!this.#busy && !this.#retry) void this.#round(this.#process);
  }

  async #round(process: number): Promise<void> {
    this.#busy = true;
    try {
      await this.#go(process);
      if (process !== this.#process) return;
      this.#attempt = 0;
      this.#say(undefined);
    } catch (thrown) {
      if (process !== this.#process) return;
      const ms = fullJitter(this.#attempt++, retry, this.#ports.random.number);
      this.#retry = this.#ports.clock.setTimer(() => (this.#retry = undefined), ms);
      this.#say(messageOf(thrown).slice(0, 300));
    } finally {
      if (process === this.#process) this.#busy = false;
    }
  }

  async #go(process: number): Promise<void> {
    const wish = this.#wish;
    if (!wish) return;
    const { models, port, installed } = wish;
    const same = (a: string, b: string) => this.#live.same(a, b);
    const wanted = (name: string) => models.some((model) => same(model, name));
    const answer = await this.#ask(port, "GET", this.#live.loadedPath);
    // First what is no longer approved: it may hold the memory that the new one needs.
    if (process !== this.#process) return;
    const unwanted = this.#live.readLoaded(answer).filter((name) => !wanted(name));
    for (const name of unwanted) await this.#tell(port, this.#live.unload(name), `model ${name}: unload`);
    const failures: unknown[] = [];
    for (const model of models.filter((name) => !this.#loaded.has(name))) {
      if (process !== this.#process) return;
      try {
        if (!installed.some((name) => same(name, model))) await this.#pull(process, port, model);
        await this.#tell(port, this.#live.load(model), `model ${model}: load`);
      } catch (thrown) {
        if (process !== this.#process) return;
        // One that cannot be had takes nothing from the others.
        failures.push(thrown);
        this.#faults.set(model, messageOf(thrown).slice(0, 300));
        continue;
      }
      if (process !== this.#process) return;
      this.#faults.delete(model);
      if (this.#wish?.models.includes(model)) this.#loaded.add(model);
      this.#ports.log.info({ model }, "model loaded");
      this.#changed();
    }
    if (failures.length > 0) throw failures[0];
  }

  async #pull(process: number, port: number, model: string): Promise<void> {
    const abort = new AbortController();
    this.#abortPull = abort;
    let told = Number.NEGATIVE_INFINITY;
    const tell = (pulling: Pulling) => {
      const now = this.#ports.clock.monotonic();
      if (process !== this.#process || now - told < progressEveryMs) return;
      told = now;
      this.#pulling = pulling;
      this.#ports.log.info(pulling, "the engine pulls a model");
      this.#changed();
    };
    tell({ model, bytes: 0, total: 0 });
    try {
      await pullModel(this.#ports, this.#live, { port, model }, tell, abort.signal);
    } catch (cause) {
      throw new Error(`model ${model}: pull`, { cause });
    } finally {
      if (process === this.#process) this.#pulling = undefined;
    }
  }

  async #tell(port: number, { path, body }: EngineRequest, what: string): Promise<void> {
    try {
      await this.#ask(port, "POST", path, JSON.stringify(body));
    } catch (cause) {
      throw new Error(what, { cause });
    }
  }

  async #ask(port: number, method: "GET" | "POST", path: string, body?: string): Promise<string> {
    const url = `http://${engineHost}:${port}${path}`;
    const answer = await requestBytes(
      this.#ports.http,
      this.#ports.clock,
      { method, url, ...(body !== undefined && { headers: { "content-type": "application/json" }, body }) },
      { maxBytes: maxAnswerBytes, timeoutMs: requestTimeoutMs },
    );
    const text = answer.body.toString("utf8");
    if (answer.status !== 200)
      throw new Error(`the engine answered HTTP ${answer.status}: ${text.slice(0, 200)}`);
    return text;
  }

  #say(problem: string | undefined): void {
    if (problem === this.#problem) return;
    this.#problem = problem;
    if (problem !== undefined) this.#ports.log.warn({ why: problem }, "engine's models; tried again");
    this.#changed();
  }
}
