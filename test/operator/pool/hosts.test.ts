import { describe, expect, it } from "vitest";
import { type PoolAction, type PoolObservation, planPool } from "../../../src/operator/pool/plan.ts";
import { candidatesOf } from "../../../src/operator/pool/scale.ts";
import { poolStatus } from "../../../src/operator/pool/status.ts";
import { digest, Fleet, makePool } from "./fleet.ts";

/** A settled pool whose node n is on the n-th of these hosts; "-" = on none. */
function on(hosts: string, maxUnavailable: number | string = 1): Fleet {
  const rollingUpdate = { maxUnavailable };
  const fleet = new Fleet(makePool({ replicas: hosts.length, strategy: { rollingUpdate } }));
  fleet.settle();
  for (const [at, host] of hosts.split("").entries()) {
    if (host === "-") continue;
    fleet.change(`chat-${at}`, (child) => ({ ...child, status: { ...child.status, hostName: host } }));
  }
  return fleet;
}

const ordinals = (actions: readonly PoolAction[], type: PoolAction["type"]): string =>
  actions
    .flatMap((action) => (action.type === type && "child" in action ? [action.child.metadata.name] : []))
    .map((name) => name.replace("chat-", ""))
    .join(" ");

function scaled(fleet: Fleet, replicas: number): string {
  fleet.pool = { ...fleet.pool, spec: { ...fleet.pool.spec, replicas } };
  return ordinals(fleet.reconcile(), "retire");
}

describe("a smaller pool", () => {
  it("leaves as many hosts empty as it can: those with the fewest of its nodes go first, then the highest numbers", () => {
    expect(scaled(on("aabcccc"), 4)).toBe("2 1 0");
    expect(scaled(on("abcabc"), 4)).toBe("5 2");
    expect(scaled(on("abcabc"), 3)).toBe("5 2 4");
  });

  it("goes on with the host that it has begun to empty", () => {
    const fleet = on("aabb");
    expect(scaled(fleet, 3)).toBe("3");
    expect(scaled(fleet, 2)).toBe("2");
  });

  it("takes what serves nobody before that, and does not count it as a reason to keep a host", () => {
    const fleet = on("abbcc");
    fleet.fail("chat-1");
    expect(scaled(fleet, 4)).toBe("1");
    const other = on("aabbb");
    for (const name of ["chat-2", "chat-3"]) other.fail(name);
    expect(scaled(other, 2)).toBe("3 2 4");
  });
});

describe("a smaller pool whose nodes have jobs", () => {
  /** Jobs of node n as the n-th digit; "-" = it has not said. */
  const gone = (hosts: string, jobs: string, replicas: number): string => {
    const fleet = on(hosts);
    fleet.pool = { ...fleet.pool, spec: { ...fleet.pool.spec, replicas } };
    const load: PoolObservation["load"] = ({ metadata }) => {
      const said = jobs[Number(metadata.name.replace("chat-", ""))];
      return said === undefined || said === "-" ? undefined : Number(said);
    };
    return ordinals(planPool({ ...fleet.observe(), load }), "retire");
  };

  it("takes those that have none first, then empties hosts, and of equals takes the least busy", () => {
    expect(gone("abcd", "3012", 3)).toBe("1");
    expect(gone("abcd", "3012", 1)).toBe("1 2 3");
    // Hosts b and c have one node each.
    expect(gone("aabc", "2132", 3)).toBe("3");
    expect(gone("aabc", "2123", 3)).toBe("2");
    expect(gone("aa", "12", 1)).toBe("0");
  });

  it("takes one that has not said how busy it is for busier than all that have", () => {
    expect(gone("abc", "-2-", 2)).toBe("1");
    expect(gone("abc", "---", 2)).toBe("2");
  });

  it("asks nobody where it does not matter", () => {
    const asked = (hosts: string, replicas: number, failed: readonly string[] = []) => {
      const fleet = on(hosts);
      for (const name of failed) fleet.fail(name);
      fleet.pool = { ...fleet.pool, spec: { ...fleet.pool.spec, replicas } };
      return candidatesOf(fleet.observe()).length;
    };
    expect(asked("abcd", 4)).toBe(0);
    expect(asked("abcd", 5)).toBe(0);
    expect(asked("abcd", 0)).toBe(0);
    expect(asked("abcd", 3, ["chat-0"])).toBe(0);
    expect(asked("abcd", 3)).toBe(4);
    expect(asked("a".repeat(100), 99)).toBe(64);
    expect(asked("a".repeat(100), 37)).toBe(64);
    // All that would be asked go anyway: thousands are not asked for nothing.
    expect(asked("a".repeat(100), 36)).toBe(0);
  });
});

describe("an update", () => {
  it("goes from host to host, so that one fetch of an image is for all nodes there", () => {
    const fleet = on("abcabc");
    fleet.current = digest("b");
    const order: string[] = [];
    for (let step = 0; step < 6; step++) {
      const told = ordinals(fleet.reconcile(), "target");
      order.push(told);
      fleet.arrive(`chat-${told}`);
    }
    expect(order).toEqual(["0", "3", "1", "4", "2", "5"]);
  });

  it("takes as many of a host as the budget has room for", () => {
    const fleet = on("abcabcab", 3);
    fleet.current = digest("b");
    expect(ordinals(fleet.reconcile(), "target")).toBe("0 3 6");
  });
});

describe("a config that the network's release does not allow", () => {
  const [a, b] = [digest("a"), digest("b")];

  it("is told to nobody, and the status names it and what to do", () => {
    const fleet = on("ab");
    const { template } = fleet.pool.spec;
    const pinned = { ...template, spec: { ...template.spec, config: { pin: b } } };
    fleet.pool = { ...fleet.pool, spec: { ...fleet.pool.spec, template: pinned } };
    fleet.allows = (asked) => asked === a;
    fleet.settle();
    expect([...fleet.children.values()].map(({ status }) => status?.config?.target)).toEqual([a, a]);
    const progress = poolStatus(fleet.observe()).conditions?.find(({ type }) => type === "Progressing");
    expect(progress).toMatchObject({ status: "False", reason: "Stalled" });
    expect(progress?.message).toContain("remove spec.template.spec.config.pin");
  });

  it("is not given to a new node because its siblings still run it", () => {
    const fleet = on("ab");
    fleet.allows = (asked) => asked === b;
    fleet.current = b;
    fleet.pool = {
      ...fleet.pool,
      spec: { ...fleet.pool.spec, replicas: 3, strategy: { ...fleet.pool.spec.strategy, paused: true } },
    };
    fleet.settle();
    expect(fleet.children.get("chat-2")?.status?.config?.target).toBe(b);
  });
});
