import { describe, expect, it } from "vitest";
import type { ClientEntry } from "./load.ts";
import type { EngineLine } from "./reconcile.ts";
import { type FaultLogs, reconcileFaults } from "./reconcile-faults.ts";

const client = (id: string | undefined, how: Partial<ClientEntry> = {}): ClientEntry => ({
  id,
  ok: true,
  stream: false,
  begun: 1,
  ended: 2,
  text: "a b c",
  relayed: true,
  expected: "a b c",
  tokens: 3,
  error: undefined,
  code: undefined,
  ...how,
});
const lost: Partial<ClientEntry> = { ok: false, stream: true, text: "a b", error: "lost", code: "node_lost" };
const cut: Partial<ClientEntry> = { ok: false, text: "", error: "terminated" };
const job = (id: string, state = "CONFIRMED", attempt = 1) => ({ id, state, attempt, node: "n" });
const run = (id: string, outcome = "completed"): EngineLine[] => [
  { time: 1, version: "v1", event: "begin", id },
  { time: 2, version: "v1", event: "end", id, outcome },
];
/** One job answered at once, one in its second attempt, one stream interrupted. */
const good: FaultLogs = {
  client: [client("a"), client("b"), client("c", lost)],
  store: [job("a"), job("b", "CONFIRMED", 2), job("c", "INTERRUPTED")],
  engine: [...run("a"), ...run("b", "aborted"), ...run("b"), ...run("c", "aborted")],
  receipts: ["a", "b", "c"],
};

describe("reconcileFaults", () => {
  it("is content with what a killed node may do", () => {
    expect(reconcileFaults(good)).toEqual({
      answered: 2,
      retried: ["b"],
      interrupted: ["c"],
      cut: 0,
      problems: [],
    });
  });

  it("is content with cut connections if the service was killed, and only then", () => {
    const logs = {
      client: [client("a"), client("d", { ...cut, stream: true, text: "a" }), client(undefined, cut)],
      store: [job("a"), job("d", "CANCELLED", 0), job("e", "CANCELLED", 0)],
      engine: [...run("a"), ...run("d", "aborted"), ...run("e", "aborted")],
      receipts: ["a"],
    };
    expect(reconcileFaults(logs, { killedAt: 3 })).toMatchObject({ cut: 2, problems: [] });
    expect(reconcileFaults(logs).problems).not.toEqual([]);
  });

  it("lets an engine be killed before it says that it has answered", () => {
    const engine = good.engine.filter(({ id, event }) => id !== "a" || event === "begin");
    expect(reconcileFaults({ ...good, engine }).problems).toEqual([]);
  });

  it("lets an answer overtake its commit at the moment of the kill, and at no other", () => {
    const logs = { ...good, store: [job("a", "CANCELLED", 0), ...good.store.slice(1)], receipts: ["b", "c"] };
    expect(reconcileFaults(logs, { killedAt: 100 }).problems).toEqual([]);
    expect(reconcileFaults(logs, { killedAt: 5_000 }).problems).toEqual([
      "a: answered, but the store says CANCELLED",
    ]);
  });

  const cases: readonly [string, Partial<FaultLogs>, RegExp][] = [
    ["a request that was refused", { client: [client("a", { ok: false, error: "500" })] }, /^a: 500/],
    ["an answer without a commit", { store: [job("a", "DEAD"), ...good.store.slice(1)] }, /says DEAD/],
    ["one id answered twice", { client: [...good.client, client("a")] }, /answered twice/],
    ["a plain request interrupted", { client: [client("c", { ...lost, stream: false })] }, /plain/],
    ["another error at the end", { client: [client("c", { ...lost, code: "job_failed" })] }, /job_failed/],
    [
      "an interruption before the first byte",
      { client: [client("c", { ...lost, text: "", relayed: false })] },
      /retry/,
    ],
    ["two answers glued", { client: [client("c", { ...lost, text: "a b a" })] }, /glued/],
    ["a job that nobody asked for", { store: [...good.store, job("x", "DEAD")] }, /nobody/],
    ["more runs than attempts", { engine: [...good.engine, ...run("a", "aborted")] }, /begun 2 times/],
    ["an answer that no engine gave", { engine: good.engine.slice(2) }, /no engine/],
    [
      "an answer of an engine that broke off",
      { engine: [...run("a", "aborted"), ...good.engine.slice(2)] },
      /no engine/,
    ],
    ["work for an unknown id", { engine: [...good.engine, ...run("x")] }, /does not have it/],
    ["a job charged twice", { receipts: [...good.receipts, "a"] }, /two receipts/],
    ["a commit without a charge", { receipts: ["a", "c"] }, /without a receipt/],
    ["a charge without a commit", { store: [job("a", "DEAD"), ...good.store.slice(1)] }, /but charged/],
  ];
  it.each(cases)("sees %s", (_name, change, problem) => {
    expect(reconcileFaults({ ...good, ...change }).problems).toContainEqual(expect.stringMatching(problem));
  });
});
