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
  if (told.size > 0) {
    const mayTake = membersOf(world, status, left);
    for (const action of actions) checkStep(world, action, status, mayTake);
  }
  checkStatus(world, status, staying);
}

/** I7: with what this plan takes away, as many nodes serve as the budget asks for, and no more are on their way than it allows. */
function checkBudget(world: PoolWorld, actions: readonly PoolAction[], left: readonly ResultityNode[]): void {
  const { pool, fleet } = world;
  const unparked = left.filter((child) => !isParked(child));
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

/** A person, or who took its GPUs, has parked it, as far as the pool can see. */
function isParked({ spec, status }: ResultityNode): boolean {
  const lacks = status?.conditions?.some(
    ({ type, reason }) => type === "Scheduled" && reason === "NoCapacity",
  );
  return spec.replicas === 0 || (spec.capacity === "Opportunistic" && lacks === true);
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
  mayTake: ((name: string) => boolean) | undefined,
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
  const asked = pool.spec.template.spec.config?.pin ?? world.fleet.current;
  if (digest === asked && mayTake && !mayTake(name))
    throw new Violation("canary", `${name} is told ${short(digest)}, which others try first`);
}

/**
 * Until a config has passed its trial, only the first nodes are told to move to it: those that may be told the asked config,
 * undefined while everybody may.
 */
function membersOf(
  { pool, fleet, allowed, truths }: PoolWorld,
  status: PoolStatus,
  left: readonly ResultityNode[],
): ((name: string) => boolean) | undefined {
  const { canary, partition } = pool.spec.strategy.rollingUpdate;
  const asked = pool.spec.template.spec.config?.pin ?? fleet.current;
  if (!canary || asked === undefined || pool.metadata.annotations?.[promote] === asked) return undefined;
  const { rollout } = status;
  // While the pool stands still, and under the partition, new nodes alone are told anything.
  if (pool.spec.strategy.paused || (rollout?.target === asked && rollout.canary === "Passed"))
    return undefined;
  const ordinalOf = (name: string) => Number(name.slice(pool.metadata.name.length + 1));
  const eligible = left
    .filter((child) => !isParked(child) && ordinalOf(child.metadata.name) >= partition)
    .sort((a, b) => ordinalOf(a.metadata.name) - ordinalOf(b.metadata.name));
  const runs = ({ status: { config } = {} }: ResultityNode) => config?.applied;
  // Who is the first to run anything has nobody to be tried against.
  if (eligible.every((child) => [undefined, asked].includes(runs(child)))) return undefined;
  const elsewhere = [...fleet.children.values()].some((child) => {
    const applied = runs(child);
    return applied !== undefined && applied !== asked && allowed.has(applied);
  });
  const first = new Set(eligible.slice(0, canary.replicas).map(({ metadata }) => metadata.name));
  // Who serves nobody takes what there is, if all else was withdrawn.
  return (name) =>
    first.has(name) || ordinalOf(name) < partition || (!elsewhere && !truths.get(name)?.serving);
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
  if (
    rollout?.canary === "Failed" &&
    !bad &&
    !tried.broken &&
    !someoneFailed(world) &&
    !staying.some(isStuck)
  )
    throw new Violation(
      "canary",
      `config ${short(rollout.target)} is well and has failed its trial: ${status.rejected?.[0]?.reason ?? "no reason"}`,
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

/** It says of an engine that does not come up; where the config is well, that is about one before. */
const isStuck = ({ status }: ResultityNode): boolean =>
  status?.conditions?.some(({ reason }) => reason === "EngineFailed") ?? false;

const someoneFailed = (world: PoolWorld): boolean =>
  world.lostHosts.size > 0 || [...world.truths.values()].some(({ failed }) => failed);

const short = (digest: string | undefined): string => digest?.slice(0, 12) ?? "nothing";
