import type { Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { engineHealth } from "../../protocol/messages.ts";
import { requestBytes } from "../http-bytes.ts";
import type { Ports } from "../ports.ts";
import type { EngineAdapter, EngineLoad } from "./adapter.ts";
import { engineHost } from "./argv.ts";
import { LiveLoader } from "./live.ts";
import type { Pulling } from "./pull.ts";
import { ModelProofs } from "./proof.ts";

export type EngineHealth = (typeof engineHealth)[number];

/** What the agent has last seen of its engine. */
export interface EngineView {
  readonly health: EngineHealth;
  /** Why it is not healthy, for people. */
  readonly reason?: string;
  readonly version: string | null;
  /** Models that it listed last, also if it is not healthy now. */
  readonly installed: readonly string[];
  /** Wanted models that it serves now, each of which has answered a test request; empty unless healthy. */
  readonly active: readonly string[];
  /** Why wanted models that it lists cannot be loaded or do not answer, by model. */
  readonly faults: Readonly<Record<string, string>>;
  /** Model that it is pulling now. */
  readonly pulling: Pulling | undefined;
}

/** Where the engine is and what it is to serve. */
export interface EnginePlace {
  readonly adapter: EngineAdapter;
  readonly port: number;
  readonly models: readonly string[];
}

/** Poll intervals: an engine that starts or fails is awaited, one that serves is left alone. */
const startingPollMs = 250;
const healthyPollMs = 2_000;
/** A healthy engine is unhealthy after this many failures in a row: one may be a hiccup under load. */
const failuresAllowed = 2;
const pollTimeoutMs = 5_000;
/** How old the engine's own load may get: reading it costs vLLM some 100 kB of metrics. */
const loadEveryMs = 10_000;
/** An engine that was healthy and does not answer for this long is taken for hung. */
export const hungAfterMs = 60_000;

const nothingServed = { installed: [], active: [], faults: {}, pulling: undefined } as const;

/** Polls the engine's health and models. */
export class EngineWatch {
  readonly #ports: Ports;
  readonly #changed: () => void;
  readonly #hung: (() => void) | undefined;
  #place: EnginePlace | undefined;
  /** Of engines that load models while they serve; for the place that is watched. */
  #loader: LiveLoader | undefined;
  readonly #proofs: ModelProofs;
  #load: EngineLoad | null = null;
  #loadAt = Number.NEGATIVE_INFINITY;
  #view: EngineView = { health: "stopped", version: null, ...nothingServed };
  #failures = 0;
  /** Monotonic time of the last good answer of this place's engine. */
  #lastGood: number | undefined;
  #timer: Timer | undefined;
  #round = 0;
  /** Place that is being asked now. */
  #looking: EnginePlace | undefined;

  /**
   * @param changed called after each change of {@link view}.
   * @param hung called when an engine that had been healthy has kept its port open without an answer for a minute.
   */
  constructor(ports: Ports, changed: () => void, hung?: () => void) {
    this.#ports = ports;
    this.#changed = changed;
    this.#hung = hung;
    this.#proofs = new ModelProofs(ports, () => this.look());
  }

  get view(): EngineView {
    return this.#view;
  }

  /** Requests inside the engine, at most some seconds old; null = unknown. */
  get load(): EngineLoad | null {
    return this.#load;
  }

  get place(): EnginePlace | undefined {
    return this.#place;
  }

  /** Watches another place from now on; undefined = nothing runs. */
  watch(place: EnginePlace | undefined): void {
    const moved = place?.port !== this.#place?.port || place?.adapter !== this.#place?.adapter;
    this.#place = place;
    if (moved || !place) {
      this.#loader?.reset();
      this.#proofs.reset();
      const live = place?.adapter.live;
      this.#loader = live && new LiveLoader(this.#ports, live, () => this.look());
      this.#forgetLoad();
      this.#lastGood = undefined;
      this.#failures = 0;
      this.#show({ health: place ? "starting" : "stopped", version: null, ...nothingServed });
    }
    this.look();
  }

  /** The engine's process is a new one: it has the patience that any start has, and serves once it has been seen to. */
  restarted(): void {
    this.#lastGood = undefined;
    this.#loader?.reset();
    this.#proofs.reset();
    this.#forgetLoad();
    const { version, installed } = this.#view;
    if (this.#place) this.#show({ ...nothingServed, health: "starting", version, installed });
    this.look();
  }

  /** Looks at once, for example because a request has just failed. */
  look(): void {
    // The look that is under way will tell as much; a new one each time would never let any come to its end.
    if (!this.#place || this.#looking === this.#place) return;
    this.#timer?.cancel();
    this.#looking = this.#place;
    void this.#poll(this.#place, ++this.#round);
  }

  stop(): void {
    this.#place = undefined;
    this.#loader?.reset();
    this.#proofs.reset();
    this.#round++;
    this.#timer?.cancel();
  }

  async #poll(place: EnginePlace, round: number): Promise<void> {
    const { adapter } = place;
    let outcome: { readonly models: readonly string[] } | { readonly reason: string };
    try {
      if (adapter.healthPath !== undefined) await this.#get(place, adapter.healthPath, true);
      outcome = { models: adapter.readModels(await this.#get(place, adapter.modelsPath)) };
    } catch (thrown) {
      outcome = { reason: messageOf(thrown).slice(0, 300) };
    }
    if (round !== this.#round) return;
    if ("models" in outcome) await this.#good(place, outcome.models, round);
    else this.#bad(outcome.reason);
    if (round !== this.#round) return;
    this.#looking = undefined;
    const well = this.#view.health === "healthy" && this.#failures === 0;
    const next = well ? healthyPollMs : startingPollMs;
    this.#timer = this.#ports.clock.setTimer(() => this.look(), next);
  }

  async #good(place: EnginePlace, listed: readonly string[], round: number): Promise<void> {
    const first = this.#lastGood === undefined || this.#view.health !== "healthy";
    this.#lastGood = this.#ports.clock.monotonic();
    this.#failures = 0;
    const version = first ? await this.#version(place) : this.#view.version;
    await this.#readLoad(place, round);
    if (round !== this.#round) return;
    const loader = this.#loader;
    loader?.want({ port: place.port, models: place.models, installed: listed });
    const loaded = place.models.filter((model) => listed.includes(model) && (loader?.has(model) ?? true));
    this.#proofs.want(place.port, loaded);
    const active = loaded.filter((model) => this.#proofs.has(model));
    const missing = place.models.filter((model) => !active.includes(model));
    const faults = { ...loader?.faults, ...this.#proofs.faults };
    const [fault] = Object.values(faults);
    const why = fault ?? loader?.problem;
    this.#show({
      health: this.#healthWith(active, missing),
      ...(missing.length > 0 && {
        reason:
          `engine does not serve ${missing.slice(0, 3).join(", ")} yet${why === undefined ? "" : `: ${why}`}`.slice(
            0,
            500,
          ),
      }),
      version,
      installed: listed,
      active,
      faults,
      pulling: loader?.pulling,
    });
  }

  /** Where models come and go while the engine serves, one that is not there yet takes nothing from the others. */
  #healthWith(active: readonly string[], missing: readonly string[]): EngineHealth {
    if (missing.length === 0 || (this.#loader && active.length > 0)) return "healthy";
    return "starting";
  }

  #bad(reason: string): void {
    this.#failures++;
    const wasGood = this.#lastGood !== undefined;
    if (wasGood && this.#view.health === "healthy" && this.#failures < failuresAllowed) return;
    const { version, installed, faults, pulling } = this.#view;
    const health = wasGood ? "unhealthy" : "starting";
    this.#show({ health, reason, version, installed, active: [], faults, pulling });
    const silentFor = this.#ports.clock.monotonic() - (this.#lastGood ?? Number.POSITIVE_INFINITY);
    if (silentFor >= hungAfterMs && this.#hung) {
      // The replacement gets a full start's patience.
      this.#lastGood = undefined;
      this.#hung();
    }
  }

  async #version(place: EnginePlace): Promise<string | null> {
    for (const path of place.adapter.versionPaths) {
      try {
        const version = place.adapter.readVersion(await this.#get(place, path));
        if (version !== null) return version;
      } catch {
        // Not all engines of a kind have all paths; a version that none tells is unknown, which is no fault.
      }
    }
    return null;
  }

  async #readLoad(place: EnginePlace, round: number): Promise<void> {
    const { loadPath } = place.adapter;
    const now = this.#ports.clock.monotonic();
    if (loadPath === undefined || now - this.#loadAt < loadEveryMs) return;
    this.#loadAt = now;
    let load: EngineLoad | null = null;
    try {
      load = place.adapter.readLoad(await this.#get(place, loadPath));
    } catch {
      // Metrics can be switched off; then the load is unknown.
    }
    if (round === this.#round) this.#load = load;
  }

  #forgetLoad(): void {
    this.#load = null;
    this.#loadAt = Number.NEGATIVE_INFINITY;
  }

  /** @param optional a path that the engine does not have counts as a good answer, an empty one. */
  async #get(place: EnginePlace, path: string, optional = false): Promise<string> {
    const url = `http://${engineHost}:${place.port}${path}`;
    const { http, clock } = this.#ports;
    const limits = { maxBytes: 1024 * 1024, timeoutMs: pollTimeoutMs };
    const answer = await requestBytes(http, clock, { method: "GET", url }, limits);
    if (optional && answer.status === 404) return "";
    if (answer.status !== 200) throw new Error(`engine's ${path} answered HTTP ${answer.status}`);
    return answer.body.toString("utf8");
  }

  #show(view: EngineView): void {
    const before = JSON.stringify(this.#view);
    this.#view = view;
    if (JSON.stringify(view) !== before) this.#changed();
  }
}
