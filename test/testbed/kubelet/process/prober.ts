import type { Clock, Timer } from "../../../../src/lib/clock.ts";
import type { HandlerOutcome } from "./handler.ts";
import { initialProbeState, observeProbe, type ProbeKind, type ProbeState } from "./probe.ts";
import type { Container, Probe } from "./types.ts";

/** What a {@link Prober} needs. */
export interface ProberOptions {
  readonly clock: Clock;
  /** Carries out one probe; the signal ends it. */
  readonly run: (probe: Probe, signal: AbortSignal) => Promise<HandlerOutcome>;
  /** Told after every verdict that changed. */
  readonly onVerdict: (kind: ProbeKind) => void;
  /** Told after every single failure. */
  readonly onFailure: (kind: ProbeKind, message: string) => void;
}

const kinds: readonly ProbeKind[] = ["startup", "readiness", "liveness"];

/**
 * The probes of one run of a container. Readiness and liveness wait for startup; a probe whose failure ends the
 * container stops with that verdict.
 */
export class Prober {
  readonly #options: ProberOptions;
  readonly #probes = new Map<ProbeKind, Probe>();
  readonly #states = new Map<ProbeKind, ProbeState>();
  readonly #timers = new Map<ProbeKind, Timer>();
  readonly #abort = new AbortController();
  readonly #startedAt: number;

  constructor(container: Container, options: ProberOptions) {
    this.#options = options;
    this.#startedAt = options.clock.monotonic();
    const given = {
      startup: container.startupProbe,
      readiness: container.readinessProbe,
      liveness: container.livenessProbe,
    };
    for (const kind of kinds) {
      const probe = given[kind];
      if (!probe) continue;
      this.#probes.set(kind, probe);
      this.#states.set(kind, initialProbeState(kind));
    }
    if (this.#probes.has("startup")) this.#begin("startup");
    else this.#beginRest();
  }

  /** Startup has passed, or there is no startup probe. */
  get started(): boolean {
    return (this.#states.get("startup")?.verdict ?? "success") === "success";
  }

  get startupFailed(): boolean {
    return this.#states.get("startup")?.verdict === "failure";
  }

  get livenessFailed(): boolean {
    return this.#states.get("liveness")?.verdict === "failure";
  }

  get ready(): boolean {
    return this.started && (this.#states.get("readiness")?.verdict ?? "success") === "success";
  }

  /** Ends one kind of probe, which keeps its verdict. */
  stop(kind: ProbeKind): void {
    this.#timers.get(kind)?.cancel();
    this.#probes.delete(kind);
  }

  /** Ends all probes, those under way too. */
  stopAll(): void {
    for (const kind of kinds) this.stop(kind);
    this.#abort.abort();
  }

  #beginRest(): void {
    this.#begin("readiness");
    this.#begin("liveness");
  }

  #begin(kind: ProbeKind): void {
    const probe = this.#probes.get(kind);
    if (!probe) return;
    const { clock } = this.#options;
    const delay = (probe.initialDelaySeconds ?? 0) * 1000 - (clock.monotonic() - this.#startedAt);
    // The real kubelet probes at ticks that began with the pod, so the first comes anywhere in the first period. What
    // lets a container go on is asked for at once here, what may end it at the latest.
    const first = kind === "liveness" ? periodMs(probe) : 0;
    this.#schedule(kind, Math.max(first, delay));
  }

  #schedule(kind: ProbeKind, ms: number): void {
    const timer = this.#options.clock.setTimer(() => void this.#probe(kind), ms);
    this.#timers.set(kind, timer);
  }

  async #probe(kind: ProbeKind): Promise<void> {
    const { clock, run, onVerdict, onFailure } = this.#options;
    const probe = this.#probes.get(kind);
    if (!probe) return;
    const began = clock.monotonic();
    const attempt = new AbortController();
    const timer = clock.setTimer(() => attempt.abort(), (probe.timeoutSeconds ?? 1) * 1000);
    const outcome = await run(probe, AbortSignal.any([attempt.signal, this.#abort.signal]));
    timer.cancel();
    if (!this.#probes.has(kind)) return;
    const before = this.#states.get(kind) ?? initialProbeState(kind);
    const after = observeProbe(before, probe, outcome.passed);
    this.#states.set(kind, after);
    if (!outcome.passed) onFailure(kind, outcome.message);
    const over =
      kind === "startup" ? after.verdict !== "unknown" : kind === "liveness" && after.verdict === "failure";
    if (over) this.stop(kind);
    else {
      const spent = clock.monotonic() - began;
      this.#schedule(kind, Math.max(0, periodMs(probe) - spent));
    }
    if (kind === "startup" && after.verdict === "success") this.#beginRest();
    if (after.verdict !== before.verdict) onVerdict(kind);
  }
}

function periodMs(probe: Probe): number {
  return (probe.periodSeconds ?? 10) * 1000;
}
