import type { Dice } from "../random.ts";
import type { Quality, World } from "./world.ts";

/** Something that is to happen, and when: milliseconds since the pool was first in service. */
export interface Happening {
  readonly at: number;
  readonly what: string;
  readonly run: (world: World) => Promise<void> | void;
}

/** How long the operator is away when it was killed, ms. */
const longestAbsenceMs = 4_000;

/**
 * The storm of a seed: what happens to its world, and when. The same for the same seed, and so are the nodes and hosts that it
 * happens to.
 */
export function stormOf(
  dice: Dice,
  { nodes, hosts, ms }: { nodes: number; hosts: readonly string[]; ms: number },
): Happening[] {
  const plan: Happening[] = [];
  const at = (share: number, what: string, run: Happening["run"]) => plan.push({ at: share * ms, what, run });
  const node = () => `chat-${dice.int(0, nodes - 1)}`;
  const host = () => dice.pick(hosts);

  // A rollout is under way from the start, and is redirected at least once.
  const qualities: readonly Quality[] = ["good", "slow", "broken", "unpullable"];
  at(0, "publish", (world) => world.publish("good"));
  for (let more = dice.int(1, 2); more > 0; more--) {
    const quality = dice.pick(qualities);
    at(dice.between(0.15, 0.8), `publish ${quality}`, (world) => world.publish(quality));
  }

  const kinds: readonly (() => void)[] = [
    () => {
      const [writes, away] = [dice.int(1, 20), dice.between(0, longestAbsenceMs)];
      const begins = dice.between(0, 0.9);
      at(begins, "operator to die", (world) => world.killOperatorAfter(writes));
      // Should it have nothing to write, it dies here.
      at(begins + 0.08, "operator dies", (world) => world.killOperator());
      plan.push({ at: (begins + 0.08) * ms + away, what: "operator", run: (world) => world.startOperator() });
    },
    () => {
      const [name, container] = [node(), dice.pick(["agent", "runtime"] as const)];
      at(dice.number(), "kill", (world) => world.killContainer(name, container));
    },
    () => {
      const name = node();
      at(dice.number(), "engine", (world) => world.crashEngine(name));
    },
    () => {
      const name = node();
      at(dice.number() * 0.5, "slow", (world) => world.slowEngine(name, true));
    },
    () => {
      const name = node();
      at(dice.number(), "delete", (world) => world.deletePod(name));
    },
    () => {
      const name = node();
      at(dice.number(), "evict", (world) => world.evictPod(name));
    },
    () => {
      const [name, begins] = [host(), dice.between(0, 0.6)];
      const ends = dice.chance(0.5) ? begins + 0.05 : dice.between(begins, 1);
      at(begins, "power cut", (world) => world.crashHost(name));
      at(ends, "boot", (world) => world.bootHost(name));
    },
    () => {
      const [name, begins] = [host(), dice.between(0, 0.7)];
      at(begins, "taint", (world) => world.taint(name, true));
      at(begins + 0.2, "untaint", (world) => world.taint(name, false));
    },
    () => {
      const [name, begins] = [host(), dice.between(0, 0.7)];
      let leave = async (): Promise<void> => {};
      at(begins, "tenant", async (world) => {
        leave = await world.tenant(name);
      });
      at(begins + dice.between(0.1, 0.25), "tenant leaves", () => leave());
    },
    () => {
      const begins = dice.between(0, 0.6);
      const [other, back] = [dice.int(Math.ceil(nodes / 2), nodes), dice.chance(0.5)];
      at(begins, "scale", (world) => world.scale(other));
      if (back) at(begins + dice.between(0.02, 0.3), "scale back", (world) => world.scale(nodes));
    },
    () => {
      if (dice.chance(0.5)) at(dice.between(0, 0.8), "edit", (world) => world.editTemplate());
    },
    () => at(dice.number(), "watches", (world) => world.cutWatches()),
  ];
  // Each kind as often as the size of the world bears it, and some twice.
  for (const kind of kinds)
    for (let times = dice.int(0, 1 + Math.ceil(nodes / 40)); times > 0; times--) kind();
  return plan.sort((a, b) => a.at - b.at);
}

/** Ends what faults there still are: from here on nothing happens any more. */
export async function calm(world: World): Promise<void> {
  for (const { name, up } of world.fleet.hosts) {
    await world.taint(name, false);
    if (!up) await world.bootHost(name);
  }
  for (let at = 0; at < world.size.nodes; at++) world.slowEngine(`chat-${at}`, false);
  world.killOperatorAfter(Number.POSITIVE_INFINITY);
  world.startOperator();
  // What nobody could run is followed by what everybody can, as the network's keepers would.
  world.publish("good");
}
