import { sleep, type Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { NodeConfig } from "../config/plan.ts";
import { adapterOf } from "../engine/adapters.ts";
import type { EngineWatch } from "../engine/watch.ts";
import type { Ports } from "../ports.ts";
import { EngineCrashes } from "./crashes.ts";
import type { Generation, LaunchDir, LauncherState } from "./launch-dir.ts";

/** What happens to the runtime container. */
export type RuntimeEvent = "stopping" | "back";

/** How often the launcher's state is read. */
const pollMs = 500;
/** How long a launcher may take from its start until it can be told to end, ms; and how often it is looked for then. */
const [launcherStartMs, launcherLookMs] = [5_000, 100];
/** An engine that runs another generation than the launcher was pointed at for this long is moved to it. */
const strayAfterMs = 30_000;

type Wanted = Omit<Generation, "number" | "port">;

const sameList = (a: readonly string[], b: readonly string[]): boolean =>
  JSON.stringify(a) === JSON.stringify(b);

/**
 * True when an engine that runs `current` is the one that `wanted` asks for. Both are rendered anew, so an agent whose
 * adapter has learnt a flag leaves the engine of the agent before it alone.
 */
function sameEngine(current: Generation, wanted: Wanted): boolean {
  const adapter = adapterOf(wanted.engine);
  if (current.engine !== wanted.engine) return false;
  if (!adapter.live && !sameList(current.models, wanted.models)) return false;
  const asWanted = adapter.start({ ...wanted, port: current.port });
  return JSON.stringify(adapter.start(current)) === JSON.stringify(asWanted);
}

/** Has the launcher run what the config says, and tells what becomes of it. */
export class EngineControl {
  readonly #ports: Ports;
  readonly #dir: LaunchDir;
  readonly #watch: EngineWatch;
  readonly #event: (event: RuntimeEvent) => void;
  readonly #restartable: boolean;
  readonly #crashes = new EngineCrashes();
  #current: Generation | undefined;
  #previous: Generation | undefined;
  #state: LauncherState | undefined;
  #straySince: number | undefined;
  /** A render for a container that is about to begin anew has not been taken up yet. */
  #pending = false;
  #timer: Timer | undefined;
  #looking: Promise<void> = Promise.resolve();
  #stopped = false;

  /** @param restartable whether somebody begins the launcher's container anew when it ends, as the kubelet does. */
  constructor(
    ports: Ports,
    dir: LaunchDir,
    watch: EngineWatch,
    event: (event: RuntimeEvent) => void,
    restartable = false,
  ) {
    this.#restartable = restartable;
    this.#ports = ports;
    this.#dir = dir;
    this.#watch = watch;
    this.#event = event;
  }

  /** Writes the launcher and finds what it runs already. */
  async start(): Promise<void> {
    await this.#dir.writeScript();
    this.#current = await this.#dir.current();
    await this.#poll();
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  get current(): Generation | undefined {
    return this.#current;
  }

  /** Times that the engine has ended by itself since it last served. */
  get crashes(): number {
    return this.#crashes.count;
  }

  get launcher(): LauncherState | undefined {
    return this.#state;
  }

  /**
   * Renders the engine's command line and points the launcher at it. What is the same but for the port stays as it is,
   * so an agent that starts anew finds its engine running.
   *
   * @param modelPaths folders of the models that have files.
   * @param when `now`: the running engine is replaced. `next`: it is left alone until its container begins anew.
   */
  async render(
    config: NodeConfig,
    modelPaths: Readonly<Record<string, string>>,
    when: "now" | "next",
  ): Promise<void> {
    const { runtime, models } = config.selection;
    const { engine, command } = runtime;
    const wanted = { engine, command, args: config.args, models, modelPaths, gpuCount: config.gpuCount };
    if (!this.#pending) this.#previous = this.#current;
    if (!this.#current || !sameEngine(this.#current, wanted)) await this.#begin(wanted, when);
    else await this.#serve(models);
    this.#watchCurrent();
  }

  /** Has the running engine serve these models. Nothing happens where models come with the command line. */
  async models(config: NodeConfig): Promise<void> {
    if (!this.#current || !adapterOf(this.#current.engine).live) return;
    await this.#serve(config.selection.models);
    this.#watchCurrent();
  }

  async #serve(models: readonly string[]): Promise<void> {
    const current = this.#current;
    if (!current || sameList(current.models, models)) return;
    const generation = { ...current, models };
    await this.#dir.write(generation, adapterOf(current.engine).start(generation));
    this.#current = generation;
  }

  /** Goes back to what runs: nothing has taken up what was rendered for `next` since. */
  async restore(): Promise<void> {
    const previous = this.#previous;
    if (!previous || previous.number === this.#current?.number) return;
    await this.#dir.point(previous.number, false);
    this.#current = previous;
    this.#pending = false;
    this.#watchCurrent();
  }

  /** Has the launcher replace the engine by a new one with the same command line, on another port. */
  async replace(): Promise<void> {
    const current = this.#current;
    if (!current) return;
    await this.#begin(current, "now");
    this.#watchCurrent();
  }

  async #begin(what: Wanted, when: "now" | "next"): Promise<void> {
    const number = (await this.#dir.lastNumber()) + 1;
    const generation = { ...what, number, port: await this.#ports.host.freePort() };
    await this.#dir.write(generation, adapterOf(generation.engine).start(generation));
    await this.#dir.point(number, when === "now");
    await this.#dir.prune([number, this.#current?.number ?? number, this.#previous?.number ?? number]);
    this.#current = generation;
    this.#pending = when === "next";
    this.#straySince = undefined;
  }

  #watchCurrent(): void {
    const current = this.#current;
    this.#watch.watch(
      current && { adapter: adapterOf(current.engine), port: current.port, models: current.models },
    );
  }

  /**
   * Resolves when the launcher that is about to be stopped has said that it can be told to, or has had time to. Whoever asks knows
   * that its container runs: a launcher that has ended, or none, means one that has only just been started, and process 1 of a
   * container misses a signal that comes too early.
   */
  async listening(): Promise<void> {
    const { clock } = this.#ports;
    const until = clock.monotonic() + launcherStartMs;
    const hasEnded = () => !this.#state || (this.#state.phase === "stopping" && this.#state.pid === 0);
    await this.#look();
    while (this.#restartable && hasEnded() && !this.#stopped && clock.monotonic() < until) {
      await sleep(clock, launcherLookMs);
      await this.#look();
    }
  }

  async #poll(): Promise<void> {
    await this.#look();
    if (!this.#stopped) this.#timer = this.#ports.clock.setTimer(() => void this.#poll(), pollMs);
  }

  /** One look at a time: each change is told once. */
  #look(): Promise<void> {
    this.#looking = this.#looking.then(() => this.#see());
    return this.#looking;
  }

  async #see(): Promise<void> {
    try {
      const before = this.#state;
      const state = await this.#dir.state();
      if (state) {
        this.#state = state;
        this.#crashes.see(state);
        if (this.#watch.view.health === "healthy") this.#crashes.served();
        await this.#escalate(state);
        if (before) this.#tellChange(before, state);
        else this.#pending = false;
        await this.#gather(state);
      }
    } catch (thrown) {
      this.#ports.log.warn({ why: messageOf(thrown) }, "the launcher's state cannot be read");
    }
  }

  #tellChange(before: LauncherState, state: LauncherState): void {
    if (state.starts !== before.starts) {
      this.#pending = false;
      // First: who hears of it serves again at once if the engine does, which may have been seen of the one before.
      this.#watch.restarted();
      this.#event("back");
    } else if (state.phase === "stopping" && before.phase !== "stopping") {
      this.#event("stopping");
    } else if (state.crashes !== before.crashes) {
      this.#ports.log.warn(
        { exitCode: state.exitCode, crashes: state.crashes },
        "the engine ended; restarted",
      );
      this.#watch.restarted();
    }
  }

  /** The launcher starts a crashed engine again and again; what is left of the one before ends with its container. */
  async #escalate({ starts }: LauncherState): Promise<void> {
    if (!this.#restartable || !this.#crashes.wantsContainer()) return;
    this.#ports.log.error(
      { crashes: this.#crashes.count },
      "the engine ends again and again; its container is begun anew",
    );
    await this.#dir.leave(starts);
  }

  /** An agent that died between rendering for a stop and the stop leaves an engine that nobody points at. */
  async #gather(state: LauncherState): Promise<void> {
    const number = this.#current?.number;
    if (number === undefined || this.#pending || state.phase !== "running" || state.generation === number) {
      this.#straySince = undefined;
      return;
    }
    const now = this.#ports.clock.monotonic();
    this.#straySince ??= now;
    if (now - this.#straySince < strayAfterMs) return;
    this.#straySince = undefined;
    await this.#dir.point(number, true);
  }
}
