import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, rmSync } from "node:fs";
import { setTimeout as wait } from "node:timers/promises";
import { isMainThread } from "node:worker_threads";
import { runCli, adminCommands } from "../io/admin/cli.ts";
import { askService, socketPath } from "../io/admin/client.ts";
import {
  type Command,
  CommandError,
  type CommandContext,
  dataFlag,
  durationOf,
} from "../io/admin/command.ts";
import {
  databasePath,
  openDataFolder,
  openDataKey,
  readOffline,
  removeOffline,
} from "../io/admin/data-folder.ts";
import { adminServer } from "../io/admin/server.ts";
import { type ServiceOptions, serviceDefaults } from "../io/options.ts";
import { ioMetrics } from "../io/metrics.ts";
import { IoService } from "../io/service.ts";
import { StoreError } from "../io/store/port.ts";
import { SqliteStore } from "../io/store/sqlite.ts";
// In the store's thread this module is the whole program: importing it serves the store.
import { storeThreadPath } from "../io/store/worker.ts";
import { systemClock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { createLogger, logLevels } from "../lib/logger.ts";
import { Metrics } from "../lib/metrics.ts";

const serve: Command = {
  name: "serve",
  positionals: [],
  summary: "Runs the service.",
  details:
    "Before it can do anything its key must be delegated (`io keys delegate`). SIGTERM ends it in order: requests that run\n" +
    "may finish within --grace, sessions are closed with 1012.",
  flags: [
    dataFlag,
    {
      name: "listen",
      value: "HOST:PORT",
      help: "address of the one HTTP listener",
      default: "127.0.0.1:8480",
      env: "RESULTITY_LISTEN",
    },
    {
      name: "network",
      value: "NAME",
      help: "network that it serves",
      required: true,
      env: "RESULTITY_NETWORK",
    },
    {
      name: "audience",
      value: "URL",
      help: "base URL as agents dial it; default http://HOST:PORT of --listen",
      multiple: true,
      env: "RESULTITY_AUDIENCE",
    },
    {
      name: "heartbeat",
      value: "10s",
      help: "interval of agents' heartbeats",
      default: "10s",
      env: "RESULTITY_HEARTBEAT",
    },
    {
      name: "lease",
      value: "30s",
      help: "life of a lease that is not renewed",
      default: "30s",
      env: "RESULTITY_LEASE",
    },
    {
      name: "disconnect-grace",
      value: "10s",
      help: "how long a job of which nothing was shown waits for a node whose session broke",
      default: "10s",
      env: "RESULTITY_DISCONNECT_GRACE",
    },
    {
      name: "queue-timeout",
      value: "60s",
      help: "longest wait for a node",
      default: "60s",
      env: "RESULTITY_QUEUE_TIMEOUT",
    },
    {
      name: "job-timeout",
      value: "10m",
      help: "longest life of a job",
      default: "10m",
      env: "RESULTITY_JOB_TIMEOUT",
    },
    {
      name: "max-queued",
      value: "N",
      help: "most jobs that wait",
      default: "1024",
      env: "RESULTITY_MAX_QUEUED",
    },
    {
      name: "async-timeout",
      value: "24h",
      help: "longest life of an asynchronous job, waiting included",
      default: "24h",
      env: "RESULTITY_ASYNC_TIMEOUT",
    },
    {
      name: "async-attempt-timeout",
      value: "1h",
      help: "longest time of one attempt at an asynchronous job",
      default: "1h",
      env: "RESULTITY_ASYNC_ATTEMPT_TIMEOUT",
    },
    {
      name: "max-async-jobs",
      value: "N",
      help: "most asynchronous jobs that are not over; half as many of one consumer",
      default: "20000",
      env: "RESULTITY_MAX_ASYNC_JOBS",
    },
    {
      name: "max-bytes-in-flight",
      value: "N",
      help: "most bytes of requests and large bodies in memory at once; beyond it 429",
      default: "268435456",
      env: "RESULTITY_MAX_BYTES_IN_FLIGHT",
    },
    {
      name: "max-async-bytes",
      value: "N",
      help: "most bytes of asynchronous jobs' inputs that are not over; half as many of one consumer",
      default: String(serviceDefaults.maxAsyncBytes),
      env: "RESULTITY_MAX_ASYNC_BYTES",
    },
    {
      name: "keep-jobs",
      value: "30d",
      help: "how long jobs are kept after their end, with the answers of asynchronous ones; receipts stay",
      default: "30d",
      env: "RESULTITY_KEEP_JOBS",
    },
    {
      name: "restore-grace",
      value: "45s",
      help: "how long after a start an asynchronous job waits for the node that had it",
      default: "45s",
      env: "RESULTITY_RESTORE_GRACE",
    },
    {
      name: "data-key-file",
      value: "FILE",
      help: "key that encrypts asynchronous jobs' inputs and outputs, 32 bytes as base64url; default data.key of the data folder, made if need be",
      env: "RESULTITY_DATA_KEY_FILE",
    },
    {
      name: "retry",
      value: "1s,5s,30s",
      help: "waits before a job's second, third, fourth attempt",
      default: "1s,5s,30s",
      env: "RESULTITY_RETRY",
    },
    {
      name: "grace",
      value: "20s",
      help: "how long running requests may go on after SIGTERM",
      default: "20s",
      env: "RESULTITY_GRACE",
    },
    {
      name: "log-level",
      value: "info",
      help: logLevels.join(", "),
      default: "info",
      env: "RESULTITY_LOG_LEVEL",
    },
  ],
  run: serveUntilSignal,
};

async function serveUntilSignal({ args, out }: CommandContext): Promise<void> {
  const level = logLevels.find((known) => known === args.get("log-level"));
  if (!level) throw new CommandError("usage", `--log-level: one of ${logLevels.join(", ")}`);
  const log = createLogger("io", level);
  const data = args.get("data");
  const { host, port } = addressOf(args.get("listen"));
  const options = optionsOf(args, `http://${args.get("listen")}`);
  const key = openDataFolder(data);
  const dataKey = openDataKey(data, args.find("data-key-file"));
  await requireAlone(data);

  const metrics = new Metrics();
  metrics.collectProcess();
  const counted = ioMetrics(metrics);
  const store = new SqliteStore({
    path: databasePath(data),
    worker: new URL(import.meta.url),
    clock: systemClock,
    onCommit: (writes, ms) => {
      counted.commit.observe(ms / 1000);
      counted.commitWrites.inc({}, writes);
    },
    onHealth: (problem) => {
      if (problem === undefined) log.info("the store can be written again");
      else
        log.error(
          { why: problem },
          "the store cannot be written: sessions get 1013, requests 503, until it can",
        );
    },
  });
  const service = await IoService.create({
    options,
    clock: systemClock,
    random: { bytes: (count) => randomBytes(count).toString("base64url"), number: Math.random },
    log,
    metrics,
    store,
    key,
    dataKey,
    fatal: (error) => {
      const refused = error instanceof StoreError && error.code === "unavailable";
      log.fatal(
        { why: messageOf(error) },
        refused
          ? "the store takes no more writes: ending at once; what it has not kept was acknowledged to no node"
          : "store and memory disagree: ending at once, so that nothing false is told",
      );
      process.exit(70);
    },
  }).catch(async (error: unknown) => {
    // Its thread would keep the process alive.
    await store.close();
    throw error;
  });
  const waiting = readOffline(data);
  if (waiting) {
    await service.delegate(waiting.root, waiting.delegation);
    removeOffline(data);
  }
  if (service.problem !== undefined)
    log.warn({ problem: service.problem }, "the service cannot do its work yet");

  const admin = adminServer(service);
  rmSync(socketPath(data), { force: true });
  // The folder is the owner's alone, so the moment between listening and chmod is nobody else's.
  await admin.listen({ path: socketPath(data) });
  chmodSync(socketPath(data), 0o600);
  const address = await service.listen(host, port);
  log.info({ address, network: options.network, audiences: options.baseUrls }, "serving");
  out(address);

  const signal = await new Promise<NodeJS.Signals>((resolve) => {
    process.once("SIGTERM", resolve);
    process.once("SIGINT", resolve);
  });
  log.info({ signal }, "ending: no new requests");
  await service.close(durationOf(args.get("grace"), "grace"));
  await admin.close();
  rmSync(socketPath(data), { force: true });
  log.info("ended");
}

function optionsOf(args: CommandContext["args"], ownUrl: string): ServiceOptions {
  const audiences = args.all("audience").length > 0 ? args.all("audience") : [ownUrl];
  for (const url of audiences) {
    if (!/^https?:\/\/[^\s/]+/.test(url))
      throw new CommandError(
        "usage",
        `--audience: ${url} is no base URL: write http://host:port or https://host`,
      );
  }
  const heartbeatMs = durationOf(args.get("heartbeat"), "heartbeat");
  const maxQueued = countOf(args, "max-queued");
  return {
    ...serviceDefaults,
    network: args.get("network"),
    baseUrls: audiences.map((url) => url.replace(/\/+$/, "")),
    heartbeatMs,
    maxAsyncJobs: countOf(args, "max-async-jobs"),
    maxAsyncBytes: countOf(args, "max-async-bytes"),
    keepJobsMs: durationOf(args.get("keep-jobs"), "keep-jobs"),
    maxBytesInFlight: countOf(args, "max-bytes-in-flight"),
    dispatch: {
      ...serviceDefaults.dispatch,
      leaseMs: durationOf(args.get("lease"), "lease"),
      disconnectGraceMs: durationOf(args.get("disconnect-grace"), "disconnect-grace"),
      queueMs: durationOf(args.get("queue-timeout"), "queue-timeout"),
      jobMs: durationOf(args.get("job-timeout"), "job-timeout"),
      asyncJobMs: durationOf(args.get("async-timeout"), "async-timeout"),
      asyncAttemptMs: durationOf(args.get("async-attempt-timeout"), "async-attempt-timeout"),
      restoreGraceMs: durationOf(args.get("restore-grace"), "restore-grace"),
      retryMs: args
        .get("retry")
        .split(",")
        .map((text) => durationOf(text.trim(), "retry")),
      maxQueued,
      maxQueuedPerConsumer: Math.max(1, Math.floor(maxQueued / 2)),
      freshMs: 3 * heartbeatMs,
    },
  };
}

function countOf(args: CommandContext["args"], flag: string): number {
  const count = Number(args.get(flag));
  if (!Number.isSafeInteger(count) || count < 1)
    throw new CommandError("usage", `--${flag}: a whole number from 1 up`);
  return count;
}

function addressOf(text: string): { host: string; port: number } {
  const [, bracketed, plain, port] = /^(?:\[([0-9a-fA-F:]+)\]|([^:]*)):(\d{1,5})$/.exec(text) ?? [];
  if (port === undefined || Number(port) > 65_535)
    throw new CommandError("usage", `--listen: ${text} is no HOST:PORT, such as 127.0.0.1:8480`);
  return {
    host: bracketed ?? (plain === "" || plain === undefined ? "127.0.0.1" : plain),
    port: Number(port),
  };
}

/** One service a folder: two would give one node two sessions. */
async function requireAlone(data: string): Promise<void> {
  if (!existsSync(socketPath(data))) return;
  const answered = await Promise.race([
    askService(data, "GET", "/status").then(
      () => true,
      (error: unknown) => !(error instanceof CommandError && error.code === "unavailable"),
    ),
    wait(2_000, true, { ref: false }),
  ]);
  if (answered)
    throw new CommandError(
      "refused",
      `--data: another service runs on ${data}: stop it, or name another folder`,
    );
}

if (isMainThread || storeThreadPath() === undefined) {
  process.exitCode = await runCli({
    argv: process.argv.slice(2),
    env: process.env,
    commands: [serve, ...adminCommands],
    world: {
      out: (line) => console.log(line),
      note: (line) => console.error(line),
      now: () => systemClock.now(),
    },
  });
}
