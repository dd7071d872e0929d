import { describe, expect, it } from "vitest";
import type { Work } from "../../../src/operator/pool/canary.ts";
import { type PoolAction, promoteAnnotation, wantedDigest } from "../../../src/operator/pool/plan.ts";
import { poolStatus } from "../../../src/operator/pool/status.ts";
import { digest, Fleet, makePool } from "./fleet.ts";

const [a, b, c] = [digest("a"), digest("b"), digest("c")];
const canary = { replicas: 1, jobs: 20, soakSeconds: 300 };

/** A pool of four on config a that is asked to move to b, its first node trying it. */
function trying(more: object = {}): Fleet {
  const rollingUpdate = { maxUnavailable: "50%", canary, ...more };
  const fleet = new Fleet(makePool({ replicas: 4, strategy: { rollingUpdate } }));
  fleet.settle();
  fleet.current = b;
  return fleet;
}

const told = (actions: readonly PoolAction[]): string[] =>
  actions.flatMap((action) =>
    action.type === "target" ? [`${action.child.metadata.name} ${action.digest.at(-1)}`] : [],
  );

/** The status as the controller writes it, and what it says. */
function write(fleet: Fleet) {
  fleet.pool = { ...fleet.pool, status: poolStatus(fleet.observe()) };
  const { rollout, rejected, conditions } = fleet.pool.status ?? {};
  const progress = conditions?.find(({ type }) => type === "Progressing");
  return {
    canary: rollout?.canary,
    rejected,
    says: `${progress?.status} ${progress?.reason}`,
    message: progress?.message ?? "",
  };
}

const work = (config: string, completed: number, failed = 0, each = 100): Work => ({
  config,
  completed,
  failed,
  durationMs: completed * each,
});

const later = (fleet: Fleet, seconds: number) => {
  fleet.now += seconds * 1000;
};

/** The first node has moved and has served for the soak time. */
function soaked(more: object = {}): Fleet {
  const fleet = trying(more);
  fleet.reconcile();
  fleet.arrive("chat-0");
  later(fleet, 300);
  return fleet;
}

describe("a trial", () => {
  it("moves its members alone, then waits for the soak time, then for traffic, then all move", () => {
    const fleet = trying();
    expect(told(fleet.reconcile())).toEqual(["chat-0 b"]);
    expect(write(fleet)).toMatchObject({ canary: "Running", says: "True Canary" });
    fleet.arrive("chat-0");
    fleet.work.set("chat-0", work(b, 100));
    expect(told(fleet.reconcile())).toEqual([]);
    expect(write(fleet).message).toContain("serve under it for 300 s first");
    later(fleet, 300);
    fleet.work.set("chat-0", work(b, 19));
    expect(told(fleet.reconcile())).toEqual([]);
    expect(write(fleet).message).toContain("without traffic it waits");
    fleet.work.set("chat-0", work(b, 20));
    expect(told(fleet.reconcile())).toEqual(["chat-1 b", "chat-2 b"]);
    expect(write(fleet).canary).toBe("Passed");
    fleet.settle();
    expect(write(fleet)).toMatchObject({ says: "True NewestConfig" });
  });

  it("that has passed stays passed, though the service forgets its figures", () => {
    const fleet = soaked();
    fleet.work.set("chat-0", work(b, 20));
    write(fleet);
    fleet.work.clear();
    expect(told(fleet.reconcile())).toEqual(["chat-1 b", "chat-2 b"]);
    expect(write(fleet).canary).toBe("Passed");
  });

  it("counts no jobs of the old config", () => {
    const fleet = soaked();
    fleet.work.set("chat-0", work(a, 1000, 500));
    expect(told(fleet.reconcile())).toEqual([]);
    expect(write(fleet).message).toContain("have to answer 20 jobs");
  });

  it("with 10 % errors goes back by itself, at once, and keeps the reason", () => {
    const fleet = trying();
    fleet.reconcile();
    fleet.arrive("chat-0");
    fleet.work.set("chat-0", work(b, 90, 10));
    expect(told(fleet.reconcile())).toEqual([]);
    expect(write(fleet)).toMatchObject({
      canary: "Failed",
      rejected: [
        { digest: b, instead: a, reason: expect.stringContaining("10 of 100 jobs failed on chat-0") },
      ],
    });
    expect(told(fleet.reconcile())).toEqual(["chat-0 a"]);
    fleet.settle();
    expect(write(fleet)).toMatchObject({ says: "False RolledBack" });
    expect(write(fleet).message).toContain("kubectl resultity rollout promote chat -n inference");
    expect([...fleet.children.values()].map(({ status }) => status?.config?.applied)).toEqual([a, a, a, a]);
    expect(fleet.reconcile()).toEqual([]);
  });

  it("bears as many errors as are allowed", () => {
    const fleet = soaked();
    fleet.work.set("chat-0", work(b, 95, 5));
    expect(told(fleet.reconcile())).toEqual(["chat-1 b", "chat-2 b"]);
  });

  it("fails if jobs take much longer than under the old config", () => {
    const fleet = soaked();
    fleet.work.set("chat-1", work(a, 100, 0, 100));
    fleet.work.set("chat-0", work(b, 100, 0, 149));
    expect(told(fleet.reconcile())).toEqual(["chat-1 b", "chat-2 b"]);
    const slow = soaked();
    slow.work.set("chat-1", work(a, 100, 0, 100));
    slow.work.set("chat-0", work(b, 100, 0, 152));
    expect(told(slow.reconcile())).toEqual([]);
    expect(write(slow).rejected?.[0]?.reason).toContain("jobs take 52 % longer on chat-0");
  });

  it("is not slower than nodes that have done nothing", () => {
    const fleet = soaked({ canary: { ...canary, jobs: 0 } });
    fleet.work.set("chat-0", work(b, 5));
    expect(told(fleet.reconcile())).toEqual(["chat-1 b", "chat-2 b"]);
    expect(write(fleet)).toMatchObject({ canary: "Passed", rejected: undefined });
  });

  it("fails if a member cannot come up for the soak time", () => {
    const fleet = trying();
    fleet.reconcile();
    fleet.stick("chat-0", "EngineFailed");
    expect(write(fleet).canary).toBe("Running");
    later(fleet, 300);
    expect(write(fleet).rejected?.[0]?.reason).toContain("chat-0 does not come up: EngineFailed");
  });

  it("that fails stops, and no more, where nothing is to be taken back", () => {
    const fleet = soaked({ autoRollback: false });
    fleet.work.set("chat-0", work(b, 0, 20));
    expect(told(fleet.reconcile())).toEqual([]);
    expect(write(fleet)).toMatchObject({ canary: "Failed", says: "False CanaryFailed", rejected: undefined });
  });

  it("is skipped, and a rejection lifted, when a person promotes the config", () => {
    const fleet = soaked();
    fleet.work.set("chat-0", work(b, 0, 20));
    write(fleet);
    expect(wantedDigest(fleet.observe())).toBe(a);
    const { metadata } = fleet.pool;
    fleet.pool = { ...fleet.pool, metadata: { ...metadata, annotations: { [promoteAnnotation]: b } } };
    expect(wantedDigest(fleet.observe())).toBe(b);
    expect(told(fleet.reconcile())).toEqual(["chat-1 b", "chat-2 b"]);
  });

  it("of the next config begins anew, and the rejection of another does not bind it", () => {
    const fleet = soaked();
    fleet.work.set("chat-0", work(b, 0, 20));
    write(fleet);
    fleet.settle();
    fleet.current = c;
    expect(told(fleet.reconcile())).toEqual(["chat-0 c"]);
    expect(write(fleet)).toMatchObject({ canary: "Running", says: "True Canary" });
  });

  it("gives a new node the old config meanwhile, and is not held at a first rollout", () => {
    const fleet = trying();
    fleet.reconcile();
    fleet.arrive("chat-0");
    fleet.children.delete("chat-3");
    fleet.reconcile();
    expect(told(fleet.reconcile())).toEqual(["chat-3 a"]);
    const first = new Fleet(makePool({ replicas: 3, strategy: { rollingUpdate: { canary } } }));
    first.settle();
    expect([...first.children.values()].map(({ status }) => status?.config?.applied)).toEqual([a, a, a]);
  });

  it("that has failed and is not taken back stays failed, and says so once, whatever the figures do", () => {
    const fleet = soaked({ autoRollback: false });
    fleet.work.set("chat-0", work(b, 20, 20));
    const said = write(fleet).message;
    fleet.work.set("chat-0", work(b, 30, 30));
    expect(write(fleet).message).toBe(said);
    fleet.work.clear();
    expect(write(fleet)).toMatchObject({ canary: "Failed", message: said });
    expect(told(fleet.reconcile())).toEqual([]);
  });

  it("bears a member that has long been out of service for another reason as long as any other", () => {
    const fleet = trying();
    fleet.stick("chat-0", "EngineFailed");
    later(fleet, 3600);
    fleet.reconcile();
    expect(write(fleet).canary).toBe("Running");
    later(fleet, 299);
    expect(write(fleet).canary).toBe("Running");
    later(fleet, 1);
    expect(write(fleet).rejected?.[0]?.reason).toContain("chat-0 does not come up");
  });

  it("gives a new node what is tried if the network has withdrawn what the others run", () => {
    const fleet = trying();
    fleet.allows = (asked) => asked === b;
    fleet.children.delete("chat-3");
    fleet.reconcile();
    expect(told(fleet.reconcile())).toEqual(["chat-3 b"]);
  });

  it("sends a node that cannot get to a config that nobody asks for any more back to what the others run", () => {
    const fleet = trying();
    fleet.reconcile();
    fleet.arrive("chat-0");
    fleet.work.set("chat-0", work(b, 20));
    later(fleet, 300);
    expect(told(fleet.reconcile())).toEqual(["chat-1 b", "chat-2 b"]);
    write(fleet);
    for (const name of ["chat-1", "chat-2"]) fleet.stick(name, "EngineFailed");
    fleet.change("chat-0", (child) => ({ ...child, spec: { ...child.spec, replicas: 0 } }));
    fleet.arrive("chat-0");
    fleet.current = c;
    write(fleet);
    expect(told(fleet.reconcile())).toContain("chat-2 a");
  });
});
