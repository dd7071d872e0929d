/**
 * A rollout of a large pool under load, with whatever goes wrong in one: agents are killed, a host is lost and comes back, one
 * host cannot pull the new image, and the target changes on the way. Everything but containers and engines is real.
 */
import { setTimeout as wait } from "node:timers/promises";
import { engineImage } from "../images.ts";
import { type ClientEntry, runLoad } from "../load.ts";
import { isNodeReady, type Loop, startLoop } from "../loop.ts";
import { AuditTail, isRealWrite, operatorUser, requestLine } from "../operator-run.ts";
import { receiptJobs } from "../receipts.ts";
import { type FaultReconciliation, reconcileFaults } from "../reconcile-faults.ts";
import { until } from "../../testbed/until.ts";
import { collectJobs, submitJobs } from "./async-load.ts";
import { Capacity } from "./capacity.ts";
import { Fleet } from "./fleet.ts";
import { PoolWatch, type Saying } from "./pool-watch.ts";
import { judgeStarts, type StartReport } from "./starts.ts";

/** How large it is. */
export interface RolloutOptions {
  /** A multiple of 8, which is how many each host has. Default 200. */
  readonly nodes?: number;
  /** Most nodes out of service at once. Default a fifth of them. */
  readonly maxUnavailable?: number;
  /** Requests at once. Default 24. */
  readonly clients?: number;
  readonly log?: (line: string) => void;
}

/** What came of it. */
export interface RolloutReport {
  readonly nodes: number;
  readonly maxUnavailable: number;
  readonly seconds: { readonly start: number; readonly roll: number };
  /** Answered, answered in a later attempt, interrupted streams of victims; whatever else is a problem. */
  readonly jobs: FaultReconciliation & { readonly asked: number; readonly asynchronous: number };
  readonly capacity: Pick<Capacity, "problems" | "mostByOperator" | "mostByFault" | "lowest">;
  /** Nodes that left service for an image which their host could not get. */
  readonly wentForNothing: readonly string[];
  readonly starts: StartReport;
  /** Pods that were deleted. */
  readonly pods: readonly string[];
  /** What the pool said while the image could not be pulled. */
  readonly said: Saying;
  /** Writes of the operator from the first publication to the end, for each node; and those after the end. */
  readonly writesPerNode: number;
  readonly writesAfter: readonly string[];
}

const gpusPerHost = 8;
const tokenDelayMs = 400;
const maxTokens = 5;
/** A host renews its Lease every so often, and counts as lost if it has not for so long. */
const [leaseMs, graceSeconds] = [5_000, 30];
/** Longest time that one step of the story may take on a machine that is busy with others, ms. */
const patienceMs = (nodes: number): number => 120_000 + nodes * 1_500;
/** How long nothing may be written at the end, ms. */
const quietMs = 8_000;

/** Runs it. The bundles must have been built. */
export async function rolloutUnderFaults(options: RolloutOptions = {}): Promise<RolloutReport> {
  const { nodes = 200, clients = 24, log = () => {} } = options;
  const maxUnavailable = options.maxUnavailable ?? nodes / 5;
  const begun = performance.now();
  const grace = [`--node-monitor-grace-period=${graceSeconds}s`, "--node-monitor-period=1s"];
  await using loop = await startLoop({
    hosts: 0,
    tokenDelayMs,
    maxJobs: 4,
    extraArgs: { "controller-manager": grace },
    log,
  });
  const fleet = await Fleet.start(loop.bed, {
    hosts: nodes / gpusPerHost,
    gpusPerHost,
    tokenDelayMs,
    startMs: 500,
    pullMs: 300,
    leaseMs,
  });
  await loop.applySamples({
    replicas: nodes,
    pool: { "strategy.rollingUpdate": { maxUnavailable, prefetch: { maxParallel: nodes } } },
  });
  const patience = { deadlineMs: patienceMs(nodes), intervalMs: 500 };
  await until("the pool to be whole", async () => requireWhole(await loop.pool(), nodes), patience).catch(
    // Which node it is for, and why.
    () => loop.untilReady(nodes, 0),
  );
  const startSeconds = (performance.now() - begun) / 1000;
  log(`${nodes} nodes are in service after ${startSeconds.toFixed(0)} s`);

  const capacity = new Capacity({ size: nodes, maxUnavailable });
  const watch = await PoolWatch.open(loop, capacity);
  capacity.begin();
  const tail = new AuditTail(loop, operatorUser);
  const writesBefore = tail.writes();
  const load = startLoad(loop, clients);
  const rolled = performance.now();
  const scene = { loop, fleet, watch, capacity, nodes, log };
  const told = await tellStory(scene);
  const rollSeconds = (performance.now() - rolled) / 1000;
  log(`the roll has ended after ${rollSeconds.toFixed(0)} s`);
  const entries = await load.stop();
  await tail.untilQuiet();
  const written = tail.writes() - writesBefore;
  const end = tail.entries.length;
  await wait(quietMs);
  tail.read();
  await watch.close();

  const { starts, lines } = await fleet.told();
  const jobs = await reconciled(loop, entries.all, lines, watch, told.victims);
  return {
    nodes,
    maxUnavailable,
    seconds: { start: startSeconds, roll: rollSeconds },
    jobs: { ...jobs, asked: entries.all.length, asynchronous: entries.asynchronous },
    capacity,
    wentForNothing: capacity.departures
      .filter(({ name, at }) => told.barren.includes(name) && at < (told.story.turned.get(name) ?? Infinity))
      .map(({ name }) => name),
    starts: judgeStarts([...watch.nodes.keys()], starts, told.story),
    pods: watch.problems,
    said: told.said,
    writesPerNode: written / nodes,
    writesAfter: tail.entries.slice(end).filter(isRealWrite).map(requestLine),
  };
}

/** All nodes serve and are up to date. @throws Error that says what the pool says */
function requireWhole(pool: Awaited<ReturnType<Loop["pool"]>>, nodes: number): true {
  const { availableReplicas, updatedReplicas, conditions = [] } = pool?.status ?? {};
  if (availableReplicas === nodes && updatedReplicas === nodes) return true;
  const said = conditions.map(({ reason, message }) => `${reason}: ${message}`).join("; ");
  throw new Error(`${availableReplicas} nodes serve, ${updatedReplicas} are up to date; ${said}`);
}

/** Clients that never try again: of plain and streamed completions, and of asynchronous jobs. */
function startLoad(loop: Loop, concurrency: number) {
  const enough = new AbortController();
  const client = { baseURL: loop.ioURL, apiKey: loop.apiKey };
  const { signal } = enough;
  const waiting = runLoad({ ...client, total: 1_000_000, concurrency, maxTokens, signal });
  const asynchronous = submitJobs(client, { everyMs: 500, maxTokens, signal });
  // Looked at by stop(); until then it may fail unseen.
  for (const each of [waiting, asynchronous]) each.catch(() => {});
  return {
    async stop(): Promise<{ all: readonly ClientEntry[]; asynchronous: number }> {
      enough.abort();
      const [entries, promised] = await Promise.all([waiting, asynchronous]);
      const collected = await collectJobs(client, promised);
      return { all: [...entries, ...collected], asynchronous: collected.length };
    },
  };
}

interface Scene {
  readonly loop: Loop;
  readonly fleet: Fleet;
  readonly watch: PoolWatch;
  readonly capacity: Capacity;
  readonly nodes: number;
  readonly log: (line: string) => void;
}

/** What happens, in order; resolves when the roll has ended by itself. */
async function tellStory({ loop, fleet, watch, capacity, nodes, log }: Scene) {
  const images = [engineImage("v1"), engineImage("v2"), engineImage("v3")] as const;
  const agentKills = new Map<string, number>();
  const victims = new Set<string>();
  const recoveries: Promise<void>[] = [];
  const patience = { deadlineMs: patienceMs(nodes), intervalMs: 50 };
  const share = (digest: string) => watch.applied(digest).length / nodes;
  const isMoving = (name: string) => {
    const { target, applied } = watch.nodes.get(name)?.status?.config ?? {};
    return target !== applied;
  };

  // Its turn comes soon after the first: hosts go in the order of the lowest number there.
  const barren = hostsInOrder(watch)[2] ?? "";
  await fleet.miss(barren, images[1]);
  const first = await loop.publish("v2");
  log(`published ${first}; ${barren} cannot pull its image`);

  const kill = async (which: string, isMeant: (name: string) => boolean) => {
    const node = await until(
      `a node to kill that ${which}`,
      async () => {
        const busy = busyNodes(await fleet.told());
        return [...busy].find(
          (name) => isMeant(name) && !victims.has(name) && hostOf(watch, name) !== barren,
        );
      },
      patience,
    );
    victims.add(node);
    agentKills.set(node, 1);
    const restarts = watch.agentRestarts(node);
    capacity.fault([node], Date.now());
    await fleet.killAgent(node);
    log(`killed the agent of ${node}, which ${which}`);
    const recovery = watch.untilServing(node, restarts + 1, patience.deadlineMs);
    recoveries.push(recovery.then(() => capacity.over([node], Date.now())));
    // Looked at when the roll has ended.
    recoveries.at(-1)?.catch(() => {});
  };
  await until("the roll to be under way", () => share(first) > 0.1, patience);
  await kill("serves", (name) => !isMoving(name));

  const lostHost = await until("a host to lose", () => hostInMove(watch, isMoving, barren), patience);
  const lostNodes = new Set(watch.on(lostHost));
  for (const node of lostNodes) victims.add(node);
  capacity.fault(lostNodes, Date.now());
  await fleet.crash(lostHost);
  log(`${lostHost} lost its power with ${lostNodes.size} nodes`);

  const said = await until(
    "the pool to say that an image does not come",
    () =>
      watch.sayings.find(
        ({ reason, message }) =>
          reason === "WaitingForNode" && message.includes("PrefetchFailed") && message.includes(images[1]),
      ),
    patience,
  );
  log(said.message);
  await until("a third of the roll", () => share(first) > 0.3, patience);
  const second = await loop.publish("v3");
  log(`published ${second}`);
  await until("the pool to change its target", () => watch.targets.has(second), patience);
  await kill("is on its way", isMoving);

  await until(
    "the host to count as lost",
    () => ![...lostNodes].some((name) => serves(watch, name)) && share(second) > 0.3,
    patience,
  );
  const backAt = Date.now();
  await fleet.boot(lostHost);
  log(`${lostHost} is back`);
  capacity.over(lostNodes, Date.now());
  await until(
    "the roll to end",
    () => {
      if (share(second) < 1) throw new Error(`${watch.applied(second).length} nodes run it`);
      return requireWhole(watch.pool, nodes);
    },
    patience,
  );
  await Promise.all(recoveries);
  const lost = { nodes: lostNodes, backAt };
  return {
    said,
    victims,
    barren: watch.on(barren),
    story: {
      images,
      given: watch.given.get(images[1]) ?? new Map(),
      turned: watch.told.get(second) ?? new Map(),
      agentKills,
      lost,
    },
  };
}

function hostOf({ pods }: PoolWatch, node: string): string {
  const host = pods.get(node)?.spec.nodeName;
  if (host === undefined) throw new Error(`${node} is on no host`);
  return host;
}

/** Hosts, first the one with the node that has the lowest number. */
function hostsInOrder(watch: PoolWatch): readonly string[] {
  const numberOf = (name: string) => Number(name.split("-").at(-1));
  const names = [...watch.pods.keys()].toSorted((a, b) => numberOf(a) - numberOf(b));
  return [...new Set(names.map((name) => hostOf(watch, name)))];
}

/** A host that is in the middle of its move. */
function hostInMove(
  watch: PoolWatch,
  isMoving: (name: string) => boolean,
  except: string,
): string | undefined {
  const hosts = hostsInOrder(watch).filter((host) => host !== except);
  return hosts.find((host) => watch.on(host).filter(isMoving).length >= 2);
}

function serves({ nodes }: PoolWatch, name: string): boolean {
  const node = nodes.get(name);
  return node !== undefined && isNodeReady(node);
}

/** Nodes whose engine has begun a job and not ended it. */
function busyNodes({ lines }: Awaited<ReturnType<Fleet["told"]>>): ReadonlySet<string> {
  const open = new Map<string, string>();
  for (const { event, id = "", node } of lines) {
    if (event === "begin") open.set(`${node} ${id}`, node);
    else if (event === "end") open.delete(`${node} ${id}`);
  }
  return new Set(open.values());
}

/** The jobs by what client, store, engines and receipts say of them; interrupted ones only where a victim had them. */
async function reconciled(
  loop: Loop,
  client: readonly ClientEntry[],
  engine: Awaited<ReturnType<Fleet["told"]>>["lines"],
  watch: PoolWatch,
  victims: ReadonlySet<string>,
): Promise<FaultReconciliation> {
  const store = await until(
    "the last commits",
    async () => {
      const jobs = await loop.ioJobs();
      const open = jobs.filter(({ state }) => !ended.has(state));
      if (open.length > 0) throw new Error(`${open.length} jobs are open, one is ${open[0]?.state}`);
      return jobs;
    },
    { deadlineMs: 60_000, intervalMs: 500 },
  );
  const all = reconcileFaults({ client, store, engine, receipts: await receiptJobs(loop) });
  const ids = new Set([...victims].map((name) => watch.nodes.get(name)?.status?.nodeId));
  const wrongly = store
    .filter(({ state, node }) => state === "INTERRUPTED" && !ids.has(node ?? ""))
    .map(({ id, node }) => `${id}: INTERRUPTED on ${node}, which nothing happened to`);
  return { ...all, problems: [...all.problems, ...wrongly] };
}

const ended: ReadonlySet<string> = new Set(["CONFIRMED", "CANCELLED", "EXPIRED", "INTERRUPTED", "DEAD"]);
