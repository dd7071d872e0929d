import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FakeClock } from "../lib/fake-clock.ts";
import { CrashLoop, goDuration } from "./kubelet/process/crash-loop.ts";
import { imageID } from "./kubelet/process/images.ts";
import { observeProbe, initialProbeState } from "./kubelet/process/probe.ts";
import { Prober } from "./kubelet/process/prober.ts";
import { GpuSlots } from "./kubelet/process/gpus.ts";
import { quote } from "./kubelet/process/root-script.ts";
import { execFileSync } from "node:child_process";
import type { Container, Pod, Probe } from "./kubelet/process/types.ts";

describe("crash loop", () => {
  it("waits 10 s, doubling to 300 s, counted from the last end", () => {
    const loop = new CrashLoop();
    let now = 0;
    const waits: number[] = [];
    for (let crash = 0; crash < 8; crash++) {
      const ended = now;
      const wait = loop.remaining("x", ended, now);
      waits.push(wait / 1000);
      now += wait;
      loop.next("x", ended, now);
    }
    expect(waits).toEqual([0, 10, 20, 40, 80, 160, 300, 300]);
    expect(loop.wait("x")).toBe(300_000);
  });

  it("has passed when the container had been down for longer than the wait", () => {
    const loop = new CrashLoop();
    loop.next("x", 0, 0);
    expect(loop.remaining("x", 50_000, 55_000)).toBe(5_000);
    expect(loop.remaining("x", 50_000, 61_000)).toBe(0);
  });

  it("begins anew for another key, and after twice the longest wait without an end", () => {
    const loop = new CrashLoop();
    loop.next("x", 0, 0);
    loop.next("x", 1, 1);
    expect(loop.remaining("y", 2, 2)).toBe(0);
    expect(loop.remaining("x", 600_001, 600_001)).toBe(20_000);
    expect(loop.remaining("x", 600_002, 600_002)).toBe(0);
    loop.next("x", 600_002, 600_002);
    expect(loop.wait("x")).toBe(10_000);
  });

  it("prints waits as Go does", () => {
    expect([10_000, 80_000, 300_000, 250].map(goDuration)).toEqual(["10s", "1m20s", "5m0s", "250ms"]);
  });
});

describe("probe", () => {
  const probe: Probe = { failureThreshold: 3, successThreshold: 2 };
  const verdicts = (kind: "startup" | "readiness" | "liveness", answers: readonly boolean[]) => {
    let state = initialProbeState(kind);
    return answers.map((passed) => (state = observeProbe(state, probe, passed)).verdict);
  };

  it("changes its verdict only after as many equal answers in a row as the thresholds say", () => {
    expect(verdicts("readiness", [true, true, false, false, true, false, false, false])).toEqual([
      "failure",
      "success",
      "success",
      "success",
      "success",
      "success",
      "success",
      "failure",
    ]);
  });

  it("starts out as: not started, not ready, alive", () => {
    expect(
      (["startup", "readiness", "liveness"] as const).map((kind) => initialProbeState(kind).verdict),
    ).toEqual(["unknown", "failure", "success"]);
  });
});

describe("prober", () => {
  const container = (probes: Partial<Container>): Container => ({ name: "c", image: "i", ...probes });

  /** The fake clock lets promises run between steps of 10 ms, so times are taken in tenths of a second. */
  const tick = (clock: FakeClock) => Math.floor(clock.monotonic() / 100) * 100;

  /** A prober whose probes answer what `answers` says at the time; times and verdicts are noted. */
  function probing(probes: Partial<Container>, answers: { value: boolean }, hang = false) {
    const clock = new FakeClock();
    const times: number[] = [];
    const verdicts: string[] = [];
    const failures: string[] = [];
    const prober = new Prober(container(probes), {
      clock,
      run: (_probe, signal) => {
        times.push(tick(clock));
        if (!hang) return Promise.resolve({ passed: answers.value, message: "no" });
        return new Promise((resolve) =>
          signal.addEventListener("abort", () => resolve({ passed: false, message: "late" })),
        );
      },
      onVerdict: (kind) => verdicts.push(`${tick(clock)} ${kind}`),
      onFailure: (kind, message) => failures.push(`${kind} ${message}`),
    });
    return { clock, times, verdicts, failures, prober };
  }

  it("asks for startup at once and every period, and for readiness only when startup has passed", async () => {
    const answers = { value: false };
    const { clock, times, verdicts, prober } = probing(
      { startupProbe: { periodSeconds: 2, failureThreshold: 100 }, readinessProbe: { periodSeconds: 5 } },
      answers,
    );
    await clock.advanceAsync(5_000);
    expect(times).toEqual([0, 2_000, 4_000]);
    expect(prober.started).toBe(false);
    answers.value = true;
    await clock.advanceAsync(2_000);
    expect(verdicts).toEqual(["6000 startup", "6000 readiness"]);
    expect(prober.ready).toBe(true);
    await clock.advanceAsync(5_000);
    expect(times).toEqual([0, 2_000, 4_000, 6_000, 6_000, 11_000]);
  });

  it("gives a program the initial delay, and the first period before liveness", async () => {
    const { clock, times } = probing(
      { livenessProbe: { periodSeconds: 3 }, readinessProbe: { initialDelaySeconds: 4, periodSeconds: 10 } },
      { value: true },
    );
    await clock.advanceAsync(4_000);
    expect(times).toEqual([3_000, 4_000]);
  });

  it("ends an attempt at its timeout, and stops for good when liveness has failed", async () => {
    const { clock, times, failures, prober } = probing(
      { livenessProbe: { periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 2 } },
      { value: true },
      true,
    );
    await clock.advanceAsync(20_000);
    expect(times).toEqual([1_000, 3_000]);
    expect(failures).toEqual(["liveness late", "liveness late"]);
    expect(prober.livenessFailed).toBe(true);
    expect(clock.pending).toBe(0);
  });

  it("leaves no timer behind when it is stopped", async () => {
    const { clock, prober } = probing({ readinessProbe: {}, livenessProbe: {} }, { value: true });
    await clock.advanceAsync(100);
    prober.stopAll();
    await clock.advanceAsync(100);
    expect(clock.pending).toBe(0);
  });
});

describe("GPUs", () => {
  const pod = (uid: string, ...counts: number[]): Pod => ({
    metadata: { name: uid, namespace: "n", uid },
    spec: {
      containers: counts.map((count, index) => ({
        name: `c${index}`,
        image: "i",
        resources: { limits: { "nvidia.com/gpu": String(count) } },
      })),
    },
  });

  it("are never given twice, all or none, and come back with the pod", () => {
    const slots = new GpuSlots(4);
    expect(slots.allocate(pod("a", 1, 2))).toEqual(
      new Map([
        ["c0", [0]],
        ["c1", [1, 2]],
      ]),
    );
    expect(slots.allocate(pod("b", 2))).toEqual({ wanted: 2, free: 1 });
    expect(slots.allocate(pod("c", 1))).toEqual(new Map([["c0", [3]]]));
    slots.release("a");
    expect(slots.allocate(pod("d", 3))).toEqual(new Map([["c0", [0, 1, 2]]]));
  });
});

describe("image id", () => {
  const digest = `sha256:${"a".repeat(64)}`;
  it("is repository and digest, without a tag", () => {
    expect(imageID(`registry.test:5000/a/b:v1@${digest}`)).toBe(`registry.test:5000/a/b@${digest}`);
    expect(imageID("registry.test:5000/a/b:v1")).toMatch(/^registry\.test:5000\/a\/b@sha256:[0-9a-f]{64}$/);
  });
});

describe("quote", () => {
  it("gives the shell any word back as it was", () => {
    const word = fc.string({ unit: "grapheme" }).filter((text) => !text.includes("\0"));
    fc.assert(
      fc.property(word, (text) => {
        expect(execFileSync("/bin/sh", ["-c", `printf %s ${quote(text)}`], { encoding: "utf8" })).toBe(text);
      }),
      { numRuns: 50 },
    );
  });
});
