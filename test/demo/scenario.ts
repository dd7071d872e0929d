import type { ClientEntry } from "../loop/load.ts";
import { runLoad } from "../loop/load.ts";
import type { Loop } from "../loop/loop.ts";
import { containerLines, engineLines } from "../loop/pod-logs.ts";
import { reconcile, type Reconciliation } from "../loop/reconcile.ts";
import { Timeline } from "../loop/timeline.ts";
import { until } from "../testbed/until.ts";

/** How long each part took, and what came of it. */
export interface Outcome {
  readonly phases: readonly { readonly name: string; readonly seconds: number; readonly detail: string }[];
  readonly jobs: Reconciliation;
  readonly streamed: number;
  readonly problems: readonly string[];
}

const total = 200;

/**
 * Three nodes become Ready; under 200 completions a config with a new runtime image is published and rolled out one node at a
 * time, then the pool grows to five and shrinks to two.
 */
export async function runScenario(loop: Loop, say: (line: string) => void): Promise<Outcome> {
  const phases: { name: string; seconds: number; detail: string }[] = [];
  const problems: string[] = [];
  const phase = async (name: string, run: () => Promise<string>) => {
    say(name);
    const began = performance.now();
    const detail = await run();
    phases.push({ name, seconds: (performance.now() - began) / 1000, detail });
  };

  await using timeline = timelineOf(loop);
  await phase("3 nodes Ready", async () => {
    await loop.applySamples({ replicas: 3 });
    await loop.untilReady(3);
    return "network and pool applied, pods started, sessions open";
  });
  const before = await identities(loop);
  let done = 0;
  const load = runLoad({
    baseURL: loop.ioURL,
    apiKey: loop.apiKey,
    total,
    concurrency: 8,
    maxTokens: 48,
    onEntry: (_, count) => (done = count),
  });
  await until("the first completions", () => done >= 12, { deadlineMs: 60_000 });

  await phase("new runtime image rolled out", async () => {
    timeline.resetFloor();
    const digest = await loop.publish("v2");
    await until(
      "every node on the new config",
      () => [...timeline.nodes.values()].every(({ readyWith }) => readyWith.has(digest)),
      { deadlineMs: 120_000 },
    );
    const { floor } = timeline;
    if (floor < 2)
      problems.push(`only ${floor} nodes were Ready at some time of the rollout, the budget is 2`);
    const after = await identities(loop);
    for (const [name, identity] of before) {
      if (after.get(name) !== identity)
        problems.push(`${name}: pod or session changed in the rollout (${identity} → ${after.get(name)})`);
    }
    return `one at a time, never under ${floor} of 3 Ready; pods and sessions the same`;
  });
  await phase("5 nodes", async () => {
    await loop.scale(5);
    await loop.untilReady(5);
    return "2 more nodes Ready";
  });
  await phase("2 nodes", async () => {
    await loop.scale(2);
    await until(
      "2 nodes left",
      async () => (await loop.nodes()).length === 2 && (await loop.pods()).length === 2,
      { deadlineMs: 90_000 },
    );
    return "3 nodes drained, then deleted";
  });
  const scaled = Date.now();

  say("the rest of the completions");
  const entries = await load;
  const last = Math.max(...entries.map(({ ended }) => ended));
  if (scaled > last)
    problems.push(
      `the last node finished ${((scaled - last) / 1000).toFixed(1)} s after the last completion`,
    );
  const jobs = reconcile({ client: entries, store: await loop.ioJobs(), engine: engineLines(loop.hosts) });
  problems.push(
    ...jobs.problems,
    ...jobs.lost.map((text) => `lost: ${text}`),
    ...jobs.doubled.map((text) => `doubled: ${text}`),
  );
  problems.push(...idleDrains(loop));
  return {
    phases,
    jobs,
    streamed: entries.filter(({ stream, ok }: ClientEntry) => stream && ok).length,
    problems,
  };
}

function timelineOf(loop: Loop): Timeline & AsyncDisposable {
  const timeline = new Timeline(loop);
  return Object.assign(timeline, { [Symbol.asyncDispose]: () => timeline.stop() });
}

/** Pod UID and session epoch of each node: what an in-place rollout must leave alone. */
async function identities(loop: Loop): Promise<Map<string, string>> {
  const [nodes, pods, sessions] = await Promise.all([loop.nodes(), loop.pods(), loop.ioNodes()]);
  return new Map(
    nodes.map(({ metadata: { name }, status }) => {
      const pod = pods.find(({ metadata }) => metadata.name === name);
      const session = sessions.find(({ id }) => id === status?.nodeId);
      if (!pod || !session?.connected) throw new Error(`${name} has no pod or no open session`);
      return [name, `pod ${pod.metadata.uid}, session ${session.epoch}`];
    }),
  );
}

/** Drains that began with no job in flight: then the demo has shown nothing about them. */
function idleDrains(loop: Loop): string[] {
  const drains = containerLines(loop.hosts, "agent").filter(({ line }) => line["msg"] === "draining");
  const idle = drains
    .filter(({ line }) => line["jobs"] === 0)
    .map(({ pod }) => `${pod}: a drain began with no job in flight`);
  return drains.length < 6 ? [...idle, `${drains.length} drains were logged, 6 were expected`] : idle;
}
