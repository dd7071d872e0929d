import { describe, expect, it } from "vitest";
import type { GpuReading } from "../../../src/agent/telemetry/gpu.ts";
import { GpuWatch, reportedGpus } from "../../../src/agent/telemetry/gpu-watch.ts";
import { silentLogger } from "../../../src/lib/logger.ts";
import { FakeClock } from "../../lib/fake-clock.ts";

const reading: GpuReading = {
  product: "NVIDIA H100 80GB HBM3",
  uuid: "GPU-0",
  memoryMib: 81_559,
  memoryUsedMib: 0,
  utilisation: 0,
  temperatureC: 41,
  powerW: null,
  xid: 0,
};

describe("GpuWatch", () => {
  it("keeps a reading while its source fails for a while, then knows nothing; and knows again", async () => {
    const clock = new FakeClock();
    let fails = false;
    const source = () => (fails ? Promise.reject(new Error("away")) : Promise.resolve([reading]));
    const watch = new GpuWatch(clock, silentLogger, source, () => {});
    expect(watch.readings).toEqual([]);
    watch.start();
    await clock.advanceAsync(20_000, 1_000);
    expect(watch.readings).toEqual([reading]);
    fails = true;
    await clock.advanceAsync(40_000, 1_000);
    expect(watch.readings).toEqual([reading]);
    await clock.advanceAsync(40_000, 1_000);
    expect(watch.readings).toEqual([]);
    fails = false;
    await clock.advanceAsync(20_000, 1_000);
    expect(watch.readings).toEqual([reading]);
    watch.stop();
    expect(clock.pending).toBe(0);
  });

  it("asks nobody where nobody tells", () => {
    const clock = new FakeClock();
    new GpuWatch(clock, silentLogger, undefined, () => {}).start();
    expect(clock.pending).toBe(0);
  });
});

describe("reportedGpus", () => {
  const unknown = { product: "H100", memory_mib: null };

  it.each([
    ["nothing read, nothing specified", [], 0, []],
    ["nothing read: as many as specified, of unknown memory", [], 2, [unknown, unknown]],
    [
      "one read, two specified",
      [reading],
      2,
      [{ product: "NVIDIA H100 80GB HBM3", memory_mib: 81_559 }, unknown],
    ],
    ["what was read is not known whole", [{ ...reading, product: null, memoryMib: null }], 1, [unknown]],
  ])("%s", (_, readings, count, expected) => {
    expect(reportedGpus(readings, { count, product: "H100" })).toEqual(expected);
  });
});

describe("an XID", () => {
  const report = (watch: GpuWatch) => reportedGpus(watch.readings, { count: 1, product: null }, watch.xids);

  it("is told with its time when it is new, without when it was there before the agent", async () => {
    const clock = new FakeClock();
    let xid: number | null = 31;
    const source = () => Promise.resolve([{ ...reading, xid }]);
    const watch = new GpuWatch(clock, silentLogger, source, () => {});
    watch.start();
    await clock.advanceAsync(1_000, 1_000);
    expect(report(watch)[0]?.xid).toEqual({ code: 31, since: null });
    xid = 79;
    await clock.advanceAsync(20_000, 1_000);
    const [told] = report(watch);
    expect(told?.xid?.code).toBe(79);
    const since = told?.xid?.since;
    expect(since).toBeGreaterThan(0);
    await clock.advanceAsync(40_000, 1_000);
    expect(report(watch)[0]?.xid).toEqual({ code: 79, since });
    xid = 0;
    await clock.advanceAsync(20_000, 1_000);
    expect(report(watch)[0]).not.toHaveProperty("xid");
    // The same one again is news: the GPU was well in between.
    xid = 79;
    await clock.advanceAsync(20_000, 1_000);
    expect(report(watch)[0]?.xid?.since).toBeGreaterThan(since ?? 0);
    watch.stop();
  });
});
