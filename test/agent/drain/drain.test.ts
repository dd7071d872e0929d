import { beforeEach, describe, expect, it } from "vitest";
import {
  ackWaitMs,
  type DrainCause,
  type DrainEvent,
  DrainMachine,
  type JobCount,
  undoAfterMs,
} from "../../../src/agent/drain/drain.ts";

let drain: DrainMachine;
let now: number;

beforeEach(() => {
  drain = new DrainMachine();
  now = 1_000;
});

const none: JobCount = { running: 0, held: 0 };
const busy: JobCount = { running: 2, held: 2 };
const unacked: JobCount = { running: 0, held: 1 };
const step = (event: DrainEvent) => drain.step(event, now);
const request = (cause: DrainCause, jobs: JobCount, timeoutMs = 10_000) =>
  step({ type: "request", cause, timeoutMs, wall: 5, jobs });
const types = (actions: ReturnType<typeof step>) => actions.map(({ type }) => type);

describe("DrainMachine", () => {
  it("is drained at once when nothing runs", () => {
    expect(request("stop", none)).toEqual([
      { type: "timer", ms: undoAfterMs },
      { type: "drained", cause: "stop" },
    ]);
  });

  it("waits for running jobs", () => {
    expect(request("stop", busy)).toEqual([{ type: "timer", ms: 10_000 }]);
    expect(step({ type: "jobs", jobs: { running: 1, held: 2 } })).toEqual([]);
    expect(types(step({ type: "jobs", jobs: unacked }))).toContain("drained");
  });

  it("hands jobs back at the deadline", () => {
    request("stop", busy, 300);
    now += 300;
    expect(types(step({ type: "timer", jobs: busy }))).toEqual(["timer", "hand-back"]);
    expect(types(step({ type: "jobs", jobs: none }))).toContain("drained");
  });

  it("does not wait for ever for acknowledgements of what it handed back", () => {
    request("terminate", busy, 300);
    now += 300;
    step({ type: "timer", jobs: busy });
    step({ type: "jobs", jobs: unacked });
    expect(drain.state.at).toBe("draining");
    now += ackWaitMs;
    expect(types(step({ type: "timer", jobs: unacked }))).toContain("drained");
  });

  it("waits for acknowledgements only when the agent itself leaves", () => {
    request("stop", unacked);
    expect(drain.state.at).toBe("drained");
    request("terminate", unacked);
    expect(drain.state.at).toBe("draining");
    step({ type: "jobs", jobs: none });
    expect(drain.state).toMatchObject({ at: "drained", cause: "terminate" });
  });

  it("is undone when no stop follows", () => {
    request("stop", none);
    now += undoAfterMs;
    expect(step({ type: "timer", jobs: none })).toMatchObject([
      { type: "clear-timer" },
      { type: "serving", reverted: true },
    ]);
    expect(drain.state.at).toBe("serving");
  });

  it("stays drained once the runtime stops, and serves again when it is back", () => {
    request("stop", none);
    expect(step({ type: "runtime-stopping" })).toEqual([{ type: "clear-timer" }]);
    expect(step({ type: "timer", jobs: none })).toEqual([]);
    expect(step({ type: "runtime-back" })).toMatchObject([
      { type: "clear-timer" },
      { type: "serving", reverted: false },
    ]);
  });

  it("is never undone when the agent leaves", () => {
    request("terminate", none);
    expect(step({ type: "runtime-back" })).toEqual([]);
    expect(step({ type: "timer", jobs: none })).toEqual([]);
    expect(drain.state.at).toBe("drained");
  });

  it("ends after the engine was restarted, when that is why it drained", () => {
    request("restart", none);
    expect(drain.state.at).toBe("drained");
    expect(types(step({ type: "restarted" }))).toContain("serving");
  });

  it("asked again it changes nothing, but an eviction shortens a planned drain", () => {
    request("stop", busy, 10_000);
    expect(request("stop", busy, 20_000)).toEqual([]);
    expect(request("stop", busy, 500)).toEqual([{ type: "timer", ms: 500 }]);
    expect(drain.state).toMatchObject({ since: 5, deadline: 1_500 });
  });

  it("a weightier cause takes over, a lighter one does not", () => {
    request("restart", busy, 400);
    request("stop", busy, 10_000);
    expect(drain.state).toMatchObject({ cause: "stop", deadline: 1_400 });
    request("restart", busy, 400);
    expect(drain.state).toMatchObject({ cause: "stop" });
    now += 150;
    expect(request("terminate", busy, 10_000)).toEqual([{ type: "timer", ms: 250 }]);
  });
});
