import { buildBundles } from "../../loop/build.ts";
import { until } from "../../testbed/until.ts";
import type { Bench, BenchSetting } from "../bench.ts";
import { alone, compare, pairs, type Sample } from "../figures.ts";
import type { HostTimes } from "./hosts.ts";
import { FleetStand, namespace } from "./stand.ts";

const deadlineMs = 900_000;
/** Pods on each host: a node with half of its GPUs. */
const podsPerHost = 2;

interface Arm {
  readonly setting: BenchSetting;
  readonly size: number;
  readonly window: number;
  readonly times: HostTimes;
}

/** GPU time that a roll costs. */
export const fleetIdle: Bench = {
  name: "fleet-idle",
  what: "time for which GPUs serve nobody while a fleet moves to another engine image, against a Deployment that deletes and recreates its pods",
  async run(setting) {
    const { quick } = setting;
    await buildBundles();
    const times: HostTimes = quick
      ? { drainMs: 2_000, startMs: 3_000, pullMs: 6_000, spread: 0.2 }
      : { drainMs: 5_000, startMs: 10_000, pullMs: 20_000, spread: 0.2 };
    const arm: Arm = { setting, size: quick ? 8 : 16, window: quick ? 2 : 4, times };
    const measured = await pairs(
      quick ? 1 : 2,
      () => pool(arm),
      () => deployment(arm),
    );
    const against = "a Deployment";
    return {
      figures: [
        compare(measured, "idle", { name: "GPU idle for each node", unit: "s", against }),
        compare(measured, "over", { name: "of it more than drain and start", unit: "s", against }),
        compare(measured, "seconds", {
          name: `roll of ${arm.size} nodes, ${arm.window} at once, image fetched`,
          unit: "s",
          against,
        }),
        alone(measured.ours, "least", "fewest that served", ""),
      ],
      notes: [
        `The same played hosts for both, ${podsPerHost} pods on each: a drain takes ${times.drainMs / 1000} s, an engine ${times.startMs / 1000} s to start, an image ${times.pullMs / 1000} s to come to a host, once for each host. Both may have ${arm.window} of ${arm.size} out of service; the Deployment may make no pod more than it has GPUs (maxSurge 0). A GPU is idle from when its engine takes no more jobs until the next one does.`,
      ],
    };
  },
};

/** Rolls and measures. @param begin starts the roll; @param done says when it is over */
async function measure(
  stand: FleetStand,
  { size, times }: Arm,
  begin: () => unknown,
  done: () => boolean | Promise<boolean>,
): Promise<Sample> {
  const { hosts } = stand;
  hosts.times = times;
  const from = performance.now();
  const served = hosts.servedMs;
  let least = size;
  await begin();
  await until(
    "the end of the roll",
    () => {
      least = Math.min(least, hosts.serving);
      return done();
    },
    { deadlineMs, giveUp: hosts.requireWell },
  );
  const seconds = (performance.now() - from) / 1000;
  const idle = (seconds * size - (hosts.servedMs - served) / 1000) / size;
  return { idle, over: idle - (times.drainMs + times.startMs) / 1000, seconds, least };
}

async function pool(arm: Arm): Promise<Sample> {
  const { processes, say } = arm.setting;
  await using stand = await FleetStand.start(processes, { asShipped: true, refreshSeconds: 5 });
  stand.hosts.podsPerHost = podsPerHost;
  const operator = await stand.startOperator();
  await stand.createPool(arm.size, { maxUnavailable: arm.window });
  await stand.untilReady(arm.size, deadlineMs);
  let digest = "";
  const sample = await measure(
    stand,
    arm,
    () => (digest = stand.publish("v2")),
    () => stand.at(digest) === arm.size,
  );
  await operator.child.stop();
  say(
    `pool: ${sample["idle"]?.toFixed(1)} s of GPU time for each node, ${sample["seconds"]?.toFixed(0)} s in all`,
  );
  return sample;
}

async function deployment(arm: Arm): Promise<Sample> {
  const { processes, say } = arm.setting;
  await using stand = await FleetStand.start(processes, { asShipped: true, refreshSeconds: 5 });
  stand.hosts.podsPerHost = podsPerHost;
  const labels = { app: "peer" };
  const container = (version: string) => ({ name: "runtime", image: `registry.test/engine:${version}` });
  const path = `/apis/apps/v1/namespaces/${namespace}/deployments`;
  await stand.kube.create(path, {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "peer" },
    spec: {
      replicas: arm.size,
      selector: { matchLabels: labels },
      strategy: { type: "RollingUpdate", rollingUpdate: { maxSurge: 0, maxUnavailable: arm.window } },
      template: { metadata: { labels }, spec: { containers: [container("v1")] } },
    },
  });
  await until("the first pods", () => stand.hosts.ready === arm.size, {
    deadlineMs,
    giveUp: stand.hosts.requireWell,
  });
  const sample = await measure(
    stand,
    arm,
    () =>
      stand.kube.patch(`${path}/peer`, "strategic", {
        spec: { template: { spec: { containers: [container("v2")] } } },
      }),
    () => stand.hosts.ready === arm.size && stand.hosts.started >= 2 * arm.size,
  );
  say(
    `Deployment: ${sample["idle"]?.toFixed(1)} s of GPU time for each pod, ${sample["seconds"]?.toFixed(0)} s in all`,
  );
  return sample;
}
