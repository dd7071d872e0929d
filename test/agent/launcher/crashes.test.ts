import { describe, expect, it } from "vitest";
import { EngineCrashes } from "../../../src/agent/launcher/crashes.ts";
import type { LauncherState } from "../../../src/agent/launcher/launch-dir.ts";

const state = (
  starts: number,
  crashes: number,
  phase: LauncherState["phase"] = "backoff",
): LauncherState => ({
  starts,
  generation: 1,
  pid: 7,
  crashes,
  exitCode: 1,
  phase,
});

/** Crashes one by one in container `starts`; returns at which of them the container is given up. */
function crash(crashes: EngineCrashes, starts: number, times: number): number[] {
  const left: number[] = [];
  crashes.see(state(starts, 0, "waiting"));
  for (let at = 1; at <= times; at++) {
    crashes.see(state(starts, at));
    if (crashes.wantsContainer()) left.push(at);
  }
  return left;
}

describe("EngineCrashes", () => {
  it("gives up a container after five crashes, twice, and then leaves it to others", () => {
    const crashes = new EngineCrashes();
    expect(crash(crashes, 1, 6)).toEqual([5]);
    expect(crash(crashes, 2, 6)).toEqual([5]);
    expect(crash(crashes, 3, 20)).toEqual([]);
    expect(crashes.count).toBe(32);
  });

  it("forgives all when the engine serves", () => {
    const crashes = new EngineCrashes();
    expect(crash(crashes, 1, 4)).toEqual([]);
    crashes.served();
    expect(crashes.count).toBe(0);
    crashes.see(state(1, 5));
    expect(crashes.wantsContainer()).toBe(false);
    expect(crashes.count).toBe(1);
  });

  it("counts a container that ended with its engine as one, and what came before the agent not at all", () => {
    const crashes = new EngineCrashes();
    crashes.see(state(3, 40, "running"));
    expect(crashes.count).toBe(0);
    crashes.see(state(4, 0, "running"));
    expect(crashes.count).toBe(1);
    // One that was told to end, for a new image, is none.
    crashes.see(state(4, 0, "stopping"));
    crashes.see(state(5, 0, "waiting"));
    expect(crashes.count).toBe(1);
  });
});
