import { describe, expect, it } from "vitest";
import { Metrics } from "../../src/lib/metrics.ts";

describe("Metrics", () => {
  it("are told in Prometheus' text format, with help and labels", async () => {
    const metrics = new Metrics();
    metrics.counter("jobs_total", "Jobs.", ["outcome"]).inc({ outcome: "ok" }, 2);
    metrics.histogram("wait_seconds", "Waits.", [0.1, 1]).observe(0.5);
    const gauge = metrics.gauge("open", "Open sessions.", ["kind"]);
    gauge.set(3, { kind: "a" });
    gauge.dec({ kind: "a" });
    gauge.inc({ kind: "b" });
    gauge.remove({ kind: "b" });
    const text = await metrics.text();
    for (const line of [
      "# HELP jobs_total Jobs.",
      'jobs_total{outcome="ok"} 2',
      'wait_seconds_bucket{le="0.1"} 0',
      'wait_seconds_bucket{le="1"} 1',
      'open{kind="a"} 2',
    ]) {
      expect(text).toContain(`${line}\n`);
    }
    expect(text).not.toContain('kind="b"');
    expect(metrics.contentType).toContain("text/plain");
  });

  it("share one metric between all who ask for its name, and nothing with another process' metrics", async () => {
    const [mine, other] = [new Metrics(), new Metrics()];
    mine.counter("c_total", "C.").inc();
    mine.counter("c_total", "C.").inc();
    other.counter("c_total", "C.");
    expect(await mine.text()).toContain("c_total 2");
    expect(await other.text()).toContain("c_total 0");
  });

  it("ask for a value at each scrape where they were told how, and tell of the process on request", async () => {
    const metrics = new Metrics();
    let size = 1;
    metrics.gauge("size", "Size.", [], () => size);
    size = 7;
    expect(await metrics.text()).toContain("size 7");
    metrics.collectProcess();
    expect(await metrics.text()).toContain("process_resident_memory_bytes");
  });

  it("refuse one name for two kinds", () => {
    const metrics = new Metrics();
    metrics.counter("x_total", "X.");
    expect(() => metrics.gauge("x_total", "X.")).toThrow(/x_total/);
  });
});
