/** The operator as a process that is killed and stopped, over a proxy that knows when. Hosts, agents and network are played. */
import { readFileSync } from "node:fs";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import {
  type OperatorProcess,
  type Scene,
  type Stand,
  startScene,
  startStand,
} from "../faults/operator-scene.ts";
import { settleMs } from "../../src/operator/node/pace.ts";
import { buildBundles } from "../loop/build.ts";
import type { Asked, Fault } from "../testbed/fault-proxy.ts";
import { startFaultProxy } from "../testbed/fault-proxy.ts";
import { until } from "../testbed/until.ts";

let stand: Stand;
const scenes: Scene[] = [];

beforeAll(async () => {
  await buildBundles();
  stand = await startStand();
}, 1_500_000);
afterAll(async () => {
  await stand?.[Symbol.asyncDispose]();
});
afterEach(async () => {
  for (const scene of scenes.splice(0)) await scene[Symbol.asyncDispose]();
});

async function begin(name: string): Promise<Scene> {
  const scene = await startScene(stand, name);
  scenes.push(scene);
  return scene;
}

const alone = ["--no-leader-elect"];
const isOurs = ({ write, resource }: Asked) => write && resource !== "events" && resource !== "leases";
const accepted = (scene: Scene) => scene.proxy.accepted().filter(isOurs);

/** Each begins with the end of the one before. */
const stages: readonly {
  readonly name: string;
  readonly begin: (scene: Scene) => Promise<unknown>;
  readonly nodes: number;
}[] = [
  { name: "create", begin: (scene) => scene.createPool("chat", 1), nodes: 1 },
  {
    name: "roll",
    begin: async (scene) => {
      const digest = scene.publish("v2");
      await until(
        "the new config at every node",
        async () => {
          const nodes = await scene.nodes();
          return nodes.every(({ status }) => status?.config?.applied === digest);
        },
        { deadlineMs: 90_000 },
      );
    },
    nodes: 1,
  },
  { name: "scale up", begin: (scene) => scene.scale("chat", 2), nodes: 2 },
  { name: "scale down", begin: (scene) => scene.scale("chat", 1), nodes: 1 },
  {
    name: "delete",
    begin: (scene) => stand.kube.delete(scene.path("resultitynodepools", "chat")),
    nodes: 0,
  },
];

it("F14 one that is stopped in the middle of its writes past its lease writes nothing more, the other does it all", async () => {
  const scene = await begin("leaders");
  scene.treat = () => "ignore";
  await using proxy = await startFaultProxy(stand.bed.server, stand.bed.ca);
  const replicas = 12;
  const first = scene.startProcess("leader-a", []);
  await until("the first to lead", () => accepted(scene).length > 0);
  const second = scene.startProcess("leader-b", [], proxy);
  await until(
    "the second to watch",
    () => proxy.log.filter(({ initial, status }) => initial && status === 200).length >= 6,
  );

  // It has sent as many creates as it does at once, and none is answered before it is stopped.
  const frozen = Promise.withResolvers<void>();
  let held = 0;
  scene.proxy.fault = ({ method, resource }) => {
    if (method !== "POST" || resource !== "resultitynodes") return undefined;
    held++;
    return { do: "hold", until: frozen.promise };
  };
  await scene.createPool("chat", replicas);
  await until("creates on their way", () => held >= 8);
  // No other write is: one that has left the leader no lease can call back, however late it comes.
  await scene.untilQuiet();
  first.signal("SIGSTOP");
  expect((await scene.nodes()).length).toBeLessThan(replicas);
  await until("the other to have done the rest", async () => (await scene.pods()).length === replicas, {
    deadlineMs: 45_000,
  });
  const writes = proxy.accepted().filter(isOurs).length;
  expect(writes).toBeGreaterThan(replicas);

  const resumed = performance.now();
  frozen.resolve();
  first.signal("SIGCONT");
  await until("the first to see that it leads no more", () =>
    /the lead was lost/.test(readFileSync(first.logFile, "utf8")),
  );
  await scene.scale("chat", replicas + 1);
  await until("the second to go on", async () => (await scene.pods()).length === replicas + 1);
  const late = scene.proxy.log.filter(({ at, write }) => write && at > resumed);
  const line = ({ method, resource, status }: Asked) => `${method} ${resource} ${status}`;
  expect(late.filter(isOurs).map(line)).toEqual([]);
  expect(late.filter(({ status }) => status > 0 && status < 300).map(line)).toEqual([]);
  expect((await scene.nodes()).length).toBe(replicas + 1);
  expect(second.running()).toBe(true);
});

it("F01 [×50] ends in the same state when it is killed after each single write of create, roll, scale and delete", async () => {
  const calm = await begin("undisturbed");
  calm.startProcess("undisturbed", alone);
  const pictures: unknown[] = [];
  for (const stage of stages) {
    await stage.begin(calm);
    await calm.untilReady(stage.nodes);
    // What is kept back, too.
    await calm.untilQuiet(settleMs + 1_500);
    pictures.push(await calm.picture());
  }
  const writes = accepted(calm).length;

  const torn = await begin("killed");
  let kills = 0;
  let operator: OperatorProcess | undefined;
  const start = () => {
    operator = torn.startProcess("killed", alone);
  };
  torn.proxy.fault = (asked): Fault | undefined => {
    if (!isOurs(asked)) return undefined;
    const victim = operator;
    return {
      do: "judge",
      judge(status) {
        // Writes that were on their way beside the one that killed it.
        if (!victim || operator !== victim) return "lose";
        if (status >= 300) return "pass";
        operator = undefined;
        kills++;
        victim.signal("SIGKILL");
        void victim.exited.then(start);
        return "lose";
      },
    };
  };
  start();
  for (const [at, stage] of stages.entries()) {
    await stage.begin(torn);
    await torn.untilReady(stage.nodes, 90_000);
    await until(
      `${stage.name} to end as it did undisturbed`,
      async () => {
        expect(await torn.picture()).toEqual(pictures[at]);
        return true;
      },
      { deadlineMs: 60_000, intervalMs: 200 },
    );
  }
  expect(kills).toBeGreaterThan(writes * 0.6);
  expect(kills).toBeLessThan(writes * 1.5);
  expect(torn.madeTwice()).toEqual([]);
}, 240_000);

it("F12 a deletion that it was killed in the middle of ends after its restart, and nothing leaks", async () => {
  const scene = await begin("deletion");
  let operator = scene.startProcess("deletion", alone);
  await scene.createPool("chat", 3, { identityRetention: "Delete" });
  await scene.untilReady(3);
  await scene.untilQuiet();
  const seen = Promise.withResolvers<void>();
  scene.proxy.fault = ({ method, resource }) => {
    if (method !== "DELETE" || resource !== "pods") return undefined;
    const judge = () => {
      operator.signal("SIGKILL");
      seen.resolve();
      return "lose" as const;
    };
    return { do: "judge", judge };
  };
  await scene.scale("chat", 1);
  await seen.promise;
  await operator.exited;
  scene.proxy.fault = () => undefined;
  operator = scene.startProcess("deletion", alone);
  await scene.untilReady(1);
  const names = async () => {
    const all = await Promise.all(["pods", "secrets"].map((plural) => scene.list(scene.core(plural))));
    return [...all.flat(), ...(await scene.nodes())].map(({ metadata }) => metadata.name);
  };
  await until("nothing of the two to be left", async () => {
    expect(new Set(await names())).toEqual(new Set(["chat-0", "chat-0-identity", "account"]));
    return true;
  });

  // Nobody is there when the rest goes.
  operator.signal("SIGKILL");
  await operator.exited;
  await stand.kube.delete(scene.path("resultitynodepools", "chat"));
  scene.startProcess("deletion", alone);
  await until("nothing to be left", async () => {
    expect(await names()).toEqual(["account"]);
    expect(await scene.list(scene.budgets)).toEqual([]);
    return true;
  });
});
