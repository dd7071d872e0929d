/**
 * The operator, killed with SIGKILL at ten points of a create, a roll, two scalings and a deletion, against the same
 * sequence undisturbed. It has its ServiceAccount's rights and no others throughout.
 */
import { afterAll, beforeAll, expect, it } from "vitest";
import { buildBundles } from "../loop/build.ts";
import { engineImage } from "../loop/images.ts";
import { isNodeReady, type Loop, namespace, poolName, type Service, startLoop } from "../loop/loop.ts";
import { AuditTail, isRealWrite, operatorUser, requestLine, startOperator } from "../loop/operator-run.ts";
import { pictureOf } from "../loop/picture.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { Watch } from "../loop/watch.ts";
import { until } from "../testbed/until.ts";

let loop: Loop;
let operator: Service;
let tail: AuditTail;
const digests: string[] = [];

beforeAll(async () => {
  await buildBundles();
  loop = await startLoop({ hosts: 1, gpusPerHost: 4, tokenDelayMs: 10 });
  // Without election a successor need not wait for the Lease of the one that was killed.
  await loop.operator.kill();
  const kubeconfig = await loop.bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
  operator = await startOperator(loop, { name: "operator-alone", kubeconfig, flags: ["--no-leader-elect"] });
  digests.push(loop.firstDigest);
  tail = new AuditTail(loop, operatorUser);
}, 1_500_000);

afterAll(async () => {
  await Promise.all(watches.map((watch) => watch.close()));
  await loop?.stop();
});

interface Stage {
  readonly name: string;
  readonly begin: (release: string) => Promise<unknown>;
  /** What ends the undisturbed stage, before it is looked at in full. */
  readonly done: () => Promise<boolean>;
  /** Where the operator is killed: after these parts of the stage's writes. */
  readonly kills: readonly number[];
}

const ready = (count: number) => async () => (await loop.nodes()).filter(isNodeReady).length === count;
const scaled = (count: number) => async () =>
  (await loop.nodes()).length === count && (await loop.pods()).length === count && ready(count)();

const stages: readonly Stage[] = [
  { name: "create", begin: () => loop.applySamples({ replicas: 2 }), done: ready(2), kills: [0.1, 0.4, 0.7] },
  {
    name: "roll",
    begin: async (release) => digests.push(await loop.publish(release)),
    done: async () => {
      const applied = (await loop.nodes()).map(({ status }) => status?.config?.applied);
      return applied.every((digest) => digest === digests.at(-1)) && ready(2)();
    },
    kills: [0.15, 0.5, 0.8],
  },
  { name: "scale up", begin: () => loop.scale(3), done: scaled(3), kills: [0.4] },
  { name: "scale down", begin: () => loop.scale(1), done: scaled(1), kills: [0.2, 0.6] },
  {
    name: "delete",
    begin: () => loop.bed.kubectlOk(["-n", namespace, "delete", "rpool", poolName, "--wait=false"]),
    done: async () =>
      (await loop.pool()) === undefined && (await loop.nodes()).length + (await loop.pods()).length === 0,
    kills: [0],
  },
];

/** Digests and images by what they are to a stage: a run begins at one release and rolls to the next. */
function namesAt(stage: string, before: string, now: string): Map<string, string> {
  const rolled = stage !== "create";
  return new Map([
    [engineImage(before), "(image before)"],
    [digests.at(rolled ? -2 : -1) ?? "", "(before)"],
    ...(rolled
      ? ([
          [engineImage(now), "(image now)"],
          [digests.at(-1) ?? "", "(now)"],
        ] as const)
      : []),
  ]);
}

/**
 * What has come to be, as `<resource> <name>`. Of the objects themselves: a create that the operator sent before it was killed
 * may take effect without an answer, and then stands in no log as such.
 */
const made: string[] = [];
const watches: Watch<KubeObject>[] = [];

async function followWhatIsMade(): Promise<void> {
  const own = `namespaces/${namespace}`;
  // The samples bring it.
  const account = "secrets testnet-account";
  for (const path of [
    `api/v1/${own}/pods`,
    `api/v1/${own}/secrets`,
    `apis/resultity.com/v1alpha1/${own}/resultitynodes`,
  ]) {
    const seen = (type: string, { metadata }: KubeObject) => {
      const what = `${path.split("/").at(-1)} ${metadata.name}`;
      if (type === "ADDED" && what !== account) made.push(what);
    };
    // The API server asks for patience where nobody has read the kind yet.
    await until(`the watch of ${path}`, async () => {
      const watch = new Watch<KubeObject>(loop.bed.adminKubeconfig, `/${path}`, seen);
      await watch.open();
      watches.push(watch);
      return true;
    });
  }
}

/** The operator has made so many writes, or seems to be done with fewer: one that is killed sums up more in one status. */
async function untilWrites(count: number): Promise<void> {
  let [seen, since] = [tail.writes(), performance.now()];
  await until(
    `write ${count}`,
    () => {
      const now = tail.writes();
      if (now !== seen) [seen, since] = [now, performance.now()];
      return now >= count || (now > 0 && performance.now() - since > 4_000);
    },
    { intervalMs: 2 },
  );
}

it("F01 [×10] ends in the same state if it is killed at ten points, with no child, pod or identity made twice", async () => {
  const pictures: unknown[] = [];
  const writes: number[] = [];
  await followWhatIsMade();
  for (const { begin, done, name } of stages) {
    const before = tail.writes();
    await begin("v2");
    await until(`${name}, undisturbed`, done, { deadlineMs: 60_000, intervalMs: 200 });
    await tail.untilQuiet();
    writes.push(tail.writes() - before);
    pictures.push(await pictureOf(loop, namesAt(name, "v1", "v2")));
  }
  const undisturbed = made.splice(0).sort();
  expect(new Set(undisturbed).size).toBe(undisturbed.length);

  let kills = 0;
  for (const [at, { begin, name, kills: points }] of stages.entries()) {
    const before = tail.writes();
    const marks = points.map((part) => before + Math.max(1, Math.ceil(part * (writes[at] ?? 0))));
    await begin("v3");
    const names = namesAt(name, "v2", "v3");
    for (const mark of marks) {
      await untilWrites(mark);
      await operator.kill();
      kills++;
      await operator.restart();
    }
    await until(
      `${name} to end as it did undisturbed`,
      async () => {
        expect(await pictureOf(loop, names)).toEqual(pictures[at]);
        return true;
      },
      { deadlineMs: 60_000, intervalMs: 200 },
    );
  }
  await tail.untilQuiet();
  expect(kills).toBe(10);
  // The pod that brings an image to a host is named after both.
  const alike = (names: readonly string[]) => names.map((name) => name.replace(/-[0-9a-f]{16}$/, ""));
  // One that has ended does not know what was made after that.
  expect(watches.map(({ problem }) => problem)).toEqual([undefined, undefined, undefined]);
  expect(alike(made.sort())).toEqual(alike(undisturbed));

  const refused = tail.entries.filter(({ code }) => code === 401 || code === 403);
  expect(refused.map(requestLine)).toEqual([]);
}, 300_000);

it("has its ServiceAccount's rights, which are few", async () => {
  const can = async (...what: readonly string[]) =>
    (await loop.bed.kubectl(["auth", "can-i", ...what, `--as=${operatorUser}`, "-A"])).stdout.trim();
  expect(await can("create", "pods")).toBe("yes");
  // Whether a host is lost is looked up by its name.
  expect(await can("get", "nodes")).toBe("yes");
  for (const what of [
    ["*", "*"],
    ["list", "secrets"],
    ["delete", "secrets"],
    ["create", "pods", "--subresource=exec"],
    ["list", "nodes"],
    ["patch", "nodes"],
    ["create", "clusterrolebindings"],
  ])
    expect(`${what.join(" ")}: ${await can(...what)}`).toBe(`${what.join(" ")}: no`);
  // It is this user, and no other, that has done the work.
  const { user } = tail.entries.findLast(isRealWrite) ?? {};
  expect(user).toBe(operatorUser);
});
