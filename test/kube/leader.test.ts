import { describe, expect, it } from "vitest";
import type { CallOptions, Client } from "../../src/kube/client.ts";
import { KubeError } from "../../src/kube/errors.ts";
import { LeaderElector, type LeaseClient } from "../../src/kube/leader.ts";
import type { Clock } from "../../src/lib/clock.ts";
import type { Draft, KubeObject, ObjectMeta } from "../../src/kube/object.ts";
import { FakeClock } from "../lib/fake-clock.ts";

/** An API server with one Lease, and optimistic locking as the real one. */
class FakeApi {
  lease: { metadata: ObjectMeta; spec?: { holderIdentity?: string } } | undefined;
  writes = 0;
  #version = 0;

  /** A client whose requests fail or hang while `broken` says so. */
  client(broken: { by?: "error" | "silence" }, clock: Clock): LeaseClient {
    const guard = async ({ signal, timeout = 30_000 }: CallOptions = {}) => {
      if (broken.by === "error") throw new KubeError("Unavailable", "connection refused");
      if (broken.by !== "silence") return;
      await new Promise((_, reject) => {
        clock.setTimer(() => reject(new KubeError("Timeout", "no answer")), timeout);
        signal?.addEventListener("abort", () => reject(new KubeError("Aborted", "given up")));
      });
    };
    const store = <T extends KubeObject>(draft: Draft<T>): Promise<never> => {
      this.writes++;
      this.lease = {
        ...draft,
        metadata: {
          uid: "u",
          creationTimestamp: "",
          ...draft.metadata,
          resourceVersion: String(++this.#version),
        },
      };
      return Promise.resolve(structuredClone(this.lease) as never);
    };
    const client: Pick<Client, "find" | "create" | "update"> = {
      find: async (_resource, _ref, options) => {
        await guard(options);
        return structuredClone(this.lease) as never;
      },
      create: async (_resource, draft, options) => {
        await guard(options);
        if (this.lease) throw new KubeError("AlreadyExists", "exists");
        return store(draft);
      },
      update: async (_resource, draft, options) => {
        await guard(options);
        if (this.lease?.metadata.resourceVersion !== draft.metadata.resourceVersion) {
          throw new KubeError("Conflict", "the object has been modified");
        }
        return store(draft);
      },
    };
    return client;
  }
}

/** A clock that went on by `ms` while no timer fired, as after SIGSTOP and SIGCONT. */
function jumping(clock: FakeClock, ms: () => number): Clock {
  return {
    now: () => clock.now() + ms(),
    monotonic: () => clock.monotonic() + ms(),
    setTimer: (fn, after) => clock.setTimer(fn, after),
  };
}

function replica(api: FakeApi, clock: Clock, identity: string) {
  const broken: { by?: "error" | "silence" } = {};
  const elector = new LeaderElector({
    client: api.client(broken, clock),
    namespace: "ns",
    name: "lock",
    identity,
    clock,
    random: () => 0.5,
  });
  const stop = new AbortController();
  const seen = { terms: 0, working: false };
  const ended = elector.run(async (leading) => {
    seen.terms++;
    seen.working = true;
    await new Promise<void>((resolve) => leading.addEventListener("abort", () => resolve()));
    seen.working = false;
  }, stop.signal);
  return { elector, stop, seen, ended, broken };
}

describe("LeaderElector", () => {
  it("lets one of two lead, and renews every two seconds with one write and nothing else", async () => {
    const [api, clock] = [new FakeApi(), new FakeClock()];
    const [a, b] = [replica(api, clock, "a"), replica(api, clock, "b")];
    await clock.advanceAsync(5000, 100);
    expect([a.seen.working, b.seen.working].filter(Boolean)).toHaveLength(1);
    const before = api.writes;
    await clock.advanceAsync(60_000, 100);
    expect(api.writes - before).toBeGreaterThanOrEqual(28);
    expect(api.writes - before).toBeLessThanOrEqual(31);
    expect([a, b].filter(({ elector }) => elector.isLeader)).toHaveLength(1);
    for (const { stop } of [a, b]) stop.abort();
    await Promise.all([a.ended, b.ended]);
  });

  it("hands over within 5 s of a clean stop", async () => {
    const [api, clock] = [new FakeApi(), new FakeClock()];
    const a = replica(api, clock, "a");
    await clock.advanceAsync(3000, 100);
    const b = replica(api, clock, "b");
    await clock.advanceAsync(30_000, 100);
    expect([a.elector.isLeader, b.elector.isLeader]).toEqual([true, false]);
    a.stop.abort();
    await a.ended;
    expect(a.elector.isLeader).toBe(false);
    expect(api.lease?.spec?.holderIdentity).toBe("");
    await clock.advanceAsync(5000, 100);
    expect(b.seen.working).toBe(true);
    b.stop.abort();
    await b.ended;
  });

  for (const by of ["error", "silence"] as const) {
    it(`F14 stops writing before its lease runs out when renewals meet ${by}, and only then another begins`, async () => {
      const [api, clock] = [new FakeApi(), new FakeClock()];
      const a = replica(api, clock, "a");
      await clock.advanceAsync(3000, 100);
      const b = replica(api, clock, "b");
      await clock.advanceAsync(3000, 100);
      a.broken.by = by;
      let stoppedAt: number | undefined;
      let startedAt: number | undefined;
      for (let t = 0; t < 30_000; t += 100) {
        await clock.advanceAsync(100, 100);
        expect(a.elector.isLeader && b.elector.isLeader).toBe(false);
        if (!a.elector.isLeader) stoppedAt ??= clock.monotonic();
        if (b.elector.isLeader) startedAt ??= clock.monotonic();
      }
      expect(stoppedAt).toBeDefined();
      expect(startedAt).toBeDefined();
      expect((startedAt ?? 0) - (stoppedAt ?? 0)).toBeGreaterThanOrEqual(4000);
      expect(a.seen.working).toBe(false);
      delete a.broken.by;
      for (const { stop } of [a, b]) stop.abort();
      await Promise.all([a.ended, b.ended]);
    });
  }

  it("F14 asks again at once when a renewal was left unanswered for half of its time", async () => {
    const [api, clock] = [new FakeApi(), new FakeClock()];
    const a = replica(api, clock, "a");
    await clock.advanceAsync(3000, 100);
    a.broken.by = "silence";
    // Renewed at 2 s, asked again at 4 s, and that is given up at 9 s: two seconds later one second would be left.
    await clock.advanceAsync(6100, 100);
    delete a.broken.by;
    const before = api.writes;
    await clock.advanceAsync(600, 100);
    expect(api.writes - before).toBe(1);
    await clock.advanceAsync(20_000, 100);
    expect([a.elector.isLeader, a.seen.terms, api.writes - before]).toEqual([true, 1, 11]);
    a.stop.abort();
    await a.ended;
  });

  it("F14 withholds writes after the process was stopped, before any timer of its own has fired", async () => {
    const [api, clock] = [new FakeApi(), new FakeClock()];
    let stoppedFor = 0;
    const a = replica(
      api,
      jumping(clock, () => stoppedFor),
      "a",
    );
    await clock.advanceAsync(3000, 100);
    expect(() => a.elector.assertLeading()).not.toThrow();
    stoppedFor = 10_000;
    expect(() => a.elector.assertLeading()).toThrow(/a does not hold lease lock: the write is withheld/);
    a.stop.abort();
    await a.ended;
  });

  it("is not deceived by wall clocks that are an hour off", async () => {
    const api = new FakeApi();
    const [clock, ahead] = [new FakeClock(), new FakeClock()];
    ahead.skew(3_600_000);
    const a = replica(api, clock, "a");
    await clock.advanceAsync(3000, 100);
    const b = replica(api, ahead, "b");
    for (let t = 0; t < 40_000; t += 100) {
      await clock.advanceAsync(100, 100);
      await ahead.advanceAsync(100, 100);
    }
    expect([a.elector.isLeader, b.elector.isLeader]).toEqual([true, false]);
    for (const { stop } of [a, b]) stop.abort();
    await Promise.all([a.ended, b.ended]);
  });

  it("goes on when someone edited the Lease, and stops at once when another took it", async () => {
    const [api, clock] = [new FakeApi(), new FakeClock()];
    const a = replica(api, clock, "a");
    await clock.advanceAsync(3000, 100);
    if (!api.lease) throw new Error("no lease");
    await api
      .client({}, clock)
      .update({} as never, { ...api.lease, metadata: { ...api.lease.metadata, labels: { x: "y" } } });
    await clock.advanceAsync(8000, 100);
    expect([a.elector.isLeader, a.seen.terms]).toEqual([true, 1]);
    await api
      .client({}, clock)
      .update({} as never, { ...api.lease, spec: { holderIdentity: "thief" } } as never);
    await clock.advanceAsync(2500, 100);
    expect([a.elector.isLeader, a.seen.working]).toEqual([false, false]);
    expect(a.elector.leader).toBe("thief");
    a.stop.abort();
    await a.ended;
  });

  it("leads again after the API server came back", async () => {
    const [api, clock] = [new FakeApi(), new FakeClock()];
    const a = replica(api, clock, "a");
    await clock.advanceAsync(3000, 100);
    a.broken.by = "error";
    await clock.advanceAsync(600_000, 500);
    expect(a.elector.isLeader).toBe(false);
    delete a.broken.by;
    await clock.advanceAsync(5000, 100);
    expect([a.elector.isLeader, a.seen.terms]).toEqual([true, 2]);
    a.stop.abort();
    await a.ended;
  });

  it("refuses durations that would let two write", () => {
    const client = new FakeApi().client({}, new FakeClock());
    const base = { client, namespace: "ns", name: "x", identity: "a" };
    expect(() => new LeaderElector({ ...base, renewDeadline: 15_000 })).toThrow(/must hold/);
  });
});
