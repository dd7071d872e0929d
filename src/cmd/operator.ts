/**
 * `operator`: reconciles ResultityNetwork, ResultityNode and ResultityNodePool.
 *
 * Flags come first, then environment: KUBECONFIG; KUBERNETES_SERVICE_HOST and _PORT, POD_NAME and POD_NAMESPACE as the
 * Deployment sets them. Exit code 0 after SIGTERM or SIGINT, 1 when it cannot start, 2 for a wrong flag.
 */
import { randomUUID } from "node:crypto";
import { createServer, type Server } from "node:http";
import { hostname } from "node:os";
import { parseArgs } from "node:util";
import { Client } from "../kube/client.ts";
import { type ApiConnection, fromKubeconfig, inCluster } from "../kube/config.ts";
import { EventRecorder } from "../kube/events.ts";
import { LeaderElector } from "../kube/leader.ts";
import { runReflectors } from "../kube/reflector.ts";
import { Transport } from "../kube/transport.ts";
import { systemClock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { createLogger, type Logger, type LogLevel, logLevels } from "../lib/logger.ts";
import { Metrics } from "../lib/metrics.ts";
import { makeCaches, type OperatorContext } from "../operator/context.ts";
import { networkController } from "../operator/network/controller.ts";
import { nodeController } from "../operator/node/controller.ts";
import { poolController } from "../operator/pool/controller.ts";
import { Fleet, NetworkConfigs } from "../operator/views.ts";

const usage = `usage: operator [flags]
  --kubeconfig FILE                 default: $KUBECONFIG, else the pod's ServiceAccount
  --watch-namespaces A,B,C          watch these namespaces only; default: all
  --[no-]leader-elect               wait for the Lease before working; default: on
  --leader-election-namespace NAME  namespace of the Lease; default: $POD_NAMESPACE, else resultity-system
  --metrics-listen HOST:PORT        /metrics, /healthz, /readyz; default: 0.0.0.0:8080
  --log-level LEVEL                 ${logLevels.join(", ")}; default: info`;

interface Settings {
  readonly kubeconfig: string | undefined;
  /** Empty: all. */
  readonly namespaces: readonly string[];
  readonly leaderElect: boolean;
  readonly leaseNamespace: string;
  readonly listen: { readonly host: string; readonly port: number };
  readonly logLevel: LogLevel;
}

function settingsOf(args: readonly string[], env: NodeJS.ProcessEnv): Settings {
  const { values } = parseArgs({
    args: [...args],
    allowNegative: true,
    options: {
      kubeconfig: { type: "string" },
      "watch-namespaces": { type: "string", multiple: true },
      "leader-elect": { type: "boolean", default: true },
      "leader-election-namespace": { type: "string" },
      "metrics-listen": { type: "string", default: "0.0.0.0:8080" },
      "log-level": { type: "string", default: "info" },
    },
  });
  const address = /^(?:\[([0-9a-fA-F:.]+)\]|([^:\s]*)):(\d{1,5})$/.exec(values["metrics-listen"]);
  if (!address) throw new Error("--metrics-listen must be HOST:PORT, for example 127.0.0.1:8080");
  const logLevel = logLevels.find((level) => level === values["log-level"]);
  if (!logLevel) throw new Error(`--log-level must be one of ${logLevels.join(", ")}`);
  return {
    kubeconfig: values.kubeconfig ?? (env["KUBECONFIG"] || undefined),
    namespaces: namespacesOf(values["watch-namespaces"] ?? []),
    leaderElect: values["leader-elect"],
    leaseNamespace: values["leader-election-namespace"] ?? env["POD_NAMESPACE"] ?? "resultity-system",
    listen: { host: address[1] ?? (address[2] || "0.0.0.0"), port: Number(address[3]) },
    logLevel,
  };
}

/** Names of namespaces from `a,b` given once or several times, each once. @throws Error for what is no such name */
function namespacesOf(lists: readonly string[]): readonly string[] {
  const names = new Set(lists.flatMap((list) => list.split(",")).map((name) => name.trim()));
  // `--watch-namespaces=""`, as an unset variable of a manifest leaves it.
  names.delete("");
  for (const name of names) {
    if (!/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name))
      throw new Error(`--watch-namespaces: ${JSON.stringify(name)} is no name of a namespace`);
  }
  return [...names];
}

async function connect(settings: Settings, env: NodeJS.ProcessEnv): Promise<ApiConnection> {
  if (settings.kubeconfig !== undefined) return fromKubeconfig(settings.kubeconfig);
  const host = env["KUBERNETES_SERVICE_HOST"];
  const port = env["KUBERNETES_SERVICE_PORT"];
  if (host && port) return inCluster({ host, port });
  throw new Error("not in a cluster and no kubeconfig: set --kubeconfig or KUBECONFIG");
}

/** Serves `/metrics`, `/healthz` (the process answers) and `/readyz` (its caches are warm). */
function serve({ host, port }: Settings["listen"], metrics: Metrics, ready: () => boolean): Promise<Server> {
  const server = createServer((request, response) => {
    const answer = (status: number, body: string, type = "text/plain") => {
      response.writeHead(status, { "content-type": type }).end(body);
    };
    const path = request.url?.split("?")[0];
    if (path === "/healthz") answer(200, "ok\n");
    else if (path === "/readyz") answer(ready() ? 200 : 503, ready() ? "ok\n" : "caches are not warm yet\n");
    else if (path === "/metrics") {
      metrics.text().then(
        (text) => answer(200, text, metrics.contentType),
        (error: unknown) => answer(500, messageOf(error)),
      );
    } else answer(404, "not found\n");
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => resolve(server));
  });
}

async function run(
  settings: Settings,
  env: NodeJS.ProcessEnv,
  logger: Logger,
  stop: AbortSignal,
): Promise<void> {
  const clock = systemClock;
  const metrics = new Metrics();
  metrics.collectProcess();
  const connection = await connect(settings, env);
  const transports = { connection, userAgent: "resultity-operator", clock, logger, metrics };
  const transport = new Transport(transports);
  // Its answers do not come behind the megabytes of a fleet that is read.
  const ofLease = new Transport(transports);
  const instance = `${env["POD_NAME"] ?? hostname()}_${randomUUID()}`;
  const plain = new Client(transport);
  const elector = new LeaderElector({
    client: new Client(ofLease),
    namespace: settings.leaseNamespace,
    name: "resultity-operator",
    identity: instance,
    clock,
    logger,
    metrics,
  });
  const client = settings.leaderElect ? plain.guarded(() => elector.assertLeading()) : plain;
  const { namespaces } = settings;
  const shared = { client, clock, random: Math.random, logger, metrics };
  const events = { client, controller: "resultity.com/operator", instance, clock, logger, metrics };
  const context: OperatorContext = {
    ...shared,
    events: new EventRecorder(events),
    caches: makeCaches(shared, namespaces),
    configs: new NetworkConfigs(),
    fleet: new Fleet(),
  };
  const reflectors = Object.values(context.caches);
  const warm = () => reflectors.every(({ hasSynced }) => hasSynced);
  const server = await serve(settings.listen, metrics, warm);
  const controllers = [networkController(context), nodeController(context), poolController(context)];
  const watching = runReflectors(reflectors, stop);
  const work = async (signal: AbortSignal) => {
    await Promise.all(controllers.map((controller) => controller.run(signal)));
  };
  logger.info(
    { server: connection.server.host, namespaces: namespaces.join(",") || "(all)" },
    "operator runs",
  );
  try {
    await (settings.leaderElect ? elector.run(work, stop) : work(stop));
    await watching;
  } finally {
    server.close();
    transport.close();
    ofLease.close();
  }
}

async function main(): Promise<number> {
  let settings: Settings;
  try {
    settings = settingsOf(process.argv.slice(2), process.env);
  } catch (thrown) {
    process.stderr.write(`${messageOf(thrown)}\n${usage}\n`);
    return 2;
  }
  const logger = createLogger("operator", settings.logLevel);
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.once(signal, () => {
      logger.info({ signal }, "stopping");
      stop.abort();
    });
  }
  try {
    await run(settings, process.env, logger, stop.signal);
    return 0;
  } catch (thrown) {
    logger.fatal({ error: messageOf(thrown) }, "operator ends");
    return 1;
  }
}

process.exit(await main());
