// oxlint-disable oxc/no-async-endpoint-handlers -- fastify awaits its handlers
import { type FastifyInstance, type FastifyReply, fastify } from "fastify";
import type { Random } from "../lib/backoff.ts";
import { ByteBudget, SharedBudget } from "../lib/byte-budget.ts";
import type { Clock, Timer } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import type { Metrics } from "../lib/metrics.ts";
import type { Statement } from "../protocol/config/statement.ts";
import type { JobId } from "../protocol/fields.ts";
import { paths } from "../protocol/http.ts";
import type { NodeId, SigningKey } from "../protocol/keys.ts";
import { maxBodyBytes } from "../protocol/messages.ts";
import { AccountRequests } from "./account-requests.ts";
import { Accounts } from "./accounts.ts";
import { NetworkConfig } from "./config/network-config.ts";
import { configRoutes } from "./config/routes.ts";
import { Dispatch } from "./dispatch/dispatch.ts";
import { feedRoutes, Feeds } from "./feed/routes.ts";
import { AsyncJobs } from "./jobs/async-jobs.ts";
import { BodyVault, VaultError } from "./jobs/body-vault.ts";
import { JobDesk } from "./jobs/desk.ts";
import { type IoMetrics, ioMetrics } from "./metrics.ts";
import { type KnownNode, Nodes } from "./nodes.ts";
import { ApiKeys } from "./openai/api-keys.ts";
import { openaiRoutes } from "./openai/routes.ts";
import { type ServiceOptions, sessionUrls } from "./options.ts";
import { RateLimit } from "./rate.ts";
import { Ledger } from "./receipts/ledger.ts";
import { Nonces } from "./registration/nonces.ts";
import { revokeRoute } from "./registration/revoke.ts";
import { registrationRoutes } from "./registration/routes.ts";
import { ServiceKey } from "./service-key.ts";
import type { RandomBytes } from "./sessions/host.ts";
import { Sessions } from "./sessions/sessions.ts";
import { Upgrades } from "./sessions/upgrade.ts";
import { cutSlowBodies, pace } from "./transfer/pace.ts";
import { transferRoutes } from "./transfer/routes.ts";
import type { Kept, Store } from "./store/port.ts";

/** What the service is given: everything outside of it. */
export interface ServiceParts {
  readonly options: ServiceOptions;
  readonly clock: Clock;
  readonly random: RandomBytes & { readonly number: Random };
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly store: Store;
  readonly key: SigningKey;
  /** Encrypts what clients ask and are answered, on the disk: 32 bytes. */
  readonly dataKey: Uint8Array;
  /** Memory and store disagree: nothing may be told to anyone any more. */
  readonly fatal: (error: unknown) => void;
}

const pruneEveryMs = 3_600_000;
/** Time that answers already given have to reach their clients at the end, ms. */
const closeMs = 5_000;
const maxHeaderBytes = 16 * 1024;

/** The IO service: wiring of its parts, and their life. */
export class IoService {
  readonly parts: ServiceParts;
  readonly metrics: IoMetrics;
  readonly config: NetworkConfig;
  readonly serviceKey: ServiceKey;
  readonly nodes = new Nodes();
  readonly accounts: Accounts;
  readonly apiKeys = new ApiKeys();
  readonly dispatch: Dispatch;
  readonly desk: JobDesk;
  readonly asyncJobs: AsyncJobs;
  readonly sessions: Sessions;
  readonly feeds: Feeds;
  readonly app: FastifyInstance;
  /** Requests and large bodies in memory. */
  readonly #budget: ByteBudget;
  #closing = false;
  #prune: Timer | undefined;

  private constructor(parts: ServiceParts, kept: Kept, vault: BodyVault) {
    const { options, clock, log, random, store, key } = parts;
    this.parts = parts;
    this.metrics = ioMetrics(parts.metrics);
    this.#budget = new ByteBudget(options.maxBytesInFlight);
    this.config = new NetworkConfig(options.network, store, kept);
    this.serviceKey = new ServiceKey(key);
    this.accounts = new Accounts(kept.accounts);
    for (const row of kept.nodes) this.nodes.add(row, clock.now());
    for (const { sha256, consumer } of kept.apiKeys) this.apiKeys.add(sha256, consumer);
    if (kept.delegation) this.#believeKept(kept.delegation);

    this.dispatch = new Dispatch(options.dispatch, { number: random.number, token: () => random.bytes(16) });
    const rates = {
      ip: new RateLimit(options.ipRate, clock),
      node: new RateLimit(options.nodeRate, clock),
    };
    const { config, nodes, serviceKey, metrics, accounts, dispatch } = this;
    this.sessions = new Sessions(
      {
        clock,
        log,
        random,
        config,
        nodes,
        serviceKey,
        store,
        metrics,
        audiences: sessionUrls(options.baseUrls, paths.session),
        rates,
        frameRate: options.frameRate,
        heartbeatMs: options.heartbeatMs,
        leaseMs: options.dispatch.leaseMs,
        maxOpening: options.maxOpening,
      },
      () => this.desk,
    );
    this.desk = new JobDesk({
      network: options.network,
      clock,
      log,
      metrics,
      dispatch,
      nodes,
      store,
      ledger: new Ledger(key, kept.chains),
      vault,
      lineTo: (node) => this.sessions.of(node),
      fatal: parts.fatal,
    });
    config.onPublish(() => this.#released());
    this.#released();
    this.asyncJobs = new AsyncJobs({
      clock,
      store,
      vault,
      dispatch,
      desk: this.desk,
      jobMs: options.dispatch.asyncJobMs,
      maxJobs: options.maxAsyncJobs,
      maxBytes: options.maxAsyncBytes,
      newJobId: () => jobId(random),
    });
    this.asyncJobs.restore(kept.unfinished);
    const accountRequests = new AccountRequests(accounts, clock);
    this.feeds = new Feeds({ clock, log, accountRequests, nodes, dispatch });

    const refuse = (error: { readonly statusCode?: number }, _request: unknown, reply: FastifyReply) => {
      const status = error.statusCode ?? 500;
      if (status >= 500) log.error({ why: messageOf(error) }, "a request failed");
      return reply
        .code(status)
        .send({ error: status >= 500 ? "internal error" : "not a request of this API" });
    };
    this.app = fastify({
      logger: false,
      // Neither what was asked nor what went wrong inside is repeated to strangers.
      frameworkErrors: refuse,
      forceCloseConnections: "idle",
      // For a request to come in whole; how slowly it may is bounded by `cutSlowBodies`.
      requestTimeout: pace.wholeMs,
      http: {
        maxHeaderSize: maxHeaderBytes,
        headersTimeout: 10_000,
        connectionsCheckingInterval: 5_000,
      },
    });
    cutSlowBodies(this.app, clock);
    // What no route asks for is not read: each takes the bodies of its own.
    this.app.removeAllContentTypeParsers();
    this.app.setErrorHandler(refuse);
    this.app.setNotFoundHandler((_request, reply) => reply.code(404).send({ error: "no such path" }));
    this.#routes(rates, accountRequests);
    this.#gauges();
    this.#armPrune();
  }

  /** Loads what the store has and makes the service; nothing listens yet. */
  static async create(parts: ServiceParts): Promise<IoService> {
    const { store, clock, log } = parts;
    const cancelled = await store.cancelUnfinished(
      clock.now(),
      "the service was restarted; the client's connection was cut",
    );
    if (cancelled > 0) log.warn({ cancelled }, "jobs that were under way at the last end are CANCELLED");
    const kept = await store.load();
    const vault = new BodyVault(parts.dataKey, () => parts.random.bytes(16));
    if (kept.dataKey === null) await store.write([{ put: "data-key", check: vault.check }]);
    else if (kept.dataKey !== vault.check)
      throw new VaultError(
        "key",
        "the data key is not the one with which this store's jobs were written: put back the file data.key, or name it with --data-key-file",
      );
    return new IoService(parts, kept, vault);
  }

  #believeKept(statement: Statement): void {
    const { root } = this.config;
    const { clock, log } = this.parts;
    try {
      if (root) this.serviceKey.delegate(statement, root, clock.now());
    } catch (error) {
      log.warn({ why: messageOf(error) }, "the kept delegation does not hold: run `io keys delegate`");
    }
  }

  #released(): void {
    const allowed = this.config.release?.release.allowed ?? [];
    this.desk.handle({ on: "release", allowed });
  }

  #routes(
    rates: { readonly ip: RateLimit; readonly node: RateLimit },
    accountRequests: AccountRequests,
  ): void {
    const { app, config, serviceKey, nodes, accounts, dispatch, desk, metrics, apiKeys } = this;
    const { clock, log, store, random, options } = this.parts;
    const nonces = new Nonces(random);
    const { baseUrls } = options;
    configRoutes(app, { config, serviceKey, clock, rate: rates.ip });
    registrationRoutes(app, {
      clock,
      log,
      config,
      nodes,
      accounts,
      store,
      serviceKey,
      nonces,
      rates,
      baseUrls,
      granted: (node) => this.#granted(node),
    });
    transferRoutes(app, {
      clock,
      log,
      nodes,
      store,
      serviceKey,
      desk,
      dispatch,
      budget: this.#shared(),
      rates: { ip: rates.ip, node: new RateLimit(options.transferRate, clock) },
      baseUrls,
      maxOutputBytes: options.dispatch.maxOutputBytes,
    });
    feedRoutes(app, { clock, log, accountRequests, nodes, dispatch }, this.feeds);
    revokeRoute(app, { nodes, store, accountRequests, revoke: (node) => this.revoke(node) });
    openaiRoutes(app, {
      asyncJobs: this.asyncJobs,
      clock,
      log,
      config,
      keys: apiKeys,
      dispatch,
      desk,
      metrics,
      budget: this.#shared(),
      newJobId: () => jobId(random),
      problem: () => this.problem,
    });
    app.get("/healthz", (_request, reply) => {
      const problem = this.problem;
      if (problem === undefined) return reply.send({ status: "ok" });
      return reply.code(503).send({ status: "unavailable", reason: problem });
    });
    app.get("/metrics", async (_request, reply) =>
      reply.type(this.parts.metrics.contentType).send(await this.parts.metrics.text()),
    );
    const upgrades = new Upgrades(this.sessions, metrics);
    app.server.on("upgrade", (request, socket, head) => upgrades.take(request, socket, head));
  }

  /** The memory for bodies, of which a consumer, or a node, that wants much leaves half to the others. */
  #shared(): SharedBudget {
    return new SharedBudget(this.#budget, Math.max(maxBodyBytes, this.parts.options.maxBytesInFlight / 2));
  }

  /** Why the service cannot do its work now; undefined = it can. */
  get problem(): string | undefined {
    if (this.#closing) return "the service ends";
    if (!this.parts.store.healthy) return "the store cannot be written";
    if (!this.config.root) return "no root: run `io keys delegate`";
    if (this.serviceKey.delegationAt(this.parts.clock.now()) === undefined)
      return "the service's key is not delegated, or no longer: run `io keys delegate`";
    return undefined;
  }

  /**
   * Takes root and delegation, and keeps them.
   * @throws {ProtocolError}
   */
  async delegate(root: Statement, delegation: Statement): Promise<number> {
    const trusted = await this.config.setRoot(root);
    const { expires } = this.serviceKey.delegate(delegation, trusted, this.parts.clock.now());
    await this.parts.store.write([{ put: "delegation", statement: delegation }]);
    return expires;
  }

  /** Makes a node's key void: its session ends, its jobs go elsewhere, and only a newer grant of its account lets it back. */
  async revoke(nodeId: NodeId): Promise<KnownNode | undefined> {
    const node = this.nodes.get(nodeId);
    if (!node) return undefined;
    this.nodes.revoke(node);
    this.desk.handle({ on: "ban", node: nodeId, banned: true });
    this.sessions.endVoid(nodeId, "the account has revoked the node's key");
    await this.parts.store.write([{ put: "revoke", nodeId }]);
    this.parts.log.warn({ node: nodeId, account: node.account, kid: node.key.kid }, "node's key revoked");
    this.nodes.changed(node);
    return node;
  }

  /** The account has granted a node another key: what the one before has opened is over. */
  #granted(node: KnownNode): void {
    if (node.revocation !== 0) return;
    this.sessions.endVoid(node.nodeId, "the account has granted the node another key");
    this.desk.handle({ on: "ban", node: node.nodeId, banned: node.banned !== null });
  }

  /** Bans a node (with a reason for people) or lets it in again (null). */
  async ban(nodeId: NodeId, reason: string | null): Promise<boolean> {
    const node = this.nodes.get(nodeId);
    if (!node) return false;
    node.banned = reason;
    await this.parts.store.write([{ put: "ban", nodeId, reason }]);
    this.desk.handle({ on: "ban", node: nodeId, banned: reason !== null });
    if (reason !== null) this.sessions.endBanned(nodeId, reason);
    this.nodes.changed(node);
    return true;
  }

  #gauges(): void {
    const { metrics, clock, store } = this.parts;
    const { dispatch, sessions, nodes, feeds } = this;
    metrics.gauge("resultity_io_sessions", "Open sessions.", [], () => sessions.open);
    metrics.gauge("resultity_io_nodes_registered", "Registered nodes.", [], () => nodes.size);
    metrics.gauge("resultity_io_jobs_queued", "Jobs that wait for a node.", [], () => dispatch.queued);
    metrics.gauge(
      "resultity_io_async_jobs_queued",
      "Asynchronous jobs that wait for a node.",
      [],
      () => dispatch.asyncQueued,
    );
    metrics.gauge(
      "resultity_io_async_jobs_unfinished",
      "Asynchronous jobs that are not over.",
      [],
      () => this.asyncJobs.unfinished,
    );
    metrics.gauge("resultity_io_jobs_unfinished", "Jobs that are not over.", [], () => dispatch.unfinished);
    metrics.gauge(
      "resultity_io_bytes_in_flight",
      "Bytes of requests and large bodies in memory.",
      [],
      () => this.#budget.used,
    );
    metrics.gauge("resultity_io_feeds", "Fleet feeds that are being read.", [], () => feeds.size);
    metrics.gauge("resultity_io_store_healthy", "1 while writes get through.", [], () =>
      store.healthy ? 1 : 0,
    );
    metrics.gauge(
      "resultity_io_delegation_seconds_left",
      "Life left of the delegation of the service's key.",
      [],
      () => Math.max(0, ((this.serviceKey.expires ?? 0) - clock.now()) / 1000),
    );
    metrics.gauge(
      "resultity_io_config_seconds_left",
      "Life left of the current config in the published release.",
      [],
      () => {
        const release = this.config.release?.release;
        const expires = release?.allowed.find(({ digest }) => digest === release.current)?.expires ?? 0;
        return Math.max(0, (expires - clock.now()) / 1000);
      },
    );
  }

  #armPrune(): void {
    const { clock, store, log, options } = this.parts;
    this.#prune = clock.setTimer(() => {
      store.prune(clock.now() - options.keepJobsMs).then(
        (pruned) => log.debug({ pruned }, "old jobs forgotten"),
        (error: unknown) => log.warn({ why: messageOf(error) }, "cannot forget old jobs"),
      );
      this.#armPrune();
    }, pruneEveryMs);
  }

  /** Listens; resolves to the address. */
  listen(host: string, port: number): Promise<string> {
    return this.app.listen({ host, port, backlog: 4096 });
  }

  /**
   * Ends in order: no new requests, those that run may end within `graceMs`, sessions close with 1012, everything is
   * on the disk.
   */
  async close(graceMs: number): Promise<void> {
    const { clock, log, store } = this.parts;
    this.#closing = true;
    this.#prune?.cancel();
    let timer: Timer | undefined;
    const late = new Promise<"late">((resolve) => {
      timer = clock.setTimer(() => resolve("late"), graceMs);
    });
    const how = await Promise.race([this.desk.idle(), late]);
    timer?.cancel();
    if (how === "late") log.warn({ jobs: this.desk.live.size }, "jobs are given up: the service ends");
    this.desk.close("the service ends");
    this.sessions.close();
    this.feeds.close();
    const hurry = clock.setTimer(() => this.app.server.closeAllConnections(), closeMs);
    await this.app.close();
    hurry.cancel();
    await store.close();
  }
}

const base32 = "abcdefghijklmnopqrstuvwxyz234567";

/** `job-` and 26 characters of base32: 128 random bits. */
function jobId(random: RandomBytes): JobId {
  const bytes = Buffer.from(random.bytes(16), "base64url");
  let bits = 0;
  let have = 0;
  let text = "job-";
  for (const byte of bytes) {
    bits = (bits << 8) | byte;
    have += 8;
    while (have >= 5) {
      have -= 5;
      text += base32[(bits >> have) & 31] ?? "";
    }
    bits &= (1 << have) - 1;
  }
  text += base32[(bits << (5 - have)) & 31] ?? "";
  return text as JobId;
}
