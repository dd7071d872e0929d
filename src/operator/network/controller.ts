import { Agent, type Dispatcher } from "undici";
import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import { Controller, type Result } from "../../kube/controller.ts";
import { isKubeError } from "../../kube/errors.ts";
import { compareResourceVersions } from "../../kube/object.ts";
import { canonical } from "../hash.ts";
import { networks, type OperatorContext, type Runnable } from "../context.ts";
import { networkManager } from "../names.ts";
import { type Executing, execute } from "./execute.ts";
import { Feeds } from "./feeds.ts";
import { takeInputs } from "./inputs.ts";
import { type Knowledge, newKnowledge } from "./knowledge.ts";
import { observeInputs } from "./observe.ts";
import { missingOf, type NetworkObservation, type NetworkPlan, planNetwork } from "./plan.ts";
import { refreshDocuments } from "./refresh.ts";
import { fetchTimeoutMs } from "./source.ts";
import { networkStatusOf, turningPoints } from "./status.ts";
import { NodeUses } from "./uses.ts";
import { networkSources } from "./wake.ts";

/** Shortest wait between two looks at what the spec points at while all is well, and the longest while it is not. Ms. */
const inputsInterval = { well: 30_000, wrong: 10_000 };
/** Shortest wait before a network is looked at again, ms. */
const leastWait = 100;

/**
 * The controller of ResultityNetworks: trusts their roots, follows their releases, keeps the ConfigMap that agents read, tells
 * the other controllers (`ctx.configs`, `ctx.fleet`), and says in the status how all that stands.
 *
 * @param options.dispatcher how IO services are reached. Default: directly, with connections of its own.
 */
export function networkController(
  ctx: OperatorContext,
  options: { readonly dispatcher?: Dispatcher } = {},
): Runnable {
  return { run: (signal) => run(ctx, options.dispatcher, signal) };
}

async function run(ctx: OperatorContext, given: Dispatcher | undefined, signal: AbortSignal): Promise<void> {
  const { clock, random, metrics } = ctx;
  const logger = ctx.logger.child({ controller: "network" });
  const dispatcher = given ?? new Agent({ connect: { timeout: fetchTimeoutMs } });
  const fetching = { dispatcher, clock, random, logger };
  const feeds = new Feeds({ ...fetching, fleet: ctx.fleet, metrics }, (key) =>
    controller.enqueue(key, "the network refuses the account, or takes it again"),
  );
  const reconciler = new NetworkReconciler({ ...ctx, logger }, fetching, feeds);
  const controller = new Controller({
    name: "network",
    sources: networkSources(ctx.caches, clock),
    reconcile: (key, ended) => reconciler.reconcile(key, ended),
    // Eight endpoints may each take their time before they are given up.
    concurrency: 8,
    timeout: 120_000,
    clock,
    random,
    logger: ctx.logger,
    metrics,
  });
  try {
    await controller.run(signal);
  } finally {
    await feeds.stop();
    reconciler.forgetAll();
    if (!given) await dispatcher.destroy();
  }
}

class NetworkReconciler {
  readonly #ctx: OperatorContext;
  readonly #fetching: Executing["fetching"];
  readonly #feeds: Feeds;
  readonly #known = new Map<string, Knowledge>();
  readonly #uses: NodeUses;

  constructor(ctx: OperatorContext, fetching: Executing["fetching"], feeds: Feeds) {
    this.#ctx = ctx;
    this.#uses = new NodeUses(ctx.caches.nodes);
    this.#fetching = fetching;
    this.#feeds = feeds;
  }

  async reconcile(key: string, signal: AbortSignal): Promise<Result | undefined> {
    const cached = this.#ctx.caches.networks.store.get(key);
    if (!cached || cached.metadata.deletionTimestamp !== undefined) {
      await this.#forget(key);
      return undefined;
    }
    const knowledge = await this.#knowledgeOf(key, cached);
    const network = newest(cached, knowledge.written);
    const into: Executing = {
      operator: this.#ctx,
      fetching: this.#fetching,
      feeds: this.#feeds,
      key,
      network,
      knowledge,
    };
    try {
      await this.#bringUp(into, signal);
      knowledge.findings = { ...knowledge.findings, kube: undefined };
    } catch (error) {
      if (!isKubeError(error, "Forbidden", "Invalid")) throw error;
      const reason = error.code === "Forbidden" ? "PermissionMissing" : "SpecInvalid";
      const message = `the API server refuses the operator: ${error.message}`;
      knowledge.findings = { ...knowledge.findings, kube: { reason, message } };
      this.#ctx.events.record(network, { type: "Warning", reason, action: "Refuse", note: message });
    }
    const seen = this.#observe(into);
    const plan = planNetwork(seen);
    await this.#writeStatus(into, seen, plan, signal);
    return { requeueAfter: this.#nextLook(seen, plan) };
  }

  /** Forgets all networks, when this process no longer leads. Nothing is reconciled after it. */
  forgetAll(): void {
    this.#uses.stop();
    for (const key of this.#known.keys()) this.#ctx.configs.set(key, undefined);
    this.#known.clear();
  }

  async #forget(key: string): Promise<void> {
    if (!this.#known.delete(key)) return;
    this.#ctx.configs.set(key, undefined);
    await this.#feeds.forget(key);
  }

  async #knowledgeOf(key: string, { metadata, status }: ResultityNetwork): Promise<Knowledge> {
    let knowledge = this.#known.get(key);
    if (knowledge && knowledge.uid !== metadata.uid) {
      await this.#forget(key);
      knowledge = undefined;
    }
    if (!knowledge) {
      knowledge = newKnowledge(metadata.uid, status?.config?.releaseSequence ?? 0);
      this.#known.set(key, knowledge);
    }
    if (knowledge.generation !== metadata.generation) {
      Object.assign(knowledge, { generation: metadata.generation, readInputsAt: 0, fetchAt: 0 });
    }
    return knowledge;
  }

  #observe({ key, network, knowledge }: Executing): NetworkObservation {
    const { clock, configs } = this.#ctx;
    const nodes = this.#uses.of(key);
    const published = configs.get(key);
    return { network, nodes, knowledge, published, now: clock.now(), monotonic: clock.monotonic() };
  }

  /** Reads and fetches what is due, and carries out what the plan says to it. */
  async #bringUp(into: Executing, signal: AbortSignal): Promise<void> {
    const { key, network, knowledge } = into;
    const { clock, configs } = this.#ctx;
    await this.#readInputs(into, signal);
    // What was good before serves while the endpoints are asked, which may take long.
    if (!configs.get(key)) await this.#carryOut(into, ["apply-config-map", "publish"], signal);
    if (knowledge.root && knowledge.fetchAt <= clock.monotonic()) {
      await refreshDocuments(network, knowledge, this.#fetching, signal);
    }
    await this.#carryOut(into, ["fetch-snapshot"], signal);
    const choice = await this.#carryOut(into, ["apply-config-map", "publish"], signal);
    knowledge.current = choice.current ?? knowledge.current;
    const wanted = new Set([choice.next, choice.pending, ...choice.held]);
    for (const digest of knowledge.snapshots.keys()) {
      if (!wanted.has(digest)) knowledge.snapshots.delete(digest);
    }
  }

  async #readInputs({ network, knowledge }: Executing, signal: AbortSignal): Promise<void> {
    const now = this.#ctx.clock.monotonic();
    if (knowledge.readInputsAt > now) return;
    const interval = network.spec.config.refreshIntervalSeconds * 1000;
    knowledge.readInputsAt = now + Math.min(interval, inputsInterval.wrong);
    takeInputs(knowledge, await observeInputs(this.#ctx.client, network, signal));
    const { root, account } = knowledge.findings;
    if (!root && !account) knowledge.readInputsAt = now + Math.max(interval, inputsInterval.well);
  }

  async #carryOut(into: Executing, types: readonly string[], signal: AbortSignal) {
    const { choice, actions } = planNetwork(this.#observe(into));
    for (const action of actions) if (types.includes(action.type)) await execute(action, into, signal);
    return choice;
  }

  async #writeStatus(
    { key, network, knowledge }: Executing,
    seen: NetworkObservation,
    plan: NetworkPlan,
    signal: AbortSignal,
  ): Promise<void> {
    const status = networkStatusOf({ seen, plan, refusal: this.#feeds.refusal(key) });
    if (canonical(status) === canonical(network.status)) return;
    const { name, namespace } = network.metadata;
    try {
      knowledge.written = await this.#ctx.client.applyStatus(
        networks,
        { metadata: { name, namespace }, status },
        { fieldManager: networkManager, signal },
      );
    } catch (error) {
      // Deleted meanwhile: the cache will say so.
      if (isKubeError(error, "NotFound")) return;
      throw error;
    }
    const ready = status.conditions?.find(({ type }) => type === "Ready");
    this.#ctx.logger.info(
      {
        network: key,
        ready: ready?.status,
        reason: ready?.reason,
        message: ready?.message,
        nodes: status.nodes,
      },
      "network status written",
    );
  }

  /** Ms until something is due without an event. */
  #nextLook(seen: NetworkObservation, plan: NetworkPlan): number {
    const { knowledge, now, monotonic } = seen;
    const waits = [
      knowledge.readInputsAt - monotonic,
      ...(knowledge.root ? [knowledge.fetchAt - monotonic] : []),
      ...missingOf(knowledge, plan.choice).map(
        (digest) => (knowledge.missed.get(digest)?.at ?? 0) - monotonic,
      ),
      ...turningPoints({ seen, plan })
        .filter((at) => at > now)
        .map((at) => at - now),
    ];
    return Math.max(leastWait, Math.min(...waits));
  }
}

/** The cache may be a moment behind our own write. */
function newest(cached: ResultityNetwork, written: ResultityNetwork | undefined): ResultityNetwork {
  if (!written) return cached;
  const order = compareResourceVersions(written.metadata.resourceVersion, cached.metadata.resourceVersion);
  // The spec is the cache's to tell: its event has woken us.
  return order !== undefined && order > 0
    ? { ...cached, ...(written.status && { status: written.status }) }
    : cached;
}
