import { describe, expect, it } from "vitest";
import type { ClientEntry } from "./load.ts";
import { type EngineLine, type Logs, reconcile } from "./reconcile.ts";

const client = (id: string, ok = true): ClientEntry => ({
  id,
  ok,
  stream: false,
  begun: 1,
  ended: 2,
  text: "",
  relayed: false,
  tokens: 1,
  error: ok ? undefined : "cut",
  code: undefined,
  expected: "",
});
const job = (id: string, state = "CONFIRMED", attempt = 1) => ({ id, state, attempt, node: "n" });
const run = (id: string, outcome = "completed"): EngineLine[] => [
  { time: 1, version: "v1", event: "begin", id },
  { time: 2, version: "v1", event: "end", id, outcome },
];
const good: Logs = {
  client: [client("a"), client("b")],
  store: [job("a"), job("b")],
  engine: [...run("a"), ...run("b")],
};

describe("reconcile", () => {
  it("is content with logs that agree, a retry included", () => {
    const retried = {
      ...good,
      store: [job("a", "CONFIRMED", 2), job("b")],
      engine: [...run("a", "aborted"), ...good.engine],
    };
    expect(reconcile(good)).toMatchObject({ asked: 2, answered: 2, lost: [], doubled: [], problems: [] });
    expect(reconcile(retried)).toMatchObject({ lost: [], doubled: [], problems: [], retried: ["a"] });
  });

  const cases: readonly [string, Partial<Logs>, "lost" | "doubled" | "problems"][] = [
    ["a client that got no answer", { client: [client("a"), client("b", false)] }, "lost"],
    ["one id answered twice", { client: [client("a"), client("b"), client("b")] }, "doubled"],
    ["a job that two engines completed", { engine: [...good.engine, ...run("a")] }, "doubled"],
    ["more runs than attempts", { engine: [...good.engine, ...run("a", "aborted")] }, "doubled"],
    ["an answer that no engine gave", { engine: run("a") }, "problems"],
    ["an answer that the store did not commit", { store: [job("a"), job("b", "INTERRUPTED")] }, "problems"],
    ["a job that the store does not have", { store: [job("a")] }, "problems"],
    ["a job that no client asked for", { store: [job("a"), job("b"), job("c")] }, "problems"],
    ["work for an unknown id", { engine: [...good.engine, ...run("x")] }, "problems"],
  ];
  it.each(cases)("sees %s", (_name, change, where) => {
    expect(reconcile({ ...good, ...change })[where]).not.toEqual([]);
  });
});
