import type { FastifyInstance } from "fastify";
import { serviceDefaults, type ServiceOptions } from "../../src/io/options.ts";
import { IoService } from "../../src/io/service.ts";
import type { Logger } from "../../src/lib/logger.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import type { TestNetwork } from "../agent/fixture/network.ts";
import type { HttpServer, ServiceHttp } from "./http.ts";
import { serviceUrl } from "./node.ts";
import { SimProcess } from "./process.ts";
import type { Acceptor, SimSocket } from "./socket.ts";
import type { StoreDisk } from "./store.ts";
import { Violation, type World } from "./world.ts";

/** Times of the service, shorter than in life, so that more happens in one world. */
export function simulatedOptions(network: string): ServiceOptions {
  const heartbeatMs = 4_000;
  return {
    ...serviceDefaults,
    network,
    baseUrls: [serviceUrl],
    heartbeatMs,
    dispatch: {
      ...serviceDefaults.dispatch,
      leaseMs: 12_000,
      disconnectGraceMs: 5_000,
      queueMs: 40_000,
      jobMs: 120_000,
      retryMs: [300, 1_000, 3_000],
      freshMs: 3 * heartbeatMs,
      restoreGraceMs: 15_000,
      asyncJobMs: 300_000,
    },
    ipRate: { burst: 100_000, perSecond: 10_000 },
    nodeRate: { burst: 1_000, perSecond: 50 },
  };
}

/** The host of the service: a real one on a simulated store, which can die and come back. */
export class SimService implements Acceptor, HttpServer {
  readonly clock = { skewMs: 0 };
  readonly disk: StoreDisk;
  io: IoService | undefined;
  lives = 0;
  readonly #world: World;
  readonly #network: TestNetwork;
  readonly #log: (name: string) => Logger;
  #process: SimProcess | undefined;
  http: ServiceHttp | undefined;

  constructor(world: World, network: TestNetwork, disk: StoreDisk, log: (name: string) => Logger) {
    this.#world = world;
    this.#network = network;
    this.disk = disk;
    this.#log = log;
  }

  /** Its process, once it listens. */
  get process(): SimProcess | undefined {
    return this.io ? this.#process : undefined;
  }

  get app(): FastifyInstance | undefined {
    return this.io?.app;
  }

  get running(): boolean {
    return this.#process?.alive === true;
  }

  start(): void {
    if (this.running) return;
    this.lives++;
    const world = this.#world;
    const dice = world.dice.fork(`service life ${this.lives}`);
    const process = new SimProcess(world, "io", this.clock);
    this.#process = process;
    const parts = {
      options: simulatedOptions(this.#network.name),
      clock: process.clock,
      random: { bytes: dice.bytes, number: dice.number },
      log: this.#log("io"),
      metrics: new Metrics(),
      store: this.disk.open(process),
      key: this.#network.service,
      dataKey: Buffer.alloc(32, 7),
      fatal: (error: unknown) => {
        if (process.alive) world.fail(new Violation("I2", `memory and store disagree: ${String(error)}`));
      },
    };
    const ready = async () => {
      const io = await IoService.create(parts);
      if (!process.alive) return;
      this.http?.attach(io.app);
      const listening = Promise.resolve(io.app.ready());
      world.hold(listening);
      await listening;
      this.io = io;
    };
    ready().catch((error: unknown) => world.fail(error));
  }

  /** SIGKILL. What its store has not synced is gone. */
  kill(): void {
    this.io = undefined;
    this.#process?.kill();
  }

  pause(ms: number): void {
    this.#process?.pause(ms);
  }

  accept(socket: SimSocket): string | undefined {
    const { io } = this;
    if (!io) return "ECONNREFUSED";
    const why = io.sessions.refusal(socket.agent.name);
    if (why !== undefined) return `Unexpected server response: ${why === "rate" ? 429 : 503}`;
    io.sessions.begin(socket.wire, socket.agent.name);
    return undefined;
  }
}
