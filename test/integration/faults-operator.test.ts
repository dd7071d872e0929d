/** The whole operator against a real API server behind a proxy that injects faults. Hosts, agents and network are played. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Secret } from "../../src/kube/resources.ts";
import { settleMs } from "../../src/operator/node/pace.ts";
import {
  conditionOf,
  nameIn,
  type Scene,
  type Stand,
  startScene,
  startStand,
} from "../faults/operator-scene.ts";
import { type Asked, type Fault, lose } from "../testbed/fault-proxy.ts";
import { buildingMs } from "../testbed/control-plane.ts";
import { until } from "../testbed/until.ts";

let stand: Stand;
let scene: Scene;
let scenes = 0;

beforeAll(async () => {
  stand = await startStand();
}, buildingMs);
afterAll(async () => {
  await stand?.[Symbol.asyncDispose]();
});
afterEach(async () => {
  await scene?.[Symbol.asyncDispose]();
});

async function begin(): Promise<Scene> {
  scene = await startScene(stand, `faults-${++scenes}`);
  return scene;
}

/** A scene whose pool `chat` of `replicas` serves, and whose operator has nothing left to do. */
async function serving(replicas = 2, spec: object = {}) {
  await begin();
  const operator = await scene.startOperator();
  await scene.createPool("chat", replicas, spec);
  await scene.untilReady(replicas);
  await scene.untilQuiet();
  return operator;
}

/** Longer than the operator keeps a status back that is about to be written. */
const atRestMs = settleMs + 1_500;

/** Who is there: nodes, pods and identities with their UIDs. */
async function uids(): Promise<string[]> {
  const secrets = await scene.list<Secret>(scene.core("secrets"));
  return [...(await scene.nodes()), ...(await scene.pods()), ...secrets]
    .map(({ kind, metadata }) => `${kind ?? ""} ${metadata.name} ${metadata.uid ?? ""}`)
    .toSorted(byName);
}

/** Expects all of `before` to be there still; where it is not, says who deleted what. */
async function expectStillThere(before: readonly string[]): Promise<void> {
  const now = new Set(await uids());
  const gone = before.filter((each) => !now.has(each));
  if (gone.length === 0) return;
  const deleted = (await stand.bed.audit.since()).filter(
    ({ verb, namespace }) => verb.startsWith("delete") && namespace === scene.namespace,
  );
  const who = deleted.map(
    ({ time, user, userAgent, resource, name, code }) =>
      `${new Date(time).toISOString()} ${user} (${userAgent}): ${resource} ${name} ${code}`,
  );
  const asked = scene.proxy.log.filter(({ write, resource }) => write && resource !== "events");
  expect(gone, [...who, "what the operator wrote:", ...asked.map(requestLine)].join("\n")).toEqual([]);
}

/** Expects nobody but `before` to be there. */
async function expectSame(before: readonly string[]): Promise<void> {
  await expectStillThere(before);
  expect(await uids()).toEqual(before);
}

const requestLine = ({ method, resource, name, status }: Asked) => `${method} ${resource} ${name} ${status}`;
/** Requests since `mark` that were to change something, Leases and events left out. */
const writesSince = (mark: number) =>
  scene.proxy.log.slice(mark).filter(({ write, resource }) => write && resource !== "events");
const mark = () => scene.proxy.log.length;
const goneWatch: Fault = { do: "answer", status: 410, reason: "Expired" };
const blind: Fault = { do: "answer", status: 503, reason: "ServiceUnavailable" };
const byName = (a: string, b: string) => a.localeCompare(b);

/** The operator sees nothing more, and will have to read everything again: resolves when it has noticed. */
async function blindfold(): Promise<void> {
  const from = mark();
  scene.proxy.fault = ({ watch, initial }) => (watch ? (initial ? blind : goneWatch) : undefined);
  scene.proxy.cutWatches();
  // One that is not yet back would go on from where it was, and show what happened meanwhile step by step.
  const refused = () => scene.proxy.log.slice(from).filter(({ initial }) => initial);
  await until(
    "every watch to be refused",
    () => new Set(refused().map(({ url }) => url.replace(/&timeout.*/, ""))).size === 6,
  );
}

/** Watches that have begun with everything there is. */
const initialWatches = (from = 0) =>
  scene.proxy.log.slice(from).filter(({ initial, status }) => initial && status === 200).length;

describe("answers that are lost", () => {
  it("F11 of every create: what was made is adopted, nothing is made twice", async () => {
    await begin();
    const lost = new Set<string>();
    scene.proxy.fault = ({ method, resource, body }) => {
      if (method !== "POST" || resource === "events") return undefined;
      const what = `${resource} ${nameIn(body)}`;
      if (lost.has(what)) return undefined;
      lost.add(what);
      return lose;
    };
    await scene.startOperator();
    await scene.createPool("chat", 2);
    await scene.untilReady(2);
    await scene.untilQuiet();
    expect([...lost].map((what) => what.replace(/ .*/, "")).toSorted(byName)).toEqual([
      "pods",
      "pods",
      "resultitynodes",
      "resultitynodes",
      "secrets",
      "secrets",
    ]);
    expect(scene.madeTwice()).toEqual([]);
  });

  it("F10 status updates that are answered 409 are made again from fresh state, specs stay as they are", async () => {
    await begin();
    const refused = new Map<string, number>();
    scene.proxy.fault = ({ resource, write }) => {
      const count = refused.get(resource) ?? 0;
      if (!write || !resource.endsWith("/status") || count === 4) return undefined;
      refused.set(resource, count + 1);
      return { do: "answer", status: 409, reason: "Conflict" };
    };
    await scene.startOperator();
    await scene.createPool("chat", 2);
    await scene.untilReady(2);
    await scene.untilQuiet();
    expect(Object.fromEntries(refused)).toEqual({
      "resultitynetworks/status": 4,
      "resultitynodepools/status": 4,
      "resultitynodes/status": 4,
    });
    for (const { metadata } of await scene.nodes()) expect(metadata.generation).toBe(1);
    expect((await scene.pool("chat"))?.metadata.generation).toBe(1);
    expect(scene.madeTwice()).toEqual([]);
  });
});

describe("an API server that shows the past", () => {
  it("F02 from before the creates, to one that goes on and to one that starts: nothing is made twice", async () => {
    await begin();
    const operator = await scene.startOperator();
    await until("the watches", () => initialWatches() >= 6);
    await scene.proxy.rememberPast();
    await scene.createPool("chat", 2);
    await scene.untilReady(2);
    await scene.untilQuiet();
    const before = await uids();

    const stale = ["resultitynodes", "pods", "poddisruptionbudgets"];
    const from = mark();
    for (const how of ["relist", "restart"]) {
      const view = scene.proxy.showPast(stale);
      const begun = mark();
      if (how === "relist") {
        scene.proxy.fault = ({ watch, initial }) => (watch && !initial ? goneWatch : undefined);
        scene.proxy.cutWatches();
        // It knows what it has written itself, and may well wait until it is shown as much.
        await until("the watches to begin anew", () => initialWatches(begun) >= 6);
      } else {
        await operator.stop();
        await scene.startOperator();
        // What is there already is refused, so the operator does try on what it is shown.
        await until("a create", () =>
          scene.proxy.log.slice(begun).some(({ method, status }) => method === "POST" && status === 409),
        );
      }
      await scene.untilQuiet();
      scene.proxy.fault = () => undefined;
      view.catchUp();
      await scene.untilReady(2);
      await scene.untilQuiet();
      await expectSame(before);
    }
    expect(writesSince(from).filter(({ method }) => method === "DELETE")).toEqual([]);
    expect(scene.madeTwice()).toEqual([]);
  });

  it("F03 from when objects of these names ended: the live ones stay, since deletes carry UID and version", async () => {
    const first = await serving(3);
    await first.stop();
    // Then: chat-0 is being deleted, chat-1 has failed, chat-2 is retired and without a pod.
    scene.treat = () => "ignore";
    await stand.kube.delete(scene.core("pods", "chat-0"));
    await stand.kube.patch(`${scene.core("pods", "chat-1")}/status`, "merge", {
      status: { phase: "Failed" },
    });
    await scene.scale("chat", 2);
    await scene.patch("resultitynodes", "chat-2", {
      metadata: { annotations: { "resultity.com/removing": "true" } },
      spec: { replicas: 0 },
    });
    await stand.kube.delete(scene.core("pods", "chat-2"), 0);
    await scene.proxy.rememberPast();

    // Now: all three serve again.
    await scene.scale("chat", 3);
    scene.treat = () => "run";
    const second = await scene.startOperator();
    await scene.untilReady(3);
    await scene.untilQuiet();
    const before = await uids();
    await second.stop();

    const from = mark();
    const view = scene.proxy.showPast(["resultitynodes", "resultitynodepools", "pods"]);
    await scene.startOperator();
    const refused = () =>
      writesSince(from)
        .filter(({ method, status }) => method === "DELETE" && status === 409)
        .map(({ resource, name }) => `${resource} ${name}`);
    await until("both deletes to be refused", () => new Set(refused()).size === 2);
    expect(new Set(refused())).toEqual(new Set(["pods chat-1", "resultitynodes chat-2"]));
    view.catchUp();
    await scene.untilReady(3);
    await scene.untilQuiet();
    await expectSame(before);
    const deleted = writesSince(from).filter(({ method, status }) => method === "DELETE" && status < 300);
    expect(deleted.map(requestLine)).toEqual([]);
  });

  it("F03 from when a node of this name ended: the identity of its successor does not go with it", async () => {
    const first = await serving(2, { identityRetention: "Delete" });
    await first.stop();
    await scene.scale("chat", 1);
    await scene.patch("resultitynodes", "chat-1", {
      metadata: { annotations: { "resultity.com/removing": "true" } },
      spec: { replicas: 0 },
    });
    await stand.kube.delete(scene.core("pods", "chat-1"), 0);
    await scene.proxy.rememberPast();
    const second = await scene.startOperator();
    await scene.untilReady(1);
    const gone = () => stand.kube.get(scene.core("secrets", "chat-1-identity"));
    await until("the first identity to go with its node", async () => (await gone()) === undefined);
    await scene.scale("chat", 2);
    await scene.untilReady(2);
    await scene.untilQuiet();
    const before = await uids();
    await second.stop();

    const from = mark();
    const view = scene.proxy.showPast(["resultitynodes", "resultitynodepools", "pods"]);
    await scene.startOperator();
    await until("the pool to act on what it sees", () =>
      scene.proxy.log
        .slice(from)
        .some(({ name, resource }) => name === "chat-1" && resource === "resultitynodes"),
    );
    await scene.untilQuiet();
    view.catchUp();
    await scene.untilReady(2);
    await scene.untilQuiet();
    await expectSame(before);
  });
});

describe("watches", () => {
  it("F05 that are answered 410 Gone begin anew: no write follows, and no event is lost", async () => {
    await serving(2);
    await scene.untilQuiet(atRestMs);
    let again = 0;
    scene.proxy.fault = ({ watch, initial }) => {
      if (initial) again++;
      return watch && !initial ? goneWatch : undefined;
    };
    const from = mark();
    scene.proxy.cutWatches();
    await until("all of them to begin anew", () => again >= 6);
    await scene.untilQuiet();
    expect(writesSince(from).map(requestLine)).toEqual([]);

    // Once more, and something happens that only the new beginning shows.
    await blindfold();
    await scene.scale("chat", 1);
    await stand.kube.delete(scene.core("pods", "chat-0"));
    scene.proxy.fault = () => undefined;
    await scene.untilReady(1);
  });

  it("F06 and lists that are refused or cut are tried again, later each time, as metric and log tell", async () => {
    const operator = await serving(2);
    await scene.untilQuiet(atRestMs);
    const faults: readonly (readonly [string, Fault])[] = [
      ["Unavailable", { do: "answer", status: 500, reason: "InternalError" }],
      ["Forbidden", { do: "answer", status: 403, reason: "Forbidden" }],
      ["TooManyRequests", { do: "answer", status: 429, reason: "TooManyRequests", seconds: 1 }],
    ];
    const from = mark();
    for (const [code, fault] of faults) {
      scene.proxy.fault = ({ watch }) => (watch ? fault : undefined);
      scene.proxy.cutWatches();
      const counted = new RegExp(`^reflector_errors_total\\{name="pods/[^"]*",code="${code}"\\} [1-9]`, "m");
      await until(`${code} to be counted`, async () => counted.test(await operator.metrics.text()));
      scene.proxy.fault = () => undefined;
      await until("the watch of pods", () => isWatched("pods"));
    }
    const told = operator.log.filter((line) => line.includes("list or watch failed"));
    for (const [code] of faults) expect(told.some((line) => line.includes(`"code":"${code}"`))).toBe(true);
    expect(told.join("\n")).toMatch(/"retryInMs":1\d\d\d/);
    expect(writesSince(from).map(requestLine)).toEqual([]);
    await operator.stop();

    // One that starts, by lists, of which the first of each resource is cut and the second refused.
    const asked = new Map<string, number>();
    scene.proxy.fault = ({ watch, initial, method, name, resource, url }) => {
      if (initial) return { do: "answer", status: 400, reason: "BadRequest" };
      if (watch || method !== "GET" || name !== "") return undefined;
      const key = `${resource} ${new URL(url, "http://x").searchParams.get("labelSelector") ?? ""}`;
      const count = (asked.get(key) ?? 0) + 1;
      asked.set(key, count);
      if (count === 1) return { do: "cut", afterBytes: 40 };
      return count === 2 ? { do: "answer", status: 500, reason: "InternalError" } : undefined;
    };
    const second = await scene.startOperator();
    await Promise.all(Object.values(second.context.caches).map((cache) => cache.synced()));
    expect([...asked.values()]).toEqual([3, 3, 3, 3, 3, 3]);
    await scene.untilQuiet();
    expect(writesSince(from).map(requestLine)).toEqual([]);
    await scene.scale("chat", 3);
    await scene.untilReady(3);
  });

  it("F06 of which one begins late: nobody says, or makes, what follows from its absence", async () => {
    const first = await serving(1);
    // A child without an identity is left behind.
    scene.proxy.fault = ({ method, resource }) =>
      method === "POST" && resource === "secrets" ? blind : undefined;
    await scene.scale("chat", 2);
    await until("the second child", async () => (await scene.nodes()).length === 2);
    await first.stop();
    for (const late of ["resultitynetworks", "resultitynodepools"]) {
      // What the last one had asked for may arrive after its end.
      await scene.untilQuiet();
      const from = mark();
      const { promise, resolve } = Promise.withResolvers<void>();
      scene.proxy.fault = ({ initial, resource }) =>
        initial && resource === late ? { do: "hold", until: promise } : undefined;
      const operator = await scene.startOperator();
      await until("the other watches", () => initialWatches(from) >= 6);
      const { networks, pools, ...others } = operator.context.caches;
      const known = [...Object.values(others), late === "resultitynetworks" ? pools : networks];
      await Promise.all(known.map((cache) => cache.synced()));
      await scene.untilQuiet();
      const early = writesSince(from).filter(({ resource }) => !resource.startsWith("resultitynetworks"));
      expect(early.map(requestLine)).toEqual([]);
      resolve();
      if (late === "resultitynetworks") await operator.stop();
    }
    await scene.untilReady(2);
    const secret = await stand.kube.get<Secret>(scene.core("secrets", "chat-1-identity"));
    expect(secret?.metadata.ownerReferences?.map(({ kind }) => kind)).toEqual(["ResultityNodePool"]);
  });

  it("F07 whose handler throws: it is counted and logged, and the others hear of all", async () => {
    const operator = await serving(1);
    const { nodes } = operator.context.caches;
    const fail = ({ metadata }: { metadata: { name: string } }) => {
      if (metadata.name === "chat-1") throw new Error("a handler that cannot bear chat-1");
    };
    nodes.handle({ added: fail, updated: fail });
    await scene.scale("chat", 3);
    await scene.untilReady(3);
    expect(await operator.metrics.text()).toMatch(/^reflector_handler_errors_total\{[^}]*\} [1-9]/m);
    expect(operator.log.filter((line) => line.includes("a handler that cannot bear chat-1"))).not.toEqual([]);
  });

  it("F09 a node that is deleted and recreated while nobody watches is another one", async () => {
    await serving(1);
    await scene.createNode("solo");
    await scene.untilReady(2);
    const before = await scene.node("solo");
    await blindfold();
    await stand.kube.delete(scene.path("resultitynodes", "solo"));
    await until("the pod to go with it", async () => (await scene.pod("solo")) === undefined);
    await scene.createNode("solo");
    scene.proxy.fault = () => undefined;
    await scene.untilReady(2);
    const after = await scene.node("solo");
    const pod = await scene.pod("solo");
    expect(after?.metadata.uid).not.toBe(before?.metadata.uid);
    expect(pod?.metadata.ownerReferences?.map(({ uid }) => uid)).toEqual([after?.metadata.uid]);
    expect(after?.status?.nodeId).not.toBe(before?.status?.nodeId);
  });

  it("F04 that never told of a scale-down and a scale-up: the pool ends at the last spec", async () => {
    await serving(2);
    const before = await uids();
    const from = mark();
    await blindfold();
    await scene.scale("chat", 0);
    await scene.scale("chat", 3);
    scene.proxy.fault = () => undefined;
    await scene.untilReady(3);
    await expectStillThere(before);
    expect(writesSince(from).filter(({ method }) => method === "DELETE")).toEqual([]);
  });

  it("F15 [time ×1/60] of an API server that is away for 10 minutes: no deletion follows, what happened meanwhile is seen", async () => {
    await serving(2);
    const before = await uids();
    const from = mark();
    scene.proxy.away(true);
    const since = performance.now();
    await scene.scale("chat", 3);
    // Time itself is what is tested here.
    await until("10 s", () => performance.now() - since > 10_000, { intervalMs: 200 });
    scene.proxy.away(false);
    await scene.untilReady(3);
    await expectStillThere(before);
    expect(writesSince(from).filter(({ method }) => method === "DELETE")).toEqual([]);
  });
});

/** Whether a watch of a resource has begun since the last fault, as the log has it. */
function isWatched(resource: string): boolean {
  return scene.proxy.log.findLast((asked) => asked.watch && asked.resource === resource)?.status === 200;
}

describe("what people do", () => {
  it("F16 edit a child, a budget, or take labels away: all is put back, no pod restarts", async () => {
    await serving(2);
    const before = await uids();
    await scene.patch("resultitynodes", "chat-0", { metadata: { labels: { "resultity.com/pool": null } } });
    await scene.patch("resultitynodes", "chat-1", { spec: { drain: { timeoutSeconds: 7 } } });
    const budget = `/apis/policy/v1/namespaces/${scene.namespace}/poddisruptionbudgets/chat`;
    await stand.kube.patch(budget, "merge", { spec: { minAvailable: 0 } });
    await stand.kube.patch(scene.core("pods", "chat-1"), "merge", {
      metadata: { labels: { "resultity.com/node": null } },
    });
    await until("all of it to be put back", async () => {
      const [first, second] = [await scene.node("chat-0"), await scene.node("chat-1")];
      const seen = await stand.kube.get<Budget>(budget);
      return (
        first?.metadata.labels?.["resultity.com/pool"] === "chat" &&
        second?.spec.drain.timeoutSeconds === 300 &&
        seen?.spec.minAvailable === 1 &&
        (await scene.pod("chat-1"))?.metadata.labels?.["resultity.com/node"] === "chat-1"
      );
    });
    await scene.untilReady(2);
    await scene.untilQuiet();
    await expectSame(before);
  });

  it("F17 write a spec that cannot be, and put it right: a condition says why, running pods stay as they are", async () => {
    await serving(2);
    await scene.createNode("solo");
    await scene.untilReady(3);
    await scene.untilQuiet();
    const before = await uids();
    const from = mark();
    const template = (engine: string) => ({ spec: { template: { spec: { runtime: { engine } } } } });
    const unknown = `sha256:${"e".repeat(64)}`;
    await scene.patch("resultitynodepools", "chat", template("vllm"));
    await scene.patch("resultitynodes", "solo", { spec: { config: { pin: unknown } } });
    const [first] = await until("a child to be refused", async () => {
      const seen = (await scene.nodes()).filter(
        (node) => conditionOf(node, "ConfigApplied") === "False NoRuntimeForEngine",
      );
      return seen.length > 0 && seen;
    });
    expect(first?.status?.conditions?.find(({ type }) => type === "ConfigApplied")?.message).toContain(
      "vllm",
    );
    const solo = await scene.untilCondition("solo", "ConfigApplied", "False DigestNotAllowed");
    expect(solo.status?.conditions?.find(({ type }) => type === "ConfigApplied")?.message).toContain(unknown);
    await scene.untilQuiet();
    // One is out of service, so the other is left alone.
    expect((await scene.nodes()).filter(({ spec }) => spec.runtime.engine === "vllm")).toHaveLength(1);

    await scene.patch("resultitynodepools", "chat", template("openai"));
    await scene.patch("resultitynodes", "solo", { spec: { config: null } });
    await scene.untilReady(3);
    await scene.patch("resultitynetworks", "testnet", {
      spec: { trust: { rootConfigMap: { name: "absent" } } },
    });
    await until("the network to say so", async () => {
      const network = await scene.network();
      return network && conditionOf(network, "Trusted")?.startsWith("False");
    });
    await scene.untilQuiet();
    await scene.patch("resultitynetworks", "testnet", {
      spec: { trust: { rootConfigMap: { name: "root" } } },
    });
    await until("the network to be well", async () => {
      const network = await scene.network();
      return network && conditionOf(network, "Ready") === "True AllWell";
    });
    await scene.untilReady(3);
    await scene.untilQuiet();
    await expectSame(before);
    expect(
      writesSince(from)
        .filter(({ resource }) => resource === "pods")
        .map(requestLine),
    ).toEqual([]);
  });

  it("F13 delete the namespace: everything goes, and the operator does not loop", async () => {
    await serving(2);
    const from = mark();
    await stand.kube.delete(`/api/v1/namespaces/${scene.namespace}`);
    await until(
      "the namespace to be gone",
      async () => (await stand.kube.get(`/api/v1/namespaces/${scene.namespace}`)) === undefined,
      {
        deadlineMs: 60_000,
      },
    );
    await scene.untilQuiet(3_000);
    const asked = writesSince(from).map(requestLine);
    expect(asked.length, asked.join("\n")).toBeLessThan(60);
  });
});

interface Budget {
  readonly metadata: { readonly name: string };
  readonly spec: { readonly minAvailable: number };
}
