import { randomBytes } from "node:crypto";
import { pino } from "pino";
import { Client } from "../../../src/kube/client.ts";
import { fromKubeconfig } from "../../../src/kube/config.ts";
import { EventRecorder } from "../../../src/kube/events.ts";
import { runReflectors } from "../../../src/kube/reflector.ts";
import { Transport } from "../../../src/kube/transport.ts";
import { systemClock } from "../../../src/lib/clock.ts";
import { Metrics } from "../../../src/lib/metrics.ts";
import { makeCaches, type OperatorContext } from "../../../src/operator/context.ts";
import { networkController } from "../../../src/operator/network/controller.ts";
import { nodeController } from "../../../src/operator/node/controller.ts";
import { poolController } from "../../../src/operator/pool/controller.ts";
import { Fleet, NetworkConfigs } from "../../../src/operator/views.ts";
import type { FaultProxy } from "../../testbed/fault-proxy.ts";

/** A life of the operator in this process: its three controllers, without election, over a proxy. */
export class OperatorLife {
  readonly #stop = new AbortController();
  readonly #transport: Transport;
  readonly #running: Promise<unknown>;

  private constructor(transport: Transport, run: (signal: AbortSignal) => Promise<unknown>) {
    this.#transport = transport;
    this.#running = run(this.#stop.signal);
  }

  /** @param onLine takes what it logs, as JSON. */
  static async begin(
    kubeconfig: string,
    proxy: FaultProxy,
    namespace: string,
    onLine: (line: string) => void,
  ): Promise<OperatorLife> {
    const clock = systemClock;
    const metrics = new Metrics();
    const logger = pino({ level: "info", base: null }, { write: onLine });
    const connection = {
      ...(await fromKubeconfig(kubeconfig)),
      server: new URL(proxy.server),
      tls: () => Promise.resolve({ ca: proxy.ca }),
    };
    const transport = new Transport({ connection, userAgent: "resultity-operator", clock, logger, metrics });
    const client = new Client(transport);
    const shared = { client, clock, random: Math.random, logger, metrics };
    const instance = `sim-${randomBytes(4).toString("hex")}`;
    const context: OperatorContext = {
      ...shared,
      events: new EventRecorder({ ...shared, controller: "resultity.com/operator", instance }),
      caches: makeCaches(shared, [namespace]),
      configs: new NetworkConfigs(),
      fleet: new Fleet(),
    };
    const controllers = [networkController(context), nodeController(context), poolController(context)];
    return new OperatorLife(transport, (signal) =>
      Promise.all([
        runReflectors(Object.values(context.caches), signal),
        ...controllers.map((controller) => controller.run(signal)),
      ]),
    );
  }

  /** SIGKILL: what is under way never comes to an end, and nothing is said to anybody. */
  async kill(): Promise<void> {
    this.#transport.close();
    this.#stop.abort();
    await this.#running;
  }
}
