import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import type { Dice } from "../random.ts";
import type { PoolWorld } from "./world.ts";

interface Happening {
  readonly name: string;
  readonly weight: number;
  readonly happen: (world: PoolWorld, dice: Dice) => void;
}

/** Publishes a config and makes it the current one. */
export function publish(world: PoolWorld, dice: Dice): void {
  const digest = `sha256:${world.configs.size.toString(16).padStart(4, "0").repeat(16)}`;
  const sick = dice.chance(0.35);
  world.configs.set(digest, {
    family: dice.chance(0.8) ? world.configs.size : 0,
    errors: sick && dice.chance(0.6) ? dice.between(0.12, 1) : 0,
    broken: sick && dice.chance(0.4),
  });
  world.allowed.add(digest);
  world.fleet.current = digest;
  world.wished();
}

/** Takes back what is neither current nor pinned; now and then one that nodes still run. */
function withdraw(world: PoolWorld, dice: Dice): void {
  const pin = world.pool.spec.template.spec.config?.pin;
  const old = [...world.allowed].filter((digest) => digest !== world.fleet.current && digest !== pin);
  if (old.length === 0) return;
  world.allowed.delete(dice.pick(old));
  world.wished();
}

const anyNode = (world: PoolWorld, dice: Dice): string | undefined =>
  world.truths.size === 0 ? undefined : dice.pick([...world.truths.keys()]);

function editChild(world: PoolWorld, name: string, edit: (child: ResultityNode) => ResultityNode): void {
  world.fleet.change(name, edit);
  world.lookSoon(name);
  world.wished();
}

const isGoing = ({ metadata }: ResultityNode): boolean =>
  metadata.deletionTimestamp !== undefined || metadata.annotations?.["resultity.com/removing"] !== undefined;

export const happenings: readonly Happening[] = [
  { name: "publish", weight: 8, happen: publish },
  { name: "withdraw", weight: 2, happen: withdraw },
  {
    name: "scale",
    weight: 4,
    happen: (world, dice) => {
      const size = world.pool.spec.replicas;
      const replicas = dice.chance(0.1) ? 0 : dice.int(Math.floor(size / 2), Math.ceil(size * 1.5) + 1);
      world.setPool({ replicas: Math.min(replicas, world.hosts * 20, 10_000) });
    },
  },
  {
    name: "edit the template",
    weight: 3,
    happen: (world, dice) => {
      const { template } = world.pool.spec;
      const spec = { ...template.spec, models: [`model-${dice.int(1, 3)}`] };
      world.setPool({ template: { ...template, spec } });
    },
  },
  {
    name: "edit the labels",
    weight: 1,
    happen: (world, dice) => {
      const { template } = world.pool.spec;
      const labels = { tier: `tier-${dice.int(1, 3)}` };
      world.setPool({ template: { ...template, metadata: { ...template.metadata, labels } } });
    },
  },
  {
    name: "pin",
    weight: 2,
    happen: (world, dice) => {
      const { template } = world.pool.spec;
      const { config: _, ...spec } = template.spec;
      const pin = dice.chance(0.4) ? dice.pick([...world.allowed]) : undefined;
      world.setPool({
        template: { ...template, spec: pin === undefined ? spec : { ...spec, config: { pin } } },
      });
    },
  },
  {
    name: "pause",
    weight: 2,
    happen: (world) => {
      const { strategy } = world.pool.spec;
      world.setPool({ strategy: { ...strategy, paused: !strategy.paused } });
    },
  },
  {
    name: "partition",
    weight: 2,
    happen: (world, dice) =>
      world.setStrategy({ partition: dice.chance(0.5) ? 0 : dice.int(0, world.pool.spec.replicas) }),
  },
  {
    name: "maxUnavailable",
    weight: 2,
    happen: (world, dice) =>
      world.setStrategy({ maxUnavailable: dice.pick([1, 2, 5, "10%", "25%", "50%", "100%"]) }),
  },
  {
    name: "park",
    weight: 4,
    happen: (world, dice) => {
      const name = anyNode(world, dice);
      const child = name === undefined ? undefined : world.fleet.children.get(name);
      if (name === undefined || !child || isGoing(child)) return;
      editChild(world, name, ({ metadata, spec, ...more }) => ({
        ...more,
        metadata: { ...metadata, generation: metadata.generation + 1 },
        spec: { ...spec, replicas: 1 - spec.replicas },
      }));
    },
  },
  {
    name: "delete a node",
    weight: 1,
    happen: (world, dice) => {
      const name = anyNode(world, dice);
      if (name === undefined) return;
      editChild(world, name, (child) => ({
        ...child,
        metadata: { ...child.metadata, deletionTimestamp: "2026-01-01T00:00:00Z" },
      }));
    },
  },
  {
    name: "edit a node",
    weight: 1,
    happen: (world, dice) => {
      const name = anyNode(world, dice);
      if (name === undefined) return;
      editChild(world, name, (child) => ({ ...child, metadata: { ...child.metadata, labels: {} } }));
    },
  },
  {
    name: "failure",
    weight: 5,
    happen: (world, dice) => {
      const name = anyNode(world, dice);
      if (name !== undefined) world.fail(name, !world.truth(name).failed);
    },
  },
  {
    name: "capacity",
    weight: 1,
    happen: (world, dice) => world.setPool({ capacity: dice.chance(0.7) ? "Opportunistic" : "Guaranteed" }),
  },
  {
    name: "tenants come",
    weight: 2,
    happen: (world, dice) => {
      for (const name of world.truths.keys()) if (dice.chance(0.3)) world.take(name, true);
    },
  },
  {
    name: "tenants go",
    weight: 2,
    happen: (world, dice) => {
      for (const [name, { taken }] of world.truths) if (taken && dice.chance(0.7)) world.take(name, false);
    },
  },
  {
    name: "host",
    weight: 3,
    happen: (world, dice) => {
      const host = `host-${dice.int(1, world.hosts)}`;
      world.loseHost(host, !world.lostHosts.has(host));
    },
  },
  {
    name: "maintenance window",
    weight: 2,
    happen: (world, dice) => {
      world.fleet.mayRestart = dice.chance(0.6);
      world.reconcileIn(50);
    },
  },
  {
    name: "traffic",
    weight: 2,
    happen: (world, dice) => {
      world.traffic = dice.chance(0.7);
    },
  },
  {
    name: "promote",
    weight: 1,
    happen: (world) => {
      const asked = world.pool.spec.template.spec.config?.pin ?? world.fleet.current;
      if (asked === undefined) return;
      const { metadata } = world.pool;
      const annotations = { ...metadata.annotations, "resultity.com/promote": asked };
      world.fleet.pool = { ...world.pool, metadata: { ...metadata, annotations } };
      world.wished();
    },
  },
];

/** Lets one thing happen. */
export function happen(world: PoolWorld, dice: Dice): void {
  let left = dice.number() * happenings.reduce((sum, { weight }) => sum + weight, 0);
  for (const each of happenings) {
    left -= each.weight;
    if (left >= 0) continue;
    each.happen(world, dice);
    return world.note(`${each.name}: ${describe(world)}`);
  }
}

/** What is asked for now, in a line. */
function describe({ pool, fleet, allowed, lostHosts, truths }: PoolWorld): string {
  const { replicas, strategy, template } = pool.spec;
  const { maxUnavailable, partition } = strategy.rollingUpdate;
  const failed = [...truths].filter(([, { failed }]) => failed).map(([name]) => name);
  return [
    `${replicas} nodes of ${template.spec.models?.join() ?? "any model"} on ${short(template.spec.config?.pin ?? fleet.current)}`,
    `maxUnavailable ${maxUnavailable}, partition ${partition}${strategy.paused ? ", paused" : ""}`,
    `${fleet.mayRestart ? "" : "no restarts, "}allowed ${[...allowed].map(short).join(" ")}`,
    `failed ${failed.slice(0, 5).join(" ")}, lost ${[...lostHosts].slice(0, 5).join(" ")}`,
  ].join("; ");
}

const short = (digest: string | undefined): string => digest?.slice(7, 11) ?? "nothing";
