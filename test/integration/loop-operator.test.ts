/**
 * The operator, killed with SIGKILL at ten points of a create, a roll, two scalings and a deletion, against the same
 * sequence undisturbed. It has its ServiceAccount's rights and no others throughout.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { afterAll, beforeAll, expect, it } from "vitest";
import { buildBundles } from "../loop/build.ts";
import { engineImage } from "../loop/images.ts";
import { isNodeReady, type Loop, namespace, poolName, type Service, startLoop } from "../loop/loop.ts";
import { isRealWrite, operatorUser, requestLine, startOperator } from "../loop/operator-run.ts";
import { pictureOf } from "../loop/picture.ts";
import { type AuditEntry, parseAuditLog } from "../testbed/audit.ts";
import { until } from "../testbed/until.ts";

let loop: Loop;
let operator: Service;
/** Everything that the operator has asked for, in order. */
const asked: AuditEntry[] = [];
const digests: string[] = [];

beforeAll(async () => {
  await buildBundles();
  loop = await startLoop({ hosts: 1, gpusPerHost: 4, tokenDelayMs: 10 });
  // Without election a successor need not wait for the Lease of the one that was killed.
  await loop.operator.kill();
  const kubeconfig = await loop.bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
  operator = await startOperator(loop, { name: "operator-alone", kubeconfig, flags: ["--no-leader-elect"] });
  digests.push(loop.firstDigest);
}, 1_500_000);

afterAll(() => loop?.stop());

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

/** What the operator has written since `from`, by the audit log as it stands on disk. */
class AuditTail {
  #offset = 0;
  #rest = "";

  read(): void {
    const file = openSync(loop.bed.audit.path, "r");
    try {
      const bytes = Buffer.alloc(fstatSync(file).size - this.#offset);
      this.#offset += readSync(file, bytes, 0, bytes.length, this.#offset);
      const text = this.#rest + bytes.toString("latin1");
      const end = text.lastIndexOf("\n") + 1;
      this.#rest = text.slice(end);
      asked.push(...parseAuditLog(text.slice(0, end)).filter(({ user }) => user === operatorUser));
    } finally {
      closeSync(file);
    }
  }

  /** Writes so far. */
  writes(): number {
    this.read();
    return asked.filter(isRealWrite).length;
  }
}

const tail = new AuditTail();

/** No write for a while: then nothing is left to be done. */
async function untilQuiet(): Promise<void> {
  let [count, since] = [tail.writes(), performance.now()];
  await until(
    "the operator to have nothing to write",
    () => {
      const now = tail.writes();
      if (now !== count) [count, since] = [now, performance.now()];
      return performance.now() - since > 2_000;
    },
    { deadlineMs: 60_000, intervalMs: 100 },
  );
}

const madeSince = (from: number) => {
  const made = asked
    .slice(from)
    .filter((entry) => isRealWrite(entry) && entry.verb === "create" && entry.code === 201)
    .map(({ resource, name }) => `${resource} ${name}`);
  return made.sort();
};

it("ends in the same state if it is killed at ten points, with no child, pod or identity made twice", async () => {
  const pictures: unknown[] = [];
  const writes: number[] = [];
  const asks = asked.length;
  for (const { begin, done, name } of stages) {
    const before = tail.writes();
    await begin("v2");
    await until(`${name}, undisturbed`, done, { deadlineMs: 60_000, intervalMs: 200 });
    await untilQuiet();
    writes.push(tail.writes() - before);
    pictures.push(await pictureOf(loop, namesAt(name, "v1", "v2")));
  }
  const made = madeSince(asks);
  expect(new Set(made).size).toBe(made.length);

  const again = asked.length;
  let kills = 0;
  for (const [at, { begin, name, kills: points }] of stages.entries()) {
    const before = tail.writes();
    const marks = points.map((part) => before + Math.max(1, Math.ceil(part * (writes[at] ?? 0))));
    await begin("v3");
    const names = namesAt(name, "v2", "v3");
    for (const mark of marks) {
      await until(`write ${mark - before} of ${name}`, () => tail.writes() >= mark, { intervalMs: 2 });
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
  await untilQuiet();
  expect(kills).toBe(10);
  expect(madeSince(again)).toEqual(made);

  const refused = asked.filter(({ code }) => code === 401 || code === 403);
  expect(refused.map(requestLine)).toEqual([]);
});

it("has its ServiceAccount's rights, which are few", async () => {
  const can = async (...what: readonly string[]) =>
    (await loop.bed.kubectl(["auth", "can-i", ...what, `--as=${operatorUser}`, "-A"])).stdout.trim();
  expect(await can("create", "pods")).toBe("yes");
  for (const what of [
    ["*", "*"],
    ["list", "secrets"],
    ["delete", "secrets"],
    ["create", "pods", "--subresource=exec"],
    ["get", "nodes"],
    ["create", "clusterrolebindings"],
  ])
    expect(`${what.join(" ")}: ${await can(...what)}`).toBe(`${what.join(" ")}: no`);
  // It is this user, and no other, that has done the work.
  const { user } = asked.findLast(isRealWrite) ?? {};
  expect(user).toBe(operatorUser);
});
