import { join } from "node:path";
import { sleep, type Timer } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import type { Report } from "../protocol/messages.ts";
import { sealStatus } from "../protocol/status.ts";
import { ConfigLoop } from "./config/config.ts";
import { weightsIn } from "./config/plan.ts";
import {
  type DrainAction,
  type DrainCause,
  type DrainEvent,
  DrainMachine,
  type JobCount,
} from "./drain/drain.ts";
import { EngineWatch } from "./engine/watch.ts";
import type { NodeIdentity } from "./identity.ts";
import { type Capacity, Jobs, type JobsChange } from "./jobs/jobs.ts";
import { Results } from "./jobs/results.ts";
import { HttpTransfers } from "./jobs/transfers.ts";
import { EngineControl, type RuntimeEvent } from "./launcher/engine-control.ts";
import { LaunchDir } from "./launcher/launch-dir.ts";
import { Models } from "./models/models.ts";
import { modelStates, wantedModels } from "./models/states.ts";
import type { ModelWorld } from "./models/world.ts";
import type { GpuSource } from "./telemetry/gpu.ts";
import { GpuWatch, reportedGpus } from "./telemetry/gpu-watch.ts";
import type { Ports } from "./ports.ts";
import type { ReceiptKeeper } from "./receipts/keeper.ts";
import { NodeHttp } from "./session/http-node.ts";
import { KeyRollover } from "./session/rollover.ts";
import { Session } from "./session/session.ts";
import type { Standalone } from "./standalone/wish.ts";

/** Longest time that a stop waits for what is to come after it to be rendered, ms. Without it the engine is started once more. */
const renderMs = 10_000;

/** What one agent is started with. */
export interface AgentOptions {
  readonly identity: NodeIdentity;
  /** Folder from which it was read, and from which the node takes up other keys; undefined = its key never changes. */
  readonly identityDir?: string | undefined;
  readonly agentVersion: string;
  /** HTTP base URLs of the service. */
  readonly endpoints: readonly string[];
  /** State of its own: known release, last good config; results of durable jobs until they are acknowledged. */
  readonly stateDir: string;
  /** Folder shared with the launcher. */
  readonly launchDir: string;
  /** Mount of the network's ConfigMap; undefined = none. */
  readonly networkDir: string | undefined;
  /** Folder with the operator's `desired`; undefined = standalone. */
  readonly podDir: string | undefined;
  /** How a node without an operator decides by itself. */
  readonly standalone?: Standalone | undefined;
  /** Keeps countersigned receipts; undefined = nobody does. */
  readonly receipts?: ReceiptKeeper | undefined;
  /** How long a drain may take when nobody says (standalone without a wish). */
  readonly drainTimeoutMs: number;
  /** Folder of models, which other agents may use too; undefined = /models. */
  readonly modelsDir?: string | undefined;
  /** Most bytes in it; undefined = as its disk has. */
  readonly modelsMaxBytes?: number | undefined;
  /** What keeps models on disk; undefined = nothing: configs that name files of models are not applied. */
  readonly models?: ModelWorld | undefined;
  /** Who tells of the node's GPUs; undefined = nobody. */
  readonly gpus?: GpuSource | undefined;
}

/** Most bytes of one job's output, whatever the config allows: it is held in memory until acknowledged. */
const maxHeldOutputBytes = 32 * 1024 * 1024;

/** Results of durable jobs on the disk: few, because no offers come while the service cannot acknowledge. */
const resultLimits = { count: 256, bytes: 2 * maxHeldOutputBytes, each: maxHeldOutputBytes };

/** One agent: session, jobs, config, engine and drain, wired together. No I/O but through its ports. */
export class Agent {
  readonly #ports: Ports;
  readonly #options: AgentOptions;
  readonly #instance: string;
  readonly #config: ConfigLoop;
  readonly #watch: EngineWatch;
  readonly #control: EngineControl;
  readonly #session: Session;
  readonly #jobs: Jobs;
  readonly #results: Results;
  readonly #rollover: KeyRollover;
  readonly #gpus: GpuWatch;
  readonly #models: Models;
  readonly #drain = new DrainMachine();
  #drainTimer: Timer | undefined;
  #drainWaiters: (() => void)[] = [];
  /** What a drained node does before it says so. */
  #afterDrain: Promise<void> = Promise.resolve();
  #leaving: Promise<void> | undefined;
  #lastReport = "";

  constructor(ports: Ports, options: AgentOptions) {
    this.#ports = ports;
    this.#options = options;
    this.#instance = ports.random.bytes(16);
    const { identity, agentVersion, endpoints } = options;
    this.#watch = new EngineWatch(
      ports,
      () => this.#changed(),
      () => this.#engineHung(),
    );
    this.#gpus = new GpuWatch(ports.clock, ports.log, options.gpus, () => this.#changed());
    this.#control = new EngineControl(
      ports,
      new LaunchDir(ports.files, options.launchDir),
      this.#watch,
      (event) => this.#runtime(event),
      options.podDir !== undefined,
    );
    const { stateDir, modelsDir = "/models", modelsMaxBytes } = options;
    this.#models = new Models(ports, options.models, { stateDir, modelsDir, modelsMaxBytes }, () => {
      this.#changed();
      this.#config.poke();
    });
    this.#config = new ConfigLoop(
      ports,
      { ...options, network: identity.network, root: identity.root },
      {
        launcherStarts: () => this.#control.launcher?.starts,
        weights: this.#models,
        render: (config, when) => this.#control.render(config, this.#models.folders(weightsIn(config)), when),
        live: (config) => this.#control.models(config),
        restore: () => this.#control.restore(),
        wantRestart: (reason) => this.#restartEngine(reason),
        changed: () => this.#changed(),
      },
    );
    const nodeHttp = new NodeHttp(ports, identity, agentVersion);
    this.#session = new Session(
      ports,
      {
        endpoints,
        identity: {
          nodeId: identity.nodeId,
          get key() {
            return identity.key;
          },
          network: identity.network,
          instance: this.#instance,
          agentVersion,
        },
        root: identity.root,
      },
      nodeHttp,
      {
        now: () => ports.clock.now(),
        random: ports.random.number,
        nonce: () => ports.random.bytes(32),
        report: () => this.report(),
        leases: () => this.#jobs.leases(),
        held: () => this.#jobs.held(),
        releaseSequence: () => this.#config.view.releaseSequence,
        otherKey: (refused) => identity.keys.useAnother(refused),
      },
      {
        opened: () => this.#sessionOpened(),
        ended: () => this.#jobs.sessionEnded(),
        latest: (latest) => this.#config.learnLatest(latest),
        frame: (frame) => this.#jobs.frame(frame),
        lost: (leases) => this.#jobs.lost(leases),
      },
    );
    this.#results = new Results(ports, join(options.stateDir, "results"), resultLimits, () =>
      this.#changed(),
    );
    this.#rollover = new KeyRollover(ports, {
      keys: identity.keys,
      dir: options.identityDir,
      peer: () => this.#session.peer,
      admit: (key) => this.#results.admit([...identity.keys.held.filter(({ kid }) => kid !== key.kid), key]),
      change: (endpoint, serviceKey, next) => nodeHttp.changeKey(endpoint, serviceKey, next),
      changed: () => this.#session.rekeyed(),
    });
    this.#jobs = new Jobs(ports, {
      identity,
      outbox: this.#session,
      transfers: new HttpTransfers(ports, nodeHttp, () => this.#session.peer),
      results: this.#results,
      capacity: () => this.#capacity(),
      changed: (what) => this.#jobsChanged(what),
      receipts: options.receipts,
    });
  }

  /** Takes up the last good config and begins to want a session. */
  async start(): Promise<void> {
    await this.#control.start();
    await this.#config.takeUp();
    this.#gpus.start();
    // Before there is a session: its first frame tells of them.
    await this.#jobs.takeUp();
    // Not after the first round: it may wait for a service that is away.
    this.#session.start();
    this.#rollover.start();
    await this.#config.start();
  }

  /** Counters and gauges for `/metrics`. */
  get figures() {
    return {
      jobs: this.#jobs.totals,
      running: this.#jobs.running,
      held: this.#jobs.size,
      slots: this.#capacity().slots,
      frames: this.#session.frames,
      buffered: this.#session.buffered,
      connected: this.#session.open,
      ready: this.ready,
      accepting: this.#capacity().accepting,
      engineCrashes: this.#control.launcher?.crashes ?? 0,
      releaseSequence: this.#config.view.releaseSequence,
      engineLoad: this.#watch.load,
      gpus: this.#gpus.readings,
    };
  }

  /** True once a verified config has been rendered, also when it is the last good one. */
  get started(): boolean {
    return this.#config.view.applied !== undefined && this.#control.current !== undefined;
  }

  /** True when config, engine and models are there and the node does not drain. */
  get ready(): boolean {
    const { models } = this.#control.current ?? {};
    const { health, active } = this.#watch.view;
    return (
      this.started &&
      health === "healthy" &&
      models !== undefined &&
      active.length === models.length &&
      this.#drain.state.at === "serving"
    );
  }

  /**
   * Stops taking jobs and waits until those that run have ended, or have been handed back after the drain timeout.
   * Resolves when the node is drained and what comes after the stop is rendered, or that takes too long.
   *
   * @param atMostMs what the timeout is not to be longer than; it also shortens a drain that has begun.
   */
  async drain(cause: DrainCause, atMostMs = Number.POSITIVE_INFINITY): Promise<void> {
    const { desired } = this.#config.view;
    // A restart that the agent wants itself is no emergency; a stop that nobody planned is an eviction.
    const planned = cause === "restart" || (desired !== undefined && desired.plannedStop !== null);
    const ownMs = !desired
      ? this.#options.drainTimeoutMs
      : planned
        ? desired.drainTimeoutMs
        : desired.evictionTimeoutMs;
    const timeoutMs = Math.min(ownMs, atMostMs);
    const { clock, log } = this.#ports;
    const jobs = this.#count();
    if (this.#drain.state.at === "serving")
      log.info({ cause, planned, timeoutMs, jobs: jobs.running }, "draining");
    this.#drainStep({ type: "request", cause, timeoutMs, wall: clock.now(), jobs });
    while (this.#drain.state.at === "draining") {
      await new Promise<void>((resolve) => this.#drainWaiters.push(resolve));
    }
    const rendered = new AbortController();
    await Promise.race([this.#afterDrain, sleep(clock, renderMs, rendered.signal)]);
    rendered.abort();
  }

  /**
   * What the kubelet asks for before it stops the runtime: {@link drain}, and when it resolves the launcher can be told to end.
   */
  async drainForStop(): Promise<void> {
    await this.drain("stop");
    await this.#control.listening();
    // A launcher that was only just started has ended the drain for the stop before it.
    if (this.#drain.state.at === "serving") await this.drain("stop");
  }

  /** Drains, says goodbye and stops everything. */
  leave(): Promise<void> {
    this.#leaving ??= this.#leave();
    return this.#leaving;
  }

  async #leave(): Promise<void> {
    await this.drain("terminate");
    this.#rollover.stop();
    await this.#session.leave("drained");
    this.#config.stop();
    this.#control.stop();
    this.#watch.stop();
    this.#gpus.stop();
    this.#results.close();
    this.#drainTimer?.cancel();
  }

  /** The signed status for one asker. @param nonce 32 bytes, base64url. */
  status(nonce: string): string {
    const { view } = this.#config;
    const drain = this.#drain.state;
    const disk = this.#ports.host.rootDisk?.();
    return sealStatus(
      {
        nonce,
        time: this.#ports.clock.now(),
        node_id: this.#options.identity.nodeId,
        instance: this.#instance,
        desired_revision: view.desired?.revision ?? 0,
        report: this.report(),
        ...(disk && { image_disk: disk }),
        config_error: view.problem,
        drain: {
          state: drain.at,
          jobs: this.#jobs.running,
          since: drain.at === "serving" ? null : drain.since,
        },
        session: this.#session.status,
      },
      this.#options.identity.key,
    );
  }

  /** What heartbeats and status tell of the node. */
  report(): Report {
    const { desired, applied, coming, target, staged, releaseSequence } = this.#config.view;
    const engine = this.#watch.view;
    const capacity = this.#capacity();
    const whyNot = capacity.reason ?? this.#results.problem;
    const { cpus, memoryMib } = this.#ports.host;
    return {
      agent_version: this.#options.agentVersion,
      engine: {
        type: applied?.selection.runtime.engine ?? desired?.engine ?? "none",
        version: engine.version,
        image: applied?.selection.runtime.image ?? null,
        health: engine.health,
        ...(engine.reason !== undefined && { reason: engine.reason.slice(0, 500) }),
        ...(this.#control.crashes > 0 && { crashes: this.#control.crashes }),
      },
      hardware: {
        cpus,
        memory_mib: memoryMib,
        gpus: reportedGpus(
          this.#gpus.readings,
          { count: desired?.gpuCount ?? 0, product: desired?.gpuProduct ?? null },
          this.#gpus.xids,
        ),
      },
      config: {
        applied: applied?.digest ?? null,
        target,
        staged,
        release_sequence: releaseSequence,
      },
      models: {
        installed: [...engine.installed],
        active: [...engine.active],
        states: modelStates(wantedModels(applied, coming), engine, (weights) => this.#models.view(weights)),
      },
      load: {
        slots: capacity.slots,
        active: this.#jobs.running,
        accepting: capacity.accepting,
        ...(whyNot !== undefined && { reason: whyNot.slice(0, 500) }),
      },
      subclouds: this.#subclouds(),
    };
  }

  /** Subclouds that the node wants and the network has. */
  #subclouds(): string[] {
    const { desired, applied } = this.#config.view;
    const offered = applied?.snapshot.subclouds ?? [];
    return (desired?.subclouds ?? []).filter((name) => offered.includes(name));
  }

  #capacity(): Capacity {
    const { applied } = this.#config.view;
    const reason = this.#whyNot();
    const limits = applied?.snapshot.limits;
    return {
      accepting: reason === undefined,
      reason,
      slots: limits?.max_jobs ?? 0,
      config: applied?.digest ?? null,
      activeModels: this.#watch.view.active,
      enginePort: this.#watch.place?.port,
      tellJobId: this.#watch.place?.adapter.takesJobId ?? false,
      maxOutputBytes: Math.min(limits?.max_output_bytes ?? 0, maxHeldOutputBytes),
    };
  }

  /** Why the node takes no jobs now; undefined = it does. */
  #whyNot(): string | undefined {
    const { invalid, desired } = this.#config.view;
    if (this.#drain.state.at !== "serving") return `the node is ${this.#drain.state.at}`;
    if (invalid !== undefined) return invalid;
    if (desired && !desired.accept) return "the node's spec says not to accept jobs";
    const { health, reason } = this.#watch.view;
    if (health !== "healthy") return `the engine is ${health}${reason === undefined ? "" : `: ${reason}`}`;
    return undefined;
  }

  #sessionOpened(): void {
    this.#rollover.poke();
    const { delegation } = this.#session;
    if (delegation) this.#options.receipts?.delegated(delegation);
  }

  /** Something that heartbeats tell may have changed. */
  #changed(): void {
    const report = JSON.stringify(this.report());
    if (report === this.#lastReport) return;
    this.#lastReport = report;
    this.#session.changed();
  }

  #count(): JobCount {
    return { running: this.#jobs.running, held: this.#jobs.size };
  }

  #jobsChanged(what: JobsChange): void {
    // A job that broke off may be the first sign of an engine that is gone.
    if (what === "fault") this.#watch.look();
    this.#changed();
    this.#drainStep({ type: "jobs", jobs: this.#count() });
  }

  #runtime(event: RuntimeEvent): void {
    this.#drainStep({ type: event === "back" ? "runtime-back" : "runtime-stopping" });
    this.#config.poke();
  }

  #engineHung(): void {
    this.#ports.log.error("the engine has not answered for a minute; the launcher replaces it");
    this.#control
      .replace()
      .catch((thrown: unknown) => this.#ports.log.error({ why: messageOf(thrown) }, "engine not replaced"));
  }

  #restartEngine(reason: string): void {
    if (this.#drain.state.at !== "serving") return;
    this.#ports.log.info({ reason }, "draining to restart the engine");
    void this.drain("restart");
  }

  #drainStep(event: DrainEvent): void {
    for (const action of this.#drain.step(event, this.#ports.clock.monotonic())) this.#drainDo(action);
  }

  #drainDo(action: DrainAction): void {
    switch (action.type) {
      case "timer":
        this.#drainTimer?.cancel();
        this.#drainTimer = this.#ports.clock.setTimer(
          () => this.#drainStep({ type: "timer", jobs: this.#count() }),
          // Beyond that a platform timer fires at once; the state machine asks for the rest.
          Math.min(action.ms, 2 ** 31 - 1),
        );
        break;
      case "clear-timer":
        this.#drainTimer?.cancel();
        break;
      case "hand-back":
        this.#ports.log.info({ jobs: this.#jobs.running }, "drain timeout: unfinished jobs are handed back");
        this.#jobs.handBack("the node drains");
        break;
      case "drained":
        this.#drained(action.cause);
        break;
      case "serving":
        this.#ports.log.info({ why: action.why }, "serving again");
        if (action.reverted) void this.#config.revert();
        else this.#config.settled();
        break;
    }
    this.#changed();
  }

  #drained(cause: DrainCause): void {
    if (cause === "stop")
      this.#afterDrain = this.#config.applyForStop(() => this.#drain.state.at === "drained");
    if (cause === "restart") {
      this.#afterDrain = this.#config.restartNow().then(() => this.#drainStep({ type: "restarted" }));
    }
    const waiters = this.#drainWaiters;
    this.#drainWaiters = [];
    for (const resolve of waiters) resolve();
  }
}
