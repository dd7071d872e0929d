import type { PoolStatus } from "../../../src/api/v1alpha1/pool.ts";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import type { PoolAction } from "../../../src/operator/pool/observation.ts";
import type { PoolWorld } from "./world.ts";

/** Something that must never be. */
export class Violation extends Error {
  readonly id: string;

  constructor(id: string, message: string) {
    super(`${id}: ${message}`);
    this.id = id;
  }
}

const removing = "resultity.com/removing";
const promote = "resultity.com/promote";

/**
 * What is held against each plan before it is carried out. Nothing here asks the code under test: the budget, who is tried
 * first and who serves are worked out anew, the last of these from what the nodes are and not from what their objects say.
 */
export function checkPlan(world: PoolWorld, actions: readonly PoolAction[], status: PoolStatus): void {
  const { pool, fleet } = world;
  const stays = ({ metadata }: ResultityNode) =>
    metadata.deletionTimestamp === undefined && metadata.annotations?.[removing] === undefined;
  const staying = [...fleet.children.values()].filter(stays);
  const retired = new Set<string>();
  const told = new Map<string, PoolAction["type"][]>();
  for (const action of actions) {
    if (action.type === "budget") continue;
    const name = action.type === "create" ? action.name : action.child.metadata.name;
    told.set(name, [...(told.get(name) ?? []), action.type]);
    if (action.type === "retire") retired.add(name);
    if (action.type === "create" && fleet.children.has(name))
      throw new Violation("I1", `${name} is created and there is one already`);
    if (action.type === "delete" && fleet.pods.has(name))
      throw new Violation("I7", `${name} is deleted and has its pod`);
  }
  for (const [name, types] of told)
    if (types.length > 1 && types.join() !== "update,target")
      throw new Violation("told", `${name} is told two things at once: ${types.join(", ")}`);
  const surplus = Math.max(0, staying.length - pool.spec.replicas);
  if (retired.size !== surplus)
    throw new Violation("scale", `${retired.size} nodes are retired where ${surplus} are too many`);

  const left = staying.filter(({ metadata }) => !retired.has(metadata.name));
  checkBudget(world, actions, left);
  for (const action of actions) checkStep(world, action, status, left);
  checkStatus(world, status, staying);
}

/** I7: with what this plan takes away, as many nodes serve as the budget asks for, and no more are on their way than it allows. */
function checkBudget(world: PoolWorld, actions: readonly PoolAction[], left: readonly ResultityNode[]): void {
  const { pool, fleet } = world;
  const unparked = left.filter(({ spec }) => spec.replicas !== 0);
  const parked = left.length - unparked.length;
  const size = Math.max(0, pool.spec.replicas - parked);
  const { maxUnavailable } = pool.spec.strategy.rollingUpdate;
  const most =
    typeof maxUnavailable === "number"
      ? maxUnavailable
      : Math.max(1, Math.floor((size * Number(maxUnavailable.slice(0, -1))) / 100));
  const fewest = Math.max(0, size - most);
  const asked = actions.find(({ type }) => type === "budget");
  const minAvailable = asked?.type === "budget" ? asked.minAvailable : fleet.budget?.minAvailable;
  if (minAvailable !== fewest)
    throw new Violation("I7", `the PodDisruptionBudget keeps ${String(minAvailable)}, not ${fewest}`);

  const takes = actions.filter(
    (action) => "child" in action && world.isCostly(action) && !isOut(world, action.child),
  );
  const nameOf = (action: PoolAction) => ("child" in action ? action.child.metadata.name : "");
  const taken = new Set(takes.map(nameOf));
  // Who edits the pool wants it now; what the network brings can wait.
  const edited = new Set(takes.filter(({ type }) => type === "update").map(nameOf));
  if (!fleet.mayRestart && edited.size < taken.size)
    throw new Violation("window", `${[...taken].join(", ")}: restarted outside of the maintenance window`);
  if (taken.size === 0) return;
  const truths = unparked.map(({ metadata }) => ({ name: metadata.name, ...world.truth(metadata.name) }));
  const serving = truths.filter((node) => node.serving && !node.interrupted && !taken.has(node.name)).length;
  const moving = truths.filter((node) => node.interrupted || taken.has(node.name)).length;
  const why = `${taken.size} taken (${[...taken].slice(0, 3).join(", ")}), size ${size}, maxUnavailable ${maxUnavailable}`;
  if (serving < fewest) throw new Violation("I7", `${serving} nodes serve where ${fewest} are to: ${why}`);
  if (moving > most) throw new Violation("I7", `${moving} nodes move where ${most} may: ${why}`);
}

/** Out already, or edited and about to be looked at: it is not taken once more. */
function isOut(world: PoolWorld, { metadata }: ResultityNode): boolean {
  const { interrupted, generation } = world.truth(metadata.name);
  return interrupted || generation !== metadata.generation;
}

function checkStep(
  world: PoolWorld,
  action: PoolAction,
  status: PoolStatus,
  left: readonly ResultityNode[],
): void {
  if (action.type !== "update" && action.type !== "target") return;
  const { pool } = world;
  const { name } = action.child.metadata;
  const { rollingUpdate, paused } = pool.spec.strategy;
  const before = action.child.status?.config;
  const ordinal = Number(name.slice(pool.metadata.name.length + 1));
  const isNew = before?.target === undefined;
  if ((paused || ordinal < rollingUpdate.partition) && !(isNew && action.type === "target"))
    throw new Violation("held", `${name} is told to ${action.type} though it is to stay as it is`);
  if (action.type === "update") return;
  const { digest } = action;
  if (!world.allowed.has(digest))
    throw new Violation("I6", `${name} is told ${short(digest)}, which the release does not allow`);
  if (before?.target === digest) throw new Violation("told", `${name} is told ${short(digest)} again`);
  const isAsBefore = wayOf(status) === wayOf(pool.status);
  if (isAsBefore && before?.applied !== before?.target && world.truth(name).toldAt === world.wish)
    throw new Violation(
      "told",
      `${name} is on its way to ${short(before?.target)} and is told ${short(digest)}, though nothing else was asked for`,
    );
  checkTrial(world, name, digest, status, left);
}

/** Until a config has passed its trial, only the first nodes are told to move to it. */
function checkTrial(
  { pool, fleet, allowed, truths }: PoolWorld,
  name: string,
  digest: string,
  status: PoolStatus,
  left: readonly ResultityNode[],
): void {
  const { canary, partition } = pool.spec.strategy.rollingUpdate;
  const asked = pool.spec.template.spec.config?.pin ?? fleet.current;
  if (!canary || digest !== asked || pool.metadata.annotations?.[promote] === digest) return;
  const { rollout } = status;
  if (rollout?.target === digest && rollout.canary === "Passed") return;
  const ordinalOf = ({ metadata }: ResultityNode) =>
    Number(metadata.name.slice(pool.metadata.name.length + 1));
  const eligible = left
    .filter((child) => child.spec.replicas !== 0 && ordinalOf(child) >= partition)
    .sort((a, b) => ordinalOf(a) - ordinalOf(b));
  const others = eligible.some(
    ({ status: { config } = {} }) => ![undefined, digest].includes(config?.applied),
  );
  // Who serves nobody takes what there is, if all else was withdrawn.
  const elsewhere = [...fleet.children.values()].some(
    ({ status: { config } = {} }) =>
      config?.applied !== undefined && config.applied !== digest && allowed.has(config.applied),
  );
  if (!truths.get(name)?.serving && !elsewhere) return;
  const rank = eligible.findIndex(({ metadata }) => metadata.name === name);
  // A node that is the first to run anything has nobody to be tried against; nor has one under the partition.
  if (!others || pool.spec.strategy.paused || ordinalOf({ metadata: { name } } as ResultityNode) < partition)
    return;
  if (rank < 0 || rank >= canary.replicas)
    throw new Violation(
      "canary",
      `${name} is told ${short(digest)}, which ${canary.replicas} others try first`,
    );
}

/** The figures of the status are the figures of the world. */
function checkStatus(world: PoolWorld, status: PoolStatus, staying: readonly ResultityNode[]): void {
  const serving = staying.filter(
    ({ metadata, status: { conditions } = {} }) =>
      conditions?.find(({ type }) => type === "Ready")?.status === "True" && world.truths.has(metadata.name),
  ).length;
  const { replicas, availableReplicas, updatedReplicas = 0, rollout } = status;
  if (replicas !== world.fleet.children.size || availableReplicas !== serving)
    throw new Violation(
      "status",
      `status counts ${replicas} nodes, ${availableReplicas} available; there are ${world.fleet.children.size}, ${serving}`,
    );
  if (updatedReplicas > staying.length || (rollout && rollout.updated > rollout.total))
    throw new Violation("status", `${updatedReplicas} nodes are updated of ${staying.length}`);
  const { autoRollback, canary } = world.pool.spec.strategy.rollingUpdate;
  const tried = rollout?.target === undefined ? undefined : world.configs.get(rollout.target);
  if (!canary || !tried || rollout?.canary === world.pool.status?.rollout?.canary) return;
  const bad = tried.errors * 100 > canary.maxErrorRatePercent;
  if (rollout?.canary === "Passed" && bad && canary.jobs > 0)
    throw new Violation("canary", `a config with ${tried.errors * 100} % errors has passed`);
  if (rollout?.canary === "Failed" && !bad && !tried.broken && !someoneFailed(world))
    throw new Violation(
      "canary",
      `a config that is well has failed its trial: ${status.rejected?.[0]?.reason ?? "no reason"}`,
    );
  if (
    rollout?.canary === "Failed" &&
    autoRollback &&
    staying.some(
      ({ status: { config } = {} }) =>
        world.allowed.has(config?.applied ?? "") && config?.applied !== rollout.target,
    ) &&
    !status.rejected?.some(({ digest }) => digest === rollout.target)
  )
    throw new Violation("canary", "a config has failed its trial, and nothing says that the pool goes back");
}

/** Which way a pool goes: nodes on the way are told when that changes. */
export const wayOf = ({ rollout, rejected }: PoolStatus = {}): string =>
  JSON.stringify([rollout?.canary, rejected?.map(({ digest }) => digest)]);

const someoneFailed = (world: PoolWorld): boolean =>
  world.lostHosts.size > 0 || [...world.truths.values()].some(({ failed }) => failed);

const short = (digest: string | undefined): string => digest?.slice(0, 12) ?? "nothing";
