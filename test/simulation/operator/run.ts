/**
 * One seed: a pool is made, is in service, and rolls through a storm; then nothing happens any more, and it must come to rest
 * by itself. I1 and I7 are checked at every event, I8 at the end.
 *
 * The API server, the scheduler and the controller manager are real, and time is too. So a seed says what happens, to whom and
 * when, and not in which order the answers of a busy machine come: a failure is found again by its seed in most runs, not in all.
 */
import { setTimeout as wait } from "node:timers/promises";
import { findCondition } from "../../../src/api/v1alpha1/conditions.ts";
import { messageOf } from "../../../src/lib/errors.ts";
import { Dice } from "../random.ts";
import { operatorUser } from "../../loop/operator-run.ts";
import { isWrite } from "../../testbed/audit.ts";
import { calm, stormOf } from "./happenings.ts";
import type { Stand } from "./stand.ts";
import { Violation } from "./witness.ts";
import { World } from "./world.ts";

/** What became of a seed. */
export interface Outcome {
  readonly seed: number;
  readonly nodes: number;
  readonly hosts: number;
  readonly happenings: number;
  readonly operatorLives: number;
  /** Pods that there were. */
  readonly pods: number;
  /** Events at which I1 and I7 were checked; times that the operator took a node from service; times that a fault did. */
  readonly events: number;
  readonly taken: number;
  readonly lost: number;
  readonly writes: number;
  readonly seconds: number;
  /** CPU of this process, s: the operator, all agents and hosts. */
  readonly cpu: number;
  readonly problem?: { readonly id: string; readonly message: string; readonly trace: readonly string[] };
}

/** How a seed is run. */
export interface RunOptions {
  /** Nodes of the pool. Default: 20 to 40, as the seed says. */
  readonly nodes?: number;
  /** Length of the storm, ms. */
  readonly stormMs: number;
  /** Longest wait for the pool to come to rest, ms. */
  readonly patienceMs: number;
}

/**
 * The operator has come to rest when it has written nothing for so long: longer than the status of a node may be kept back, but of
 * one that drains, and at rest none does.
 */
const restMs = 8_000;
const traceLines = 400;

/** Runs a seed on the stand. What goes wrong is in the outcome; what cannot be run rejects. */
export async function runSeed(stand: Stand, seed: number, options: RunOptions): Promise<Outcome> {
  const dice = new Dice(`operator ${seed}`);
  const nodes = options.nodes ?? dice.int(20, 40);
  const size = {
    nodes,
    gpusPerHost: dice.pick([1, 2, 4]),
    spareHosts: dice.int(1, 3),
    maxUnavailable: dice.int(1, Math.max(1, Math.ceil(nodes / 8))),
  };
  const began = performance.now();
  const cpu = process.cpuUsage();
  const world = await World.make(stand, seed, size, dice);
  let happenings = 0;
  let problem: Outcome["problem"];
  try {
    await world.begin();
    await untilServing(world, options.patienceMs);
    const hosts = world.fleet.hosts.map(({ name }) => name);
    const storm = stormOf(dice, { nodes, hosts, ms: options.stormMs });
    happenings = storm.length;
    const from = performance.now();
    for (const { at, run } of storm) {
      await wait(Math.max(0, at - (performance.now() - from)));
      if (world.witness.problem) throw world.witness.problem;
      await run(world);
    }
    await wait(Math.max(0, options.stormMs - (performance.now() - from)));
    world.note("the storm is over");
    await calm(world);
    await untilAtRest(world, options.patienceMs);
  } catch (thrown) {
    const found = world.witness.problem ?? thrown;
    const id = found instanceof Violation ? found.id : "error";
    const trace = [...world.trace.slice(-traceLines), ...(await world.hostTroubles().catch(() => []))];
    problem = { id, message: messageOf(found), trace };
  } finally {
    await world.end();
  }
  const { counts, seenPods } = world.witness;
  const spent = process.cpuUsage(cpu);
  return {
    seed,
    nodes,
    hosts: world.fleet.hosts.length,
    happenings,
    operatorLives: world.operatorLives,
    pods: seenPods,
    events: counts.events,
    taken: counts.taken,
    lost: counts.lost,
    writes: world.writes.length,
    seconds: Math.round((performance.now() - began) / 1000),
    cpu: Math.round((spent.user + spent.system) / 1e6),
    ...(problem ? { problem } : {}),
  };
}

/** Resolves when `why` finds nothing any more. @throws Violation I8 with what it found last */
async function poll(
  world: World,
  what: string,
  ms: number,
  why: () => Promise<string | undefined>,
): Promise<void> {
  const until = performance.now() + ms;
  for (;;) {
    if (world.witness.problem) throw world.witness.problem;
    // An answer that fails says as little as none: the API server may be busy.
    const open = await why().catch((thrown: unknown) => messageOf(thrown));
    if (open === undefined) return;
    if (performance.now() > until)
      throw new Violation("I8", `${what} is not reached in ${Math.round(ms / 1000)} s: ${open}`);
    await wait(250);
  }
}

const untilServing = (world: World, ms: number): Promise<void> =>
  poll(world, "the service of the new pool", ms, () => notServing(world));

/** Why the pool is not as it should be: who does not serve, does not run what is wanted, or is too many. */
async function notServing(world: World): Promise<string | undefined> {
  const [nodes, pool] = await Promise.all([world.nodes(), world.pool()]);
  if (nodes.length !== world.replicas) return `there are ${nodes.length} nodes, not ${world.replicas}`;
  for (const { metadata, status } of nodes) {
    const ready = findCondition(status?.conditions, "Ready");
    if (ready?.status !== "True" || ready.observedGeneration !== metadata.generation)
      return `${metadata.name} is not Ready: ${ready?.reason} ${ready?.message}`;
  }
  const { pods } = world.witness;
  if (pods.length !== world.replicas) return `there are ${pods.length} pods, not ${world.replicas}`;
  for (const { metadata, spec, status } of pods) {
    if (metadata.deletionTimestamp !== undefined) return `the pod ${metadata.name} is being deleted`;
    const image = spec.containers[0]?.image;
    if (image !== world.image) return `the pod ${metadata.name} has the image ${image}, not ${world.image}`;
    if (status?.containerStatuses?.[0]?.image !== world.image)
      return `the pod ${metadata.name} runs another image`;
  }
  const { replicas, updatedReplicas, availableReplicas } = pool?.status ?? {};
  const counts = [replicas, updatedReplicas, availableReplicas];
  if (counts.some((count) => count !== world.replicas))
    return `the pool's status counts ${counts.join(", ")} nodes, updated and available ones, not ${world.replicas}`;
  return undefined;
}

/** I8: comes to what was asked for by itself, and then nothing more is written. */
async function untilAtRest(world: World, ms: number): Promise<void> {
  await poll(world, "what was asked for", ms, () => notServing(world));
  world.note("all is as it was asked for");
  let [count, since] = [world.writes.length, performance.now()];
  await poll(world, "rest", Math.max(30_000, ms / 3), async () => {
    const { writes } = world;
    if (writes.length !== count) [count, since] = [writes.length, performance.now()];
    const quiet = performance.now() - since;
    return quiet > restMs ? undefined : `the operator goes on writing: ${writes.slice(-3).join("; ")}`;
  });
  // The API server's own record, where what the proxy saw could be less than what was asked.
  const { audit } = world.stand.bed;
  const all = (await audit.since()).filter(
    ({ user, namespace }) => user === operatorUser && namespace === world.namespace,
  );
  const writes = all.filter(
    (entry) => isWrite(entry) && entry.resource !== "events" && !entry.uri.includes("dryRun"),
  );
  const late = writes.filter(({ time }) => time > Date.now() - restMs);
  if (late.length > 0)
    throw new Violation(
      "I8",
      `the audit log has writes of an operator at rest: ${late.map(({ uri }) => uri).join("; ")}`,
    );
  const open = await notServing(world);
  if (open !== undefined) throw new Violation("I8", `it was at rest, and is no more: ${open}`);
}
