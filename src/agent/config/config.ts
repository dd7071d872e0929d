import { join } from "node:path";
import type { Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { checkAllowed } from "../../protocol/config/release.ts";
import { type Desired, parseDesired } from "../../protocol/desired.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import type { Latest } from "../../protocol/messages.ts";
import type { Ports } from "../ports.ts";
import { standaloneTarget } from "../standalone/wish.ts";
import { Asking } from "./asking.ts";
import { evaluate, recorded, recordOf } from "./evaluate.ts";
import type { ConfigHooks, ConfigOptions, ConfigView } from "./parts.ts";
import { type ConfigStep, type NodeConfig, planStep, weightsIn } from "./plan.ts";
import { ConfigProblems } from "./problems.ts";
import { Releases } from "./releases.ts";
import { ConfigSources } from "./sources.ts";
import { type AppliedRecord, ConfigStore } from "./store.ts";

/** How often files are looked at where no change was noticed. */
const pollMs = 1_000;
const maxTimerMs = 2 ** 31 - 1;

/**
 * Keeps the node on the config that it should run. Each round reads what is wanted and what is known, verifies all of it
 * anew, and takes one step; rounds are level-triggered, so a missed event costs a second at most.
 */
export class ConfigLoop {
  readonly #ports: Ports;
  readonly #options: ConfigOptions;
  readonly #hooks: ConfigHooks;
  readonly #store: ConfigStore;
  readonly #sources: ConfigSources;
  readonly #problems: ConfigProblems;
  readonly #asking: Asking;
  readonly #releases: Releases;
  #desired: Desired | undefined;
  #desiredText: string | undefined;
  #applied: NodeConfig | undefined;
  /** What the process before ran, until its weights are found again or something else is applied. */
  #lastGood: { readonly config: NodeConfig; readonly record: AppliedRecord } | undefined;
  #record: AppliedRecord | undefined;
  /** Applied before the stop that is under way, for which more than one may have been rendered. */
  #previous: { config: NodeConfig; record: AppliedRecord } | undefined;
  #wanted: NodeConfig | undefined;
  #toStage: NodeConfig | undefined;
  #view: ConfigView = {
    desired: undefined,
    releaseSequence: 0,
    target: null,
    staged: null,
    applied: undefined,
    coming: [],
    invalid: "no verified config yet",
    problem: null,
  };
  /** What of the view was told last. */
  #shown = "";
  #takenUp: Promise<void> | undefined;
  #timer: Timer | undefined;
  #round: Promise<void> = Promise.resolve();
  #poked = false;
  /** Why the last round failed, to tell it once. */
  #lastFailure = "";
  #stopped = false;
  readonly #unwatch: (() => void)[] = [];

  constructor(ports: Ports, options: ConfigOptions, hooks: ConfigHooks) {
    this.#ports = ports;
    this.#options = options;
    this.#hooks = hooks;
    this.#desired = options.standalone?.wish;
    this.#store = new ConfigStore(ports.files, options.stateDir);
    this.#sources = new ConfigSources(ports, this.#store, {
      network: options.network,
      mount: options.networkDir,
      endpoints: options.endpoints,
    });
    this.#problems = new ConfigProblems(ports.log);
    this.#asking = new Asking(ports);
    this.#releases = new Releases({
      root: options.root,
      store: this.#store,
      sources: this.#sources,
      problems: this.#problems,
      asking: this.#asking,
      log: ports.log,
    });
  }

  get view(): ConfigView {
    return this.#view;
  }

  /** Takes up the last good config from disk, so that a host that was rebooted need not ask anybody. */
  takeUp(): Promise<void> {
    this.#takenUp ??= this.#exclusive(() => this.#restore());
    return this.#takenUp;
  }

  /** Begins; resolves after the first round. */
  async start(): Promise<void> {
    await this.takeUp();
    for (const dir of [this.#options.podDir, this.#options.networkDir]) {
      if (dir !== undefined) this.#unwatch.push(this.#ports.files.watch(dir, () => this.poke()));
    }
    this.poke();
    await this.#round;
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    for (const stop of this.#unwatch) stop();
  }

  /** Takes a round soon. */
  poke(): void {
    if (this.#poked || this.#stopped) return;
    this.#poked = true;
    void this.#exclusive(async () => {
      this.#poked = false;
      await this.#reconcile();
    });
  }

  /** The service has told, signed, what is current. */
  learnLatest({ release_sequence: sequence }: Latest): void {
    const keep = this.#releases.learn(sequence);
    if (!keep) return;
    void this.#exclusive(keep);
    this.poke();
  }

  /** The node is drained for a restart of the engine: applies what is wanted. */
  restartNow(): Promise<void> {
    return this.#exclusive(async () => {
      if (this.#wanted && this.#isReady(this.#wanted)) await this.#apply(this.#wanted, "now");
    });
  }

  /**
   * The node is drained for a stop of its container: what comes after it starts with what is wanted.
   *
   * @param isAwaited false once the stop is over: rendered later, nobody would take it up.
   */
  applyForStop(isAwaited: () => boolean = () => true): Promise<void> {
    return this.#exclusive(async () => {
      // The kubelet waits: what would have to be asked for now comes too late for this stop.
      await this.#reconcile(false);
      if (!isAwaited()) return;
      const wanted = this.#wanted;
      const step = this.#step();
      if (!wanted || (step.do !== "await-stop" && step.do !== "restart")) return;
      if (this.#applied && this.#record) this.#previous = { config: this.#applied, record: this.#record };
      await this.#apply(wanted, "next");
    });
  }

  /** No stop followed: what was applied for it is taken back. */
  revert(): Promise<void> {
    return this.#exclusive(async () => {
      const previous = this.#previous;
      if (!previous) return;
      await this.#hooks.restore();
      await this.#store.saveApplied(previous.record);
      this.#applied = previous.config;
      this.#record = previous.record;
      this.#previous = undefined;
      this.#show();
      this.poke();
    });
  }

  /** The stop is over, the runtime runs anew. */
  settled(): void {
    this.#previous = undefined;
    this.poke();
  }

  /** One thing at a time touches disk and engine. Failures are told and tried again. */
  #exclusive(act: () => Promise<void>): Promise<void> {
    this.#round = this.#round.then(act).catch((thrown: unknown) => {
      const why = messageOf(thrown);
      if (why !== this.#lastFailure)
        this.#ports.log.error({ why }, "config: a round failed; tried again every second");
      this.#lastFailure = why;
      this.#schedule(pollMs);
    });
    return this.#round;
  }

  async #restore(): Promise<void> {
    await this.#releases.restore();
    const record = await this.#store.applied();
    const snapshot = record && (await this.#sources.snapshot(record.digest, false));
    if (!record || !snapshot) return;
    try {
      const config = recorded(record, snapshot);
      this.#lastGood = { config, record };
      this.#wantWeights();
      await this.#hooks.weights.looked();
      await this.#resume();
    } catch (thrown) {
      this.#lastGood = undefined;
      this.#ports.log.warn({ why: messageOf(thrown) }, "the last good config cannot be taken up again");
    }
    this.#show();
  }

  /** Takes up what the process before ran, once its weights are found. */
  async #resume(): Promise<void> {
    if (!this.#lastGood || !this.#isReady(this.#lastGood.config)) return;
    const { config, record } = this.#lastGood;
    this.#lastGood = undefined;
    await this.#hooks.render(config, "now");
    this.#applied = config;
    this.#record = record;
  }

  /** Weights of what runs come first, then of what is to come. */
  #wantWeights(): void {
    const configs = [
      this.#applied,
      this.#previous?.config,
      this.#lastGood?.config,
      this.#wanted,
      this.#toStage,
    ];
    const mirrors = this.#desired?.mirrors ?? this.#options.standalone?.mirrors ?? [];
    this.#hooks.weights.want(
      configs.flatMap((config) => (config ? weightsIn(config) : [])),
      mirrors,
    );
  }

  #isReady(config: NodeConfig): boolean {
    return this.#hooks.weights.ready(weightsIn(config));
  }

  /** Weights that cannot be had are a problem of the config that needs them; weights that are on their way are none. */
  #noteWeights(what: "target" | "stage", config: NodeConfig | undefined): void {
    const problem = config && this.#hooks.weights.problem(weightsIn(config));
    if (problem !== undefined) this.#problems.note(what, config?.digest ?? null, new Error(problem));
  }

  /** @param ask false: without asking the service for anything. */
  async #reconcile(ask = true): Promise<void> {
    if (this.#stopped) return;
    this.#asking.allowed = ask;
    await this.#readDesired();
    await this.#releases.readMount();
    await this.#releases.fetch();
    const target = this.#target();
    this.#wanted = await this.#evaluate("target", target);
    const stage = this.#desired?.stage ?? null;
    this.#toStage = await this.#evaluate("stage", stage);
    this.#wantWeights();
    await this.#hooks.weights.looked();
    this.#noteWeights("target", this.#wanted);
    this.#noteWeights("stage", this.#toStage);
    await this.#noteStarts();
    if (!this.#applied) await this.#resume();
    await this.#take(this.#step());
    await this.#sources.keep(
      [
        target,
        stage,
        this.#applied?.digest,
        this.#lastGood?.config.digest,
        this.#previous?.config.digest,
      ].filter((digest) => digest != null),
    );
    if (this.#problems.first === null) this.#asking.reset();
    this.#problems.settle();
    this.#lastFailure = "";
    const staged = this.#toStage && this.#isReady(this.#toStage) ? this.#toStage.digest : null;
    this.#view = { ...this.#view, target, staged };
    this.#show();
    this.#schedule(pollMs);
  }

  async #readDesired(): Promise<void> {
    const { podDir } = this.#options;
    if (podDir === undefined) return;
    const text = (await this.#ports.files.read(join(podDir, "desired")))?.toString("utf8") ?? "";
    if (text === this.#desiredText) return;
    this.#desiredText = text;
    this.#problems.clear("desired");
    // Empty until the operator has written the annotation.
    if (text.trim() === "") return;
    try {
      this.#desired = parseDesired(text);
    } catch (thrown) {
      this.#problems.note("desired", null, thrown);
    }
  }

  #target(): ConfigDigest | null {
    const applied = (this.#applied ?? this.#lastGood?.config)?.digest ?? null;
    if (this.#options.podDir === undefined) {
      const { standalone = { pin: undefined, windows: [] } } = this.#options;
      return standaloneTarget(standalone, this.#releases.current, applied, this.#ports.clock.now());
    }
    if (!this.#desired) return applied;
    return this.#desired.target ?? applied ?? this.#releases.current?.current ?? null;
  }

  /** Verifies a digest for this node; undefined when it cannot be applied, with the problem noted. */
  async #evaluate(what: "target" | "stage", digest: ConfigDigest | null): Promise<NodeConfig | undefined> {
    this.#problems.clear(what);
    const release = this.#releases.current;
    if (digest === null || !release) return undefined;
    try {
      checkAllowed(release, digest, this.#ports.clock.now());
      const snapshot = await this.#sources.snapshot(digest, this.#asking.may);
      if (!snapshot) {
        throw new Error(`config ${digest} is not in the ConfigMap, and the service is asked again later`);
      }
      return evaluate(digest, snapshot, this.#desired, this.#options.agentVersion);
    } catch (thrown) {
      if (!(thrown instanceof ProtocolError)) this.#asking.failed();
      this.#problems.note(what, digest, thrown);
      return undefined;
    }
  }

  /**
   * The step towards what is wanted. No stop comes where nothing runs, as in a new pod or after a stop whose image does
   * not come; a container that was replaced without a drain counts as the stop awaited.
   */
  #step(): ConfigStep {
    // What runs goes on until all that comes after it is there.
    if (this.#wanted && !this.#isReady(this.#wanted)) return { do: "nothing" };
    const plannedStop = this.#desired?.plannedStop ?? null;
    const step = planStep(this.#applied, this.#wanted, plannedStop);
    if (step.do !== "await-stop" || !this.#record) return step;
    const starts = this.#hooks.launcherStarts() ?? 0;
    const expected = this.#record.starts;
    if (this.#options.podDir !== undefined && (starts === 0 || starts < expected))
      return { do: "prepare", reason: `${step.reason}; no container runs` };
    // The first of all is no replacement: it was begun for what was applied before it.
    return starts > Math.max(1, expected)
      ? { do: "restart", reason: `${step.reason}; the container has been replaced meanwhile` }
      : step;
  }

  async #take(step: ConfigStep): Promise<void> {
    switch (step.do) {
      case "nothing":
        return;
      case "await-stop":
        this.#tellOwner(step.reason);
        return;
      case "start":
        if (this.#wanted) await this.#apply(this.#wanted, "now");
        return;
      case "prepare":
        // Not `now`: a container whose stop is under way, or that has not been heard of yet, is left alone.
        if (this.#wanted) await this.#apply(this.#wanted, "next");
        return;
      case "live":
        if (!this.#wanted) return;
        await this.#hooks.live(this.#wanted);
        await this.#keep(this.#wanted, this.#record?.starts ?? 0);
        return;
      case "restart":
        return this.#hooks.wantRestart(step.reason);
    }
  }

  /** Without an operator nobody stops the runtime by himself: its owner must know that it is awaited. */
  #tellOwner(reason: string): void {
    const wanted = this.#wanted;
    if (this.#options.podDir !== undefined || !wanted) return;
    const { version } = wanted.snapshot;
    const { image } = wanted.selection.runtime;
    const words = `config ${version} waits for a stop of the runtime (${reason}): install the engine of ${image} here, then restart the launcher (systemctl restart resultity-runtime)`;
    this.#problems.note("target", wanted.digest, new ProtocolError("no_runtime", words));
  }

  async #apply(config: NodeConfig, when: "now" | "next"): Promise<void> {
    const starts = this.#hooks.launcherStarts() ?? 0;
    await this.#hooks.render(config, when);
    await this.#keep(config, when === "now" ? starts : starts + 1);
    this.#ports.log.info({ digest: config.digest, version: config.snapshot.version, when }, "config applied");
    this.#show();
    this.poke();
  }

  async #keep(config: NodeConfig, starts: number): Promise<void> {
    const record = recordOf(config, this.#desired, starts);
    await this.#store.saveApplied(record);
    this.#applied = config;
    this.#record = record;
    this.#lastGood = undefined;
  }

  /** While no stop is awaited, the container that runs is the one that the applied config is for. */
  async #noteStarts(): Promise<void> {
    const starts = this.#hooks.launcherStarts();
    if (starts === undefined || !this.#record || starts === this.#record.starts || this.#previous) return;
    const plannedStop = this.#desired?.plannedStop ?? null;
    const { do: step } = planStep(this.#applied, this.#wanted, plannedStop);
    if (step === "await-stop") return;
    this.#record = { ...this.#record, starts };
    await this.#store.saveApplied(this.#record);
  }

  #show(): void {
    const problem = this.#problems.first;
    this.#view = {
      ...this.#view,
      desired: this.#desired,
      releaseSequence: this.#releases.known,
      applied: this.#applied,
      coming: [this.#lastGood?.config, this.#wanted, this.#toStage].filter((config) => config !== undefined),
      invalid: this.#invalid(),
      problem,
    };
    const { target, staged, applied, coming, invalid, releaseSequence } = this.#view;
    const selected = applied && [applied.digest, applied.selection.models, applied.args];
    const key = JSON.stringify([
      this.#desiredText,
      releaseSequence,
      target,
      staged,
      selected,
      coming.map(({ digest }) => digest),
      invalid,
      problem,
    ]);
    if (key === this.#shown) return;
    this.#shown = key;
    this.#hooks.changed();
  }

  #invalid(): string | undefined {
    if (!this.#applied) {
      const [next] = this.#view.coming;
      return next
        ? `the weights of config ${next.snapshot.version} are not there yet`
        : "no verified config yet";
    }
    const release = this.#releases.current;
    if (!release) return "no verified release yet";
    try {
      checkAllowed(release, this.#applied.digest, this.#ports.clock.now());
      return undefined;
    } catch (thrown) {
      return messageOf(thrown).slice(0, 300);
    }
  }

  #schedule(ms: number): void {
    if (this.#stopped) return;
    this.#timer?.cancel();
    this.#timer = this.#ports.clock.setTimer(() => this.poke(), Math.min(ms, maxTimerMs));
  }
}
