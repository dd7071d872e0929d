/** Whether each start of a container in a roll had to be. */

/** A program that was started: the agent, the runtime's container, or the engine in it. */
export interface Start {
  readonly node: string;
  readonly program: "agent" | "runtime" | "engine";
  /** Image of its container. */
  readonly image: string;
  /** Wall time, ms. */
  readonly at: number;
}

/** What happened to the nodes. */
export interface Story {
  /** Runtime images: the one before, the first target, the second target. */
  readonly images: readonly [string, string, string];
  /** Wall times, ms: when each pod was given the first target's image, and when each node was told of the second target. */
  readonly given: ReadonlyMap<string, number>;
  readonly turned: ReadonlyMap<string, number>;
  /** How often each node's agent was killed. */
  readonly agentKills: ReadonlyMap<string, number>;
  /** Nodes whose host was off, and the wall time, ms, at which it came back. */
  readonly lost: { readonly nodes: ReadonlySet<string>; readonly backAt: number };
}

/** How long what was planned before a node was told otherwise may still be written, ms: watch and write wait on a busy machine. */
const underWayMs = 10_000;

/** What a roll cost in starts. */
export interface StartReport {
  /** Nodes that went straight from the first image to the last, and those that went by the one between. */
  readonly straight: number;
  readonly twice: number;
  /** Starts that were not needed, or are missing. */
  readonly problems: readonly string[];
}

/** Judges every start since the pool came to be. */
export function judgeStarts(nodes: readonly string[], starts: readonly Start[], story: Story): StartReport {
  const problems: string[] = [];
  let [straight, twice] = [0, 0];
  for (const node of nodes) {
    const of = (program: Start["program"]) =>
      starts.filter((start) => start.node === node && start.program === program);
    const say = (text: string) => problems.push(`${node}: ${text}`);
    const runtimes = of("runtime").toSorted((a, b) => a.at - b.at);
    const { path, needless } = pathOf(runtimes, story, story.lost.nodes.has(node));
    for (const start of needless) say(`${nameOf(start.image, story)} was started again at ${start.at}`);
    const told = path.map(({ image }) => nameOf(image, story)).join(" → ");
    if (told === "first → last") straight++;
    else if (told === "first → between → last") twice++;
    else say(`its runtime went ${told || "nowhere"}`);
    // What a lost host was told of goes on when it is back.
    const turned = story.turned.get(node) ?? 0;
    const known = story.lost.nodes.has(node) ? Math.max(turned, story.lost.backAt) : turned;
    const late = (story.given.get(node) ?? 0) - known;
    if (late > underWayMs)
      say(`it was given the first target's image ${late} ms after it was told of the second`);
    const engines = of("engine").length;
    if (engines !== runtimes.length)
      say(`its engine was started ${engines} times in ${runtimes.length} runs of the container`);
    const agents = of("agent").length;
    const boots = story.lost.nodes.has(node) ? 2 : 1;
    const allowed = boots + (story.agentKills.get(node) ?? 0);
    if (agents !== allowed) say(`its agent was started ${agents} times, ${allowed} had to be`);
  }
  return { straight, twice, problems };
}

const nameOf = (image: string, { images }: Story): string =>
  ["first", "between", "last"][images.indexOf(image)] ?? image;

/** The images that a runtime had one after the other, and starts that brought no other image. A boot of the host may. */
function pathOf(runtimes: readonly Start[], { lost }: Story, wasLost: boolean) {
  const path: Start[] = [];
  const needless: Start[] = [];
  let booted = !wasLost;
  for (const start of runtimes) {
    const isBoot = !booted && start.at >= lost.backAt;
    booted ||= isBoot;
    if (path.at(-1)?.image !== start.image) path.push(start);
    else if (!isBoot) needless.push(start);
  }
  return { path, needless };
}
