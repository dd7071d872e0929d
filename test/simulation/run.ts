import { checkEnd } from "./convergence.ts";
import { calm, trouble } from "./faults.ts";
import { Scene, type Telling } from "./scene.ts";
import { Violation } from "./world.ts";

/** What one seed came to. */
export interface Outcome {
  readonly seed: number;
  /** Hash of everything that happened. */
  readonly hash: string;
  readonly nodes: number;
  /** Jobs that the service took while there were faults. */
  readonly jobs: number;
  readonly committed: number;
  readonly steps: number;
  /** Simulated time, ms. */
  readonly simulatedMs: number;
  /** What must not be; undefined = all is well. */
  readonly problem:
    | { readonly id: string; readonly message: string; readonly trace: readonly string[] }
    | undefined;
}

/** How a world is set up. */
export interface RunOptions extends Telling {
  /** Jobs that clients ask for under faults. Default 300. */
  readonly jobs?: number;
}

/** Longest time in which everything must be well again once the faults have stopped, ms. */
const calmMs = 600_000;

/** Runs one world from its seed to its end. */
export async function runSeed(seed: number, { jobs = 300, ...telling }: RunOptions = {}): Promise<Outcome> {
  const sizes = [3, 4, 6, 8, 12, 16, 24, 40];
  const large = seed % 25 === 7;
  const size = large ? 250 : (sizes[(seed * 5) % sizes.length] ?? 8);
  const scene = new Scene(seed, { nodes: size, strays: seed % 3 === 0 ? 1 : 0 }, telling);
  const { world } = scene;
  let problem: Outcome["problem"];
  let jobsTaken = () => 0;
  try {
    await scene.found();
    await live(scene, jobs, large);
    jobsTaken = taken(scene);
    await checkEnd(scene, calmMs);
  } catch (thrown) {
    problem = {
      id: thrown instanceof Violation ? thrown.id : "error",
      message: thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown),
      trace: world.trace,
    };
    if (thrown instanceof Violation) problem = { ...problem, message: thrown.message };
  }
  return {
    seed,
    hash: world.hash,
    nodes: size,
    jobs: jobsTaken(),
    committed: scene.committed.size,
    steps: world.steps,
    simulatedMs: world.now,
    problem,
  };
}

/** How many of the jobs that clients have asked for so far the service takes, as it will turn out. */
function taken({ clients }: Scene): () => number {
  const requests = clients.flatMap((client) => [...client.requests]);
  const asyncRequests = clients.flatMap((client) => [...client.asyncRequests]);
  return () =>
    requests.filter(({ status }) => status !== 429 && status !== 503).length +
    asyncRequests.filter(({ job }) => job !== "").length;
}

/** Start, load under faults, and the moment at which the faults stop. */
async function live(scene: Scene, jobs: number, large: boolean): Promise<void> {
  const { world, nodes, strays, service, clients } = scene;
  const dice = world.dice.fork("life");
  service.start();
  for (const node of [...nodes, ...strays])
    world.plan(dice.between(0, 3_000), `${node.name} starts`, () => node.start());
  const from = 8_000;
  await world.run(from);
  const perSecond = Math.min(large ? 60 : 12, 1.2 * nodes.length);
  const until = from + (jobs / perSecond) * 1_000;
  trouble(scene, dice.fork("faults"), until, dice.pick([300, 700, 1_500, 4_000]));
  let left = jobs;
  const next = () => {
    if (left-- <= 0) return;
    world.plan(dice.gap(1_000 / perSecond), "job", () => {
      const leaves = dice.chance(0.03) ? dice.between(50, 3_000) : undefined;
      const padding = dice.chance(0.01) ? { prompt: 200_000, answer: 250_000 } : undefined;
      const wanted = { tokens: dice.int(1, 24), padding };
      const client = dice.pick(clients);
      if (dice.chance(0.35)) client.submit(wanted, leaves);
      else client.ask(dice.chance(0.6), wanted, leaves);
      next();
    });
  };
  next();
  await world.run(until);
  calm(scene);
}
