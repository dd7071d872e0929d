/**
 * The acceptance of the rollout engine: two hundred nodes move under load while agents are killed, a host is lost, an image does
 * not come and the target changes. `npm run rollout -- --nodes 1000` is the same with more.
 */
import { beforeAll, expect, it } from "vitest";
import { buildBundles } from "../loop/build.ts";
import { rolloutUnderFaults } from "../loop/rollout/story.ts";

beforeAll(buildBundles, 180_000);

it("200 nodes roll under load, with two agents killed, a host lost, an image that does not come and a change of target: no job lost, never under the budget, nothing restarted that did not have to be, and an end", async () => {
  const report = await rolloutUnderFaults();
  const { jobs, capacity, starts } = report;
  // Every job was answered once; of streams that had begun on what was killed, the client was told.
  expect(jobs.problems).toEqual([]);
  expect(jobs.answered).toBeGreaterThan(300);
  expect(jobs.answered + jobs.interrupted.length).toBe(jobs.asked);

  expect(capacity.problems).toEqual([]);
  expect(capacity.mostByOperator).toBeLessThanOrEqual(report.maxUnavailable);
  // The window was used, and faults were there to be counted.
  expect(capacity.mostByOperator).toBeGreaterThan(report.maxUnavailable / 2);
  expect(capacity.mostByFault).toBeGreaterThanOrEqual(8);

  expect(report.wentForNothing).toEqual([]);
  expect(starts.problems).toEqual([]);
  expect(report.pods).toEqual([]);
  expect(starts.straight + starts.twice).toBe(report.nodes);
  expect(starts.straight).toBeGreaterThan(report.nodes / 4);
  expect(starts.twice).toBeGreaterThan(report.nodes / 4);

  expect(report.writesAfter).toEqual([]);
}, 900_000);
