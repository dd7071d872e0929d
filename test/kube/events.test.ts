import { describe, expect, it } from "vitest";
import type { Client } from "../../src/kube/client.ts";
import { KubeError } from "../../src/kube/errors.ts";
import { EventRecorder } from "../../src/kube/events.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { FakeClock } from "../lib/fake-clock.ts";
import { configMap } from "./objects.ts";

function make(fails = false) {
  const clock = new FakeClock();
  const metrics = new Metrics();
  const created: Record<string, unknown>[] = [];
  const patched: object[] = [];
  const client: Pick<Client, "create" | "mergePatch"> = {
    create: async (_resource, draft) => {
      if (fails) throw new KubeError("Forbidden", "no");
      created.push({ ...draft });
      return draft as never;
    },
    mergePatch: async (_resource, _ref, patch) => {
      patched.push(patch);
      return patch as never;
    },
  };
  const recorder = new EventRecorder({
    client,
    controller: "resultity.com/operator",
    instance: "pod-0",
    clock,
    metrics,
  });
  return { clock, metrics, created, patched, recorder };
}

const event = { type: "Warning", reason: "ImagePullFailed", action: "Patch", note: "cannot pull" } as const;

describe("EventRecorder", () => {
  it("writes an event about an object", async () => {
    const { recorder, created } = make();
    recorder.record(configMap("a", 1), { ...event, note: "n".repeat(3000) });
    await recorder.flushed();
    expect(created).toHaveLength(1);
    expect(created[0]).toMatchObject({
      reason: "ImagePullFailed",
      type: "Warning",
      eventTime: "2026-01-01T00:00:00.000000Z",
      regarding: { kind: "ConfigMap", name: "a", namespace: "ns", uid: "uid-a" },
      metadata: { namespace: "ns" },
    });
    expect(created[0]?.["note"]).toHaveLength(1024);
  });

  it("counts the same event on the first one, and writes the count ever more rarely", async () => {
    const { recorder, created, patched, clock } = make();
    for (let i = 0; i < 100; i++) {
      recorder.record(configMap("a", i), event);
      clock.advance(1000);
    }
    await recorder.flushed();
    expect(created).toHaveLength(1);
    expect(patched).toHaveLength(6);
    expect(patched.at(-1)).toMatchObject({ series: { count: expect.any(Number) } });
    clock.advance(360_000);
    recorder.record(configMap("a", 1), event);
    await recorder.flushed();
    expect(created).toHaveLength(2);
  });

  it("bounds the events of one object, and not those of another", async () => {
    const { recorder, created, clock, metrics } = make();
    for (let i = 0; i < 100; i++) recorder.record(configMap("a", 1), { ...event, note: `note ${i}` });
    recorder.record(configMap("b", 1), event);
    await recorder.flushed();
    expect(created).toHaveLength(26);
    expect(await metrics.text()).toContain('resultity_events_dropped_total{why="rate"} 75');
    clock.advance(300_000);
    recorder.record(configMap("a", 1), { ...event, note: "later" });
    await recorder.flushed();
    expect(created).toHaveLength(27);
  });

  it("never fails the caller", async () => {
    const { recorder, metrics } = make(true);
    recorder.record(configMap("a", 1), event);
    recorder.record(configMap("a", 1), event);
    await expect(recorder.flushed()).resolves.toBeUndefined();
    expect(await metrics.text()).toContain('resultity_events_dropped_total{why="Forbidden"} 1');
  });
});
