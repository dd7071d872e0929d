import { expect, test } from "vitest";
import { agentProbe } from "./fixture-pod.ts";
import type { Suite } from "./suite.ts";

/** Waits between restarts are the kubelet's own: 10 s, doubling. */
const firstBackoffMs = 10_000;
/** Less than any of them, and enough for a busy machine to do something at once. */
const noBackoffMs = firstBackoffMs - 1_500;

/** Process 1 of a container hears SIGTERM only once it has a handler: the engine gets the time to install it. */
const livenessProbe = { ...agentProbe("/live"), initialDelaySeconds: 2 };

/** Rows about liveness and back-off. */
export function restartRows(suite: () => Suite): void {
  test("liveness restarts in quick succession: the third waits 10 s in CrashLoopBackOff, and a new image resets it", async () => {
    await using pod = await suite().pod({
      name: "liveness-backoff",
      agentArgs: ["--off=live"],
      runtime: { livenessProbe },
    });
    await pod.toldOf("runtime start v1", 4);
    const starts = pod.seen("runtime", "start").map(({ t }) => t);
    const ends = pod.seen("runtime", "exit").map(({ t }) => t);
    const waits = starts.slice(1).map((start, index) => start - (ends[index] ?? 0));
    expect(waits[0]).toBeLessThan(noBackoffMs);
    expect(waits[1]).toBeLessThan(noBackoffMs);
    expect(waits[2]).toBeGreaterThan(noBackoffMs);
    expect(waits[2]).toBeLessThan(firstBackoffMs * 2);

    // The fourth would wait 20 s.
    await pod.until("CrashLoopBackOff again", async () => {
      const status = await pod.container("runtime");
      return status?.restartCount === 3 && status.state?.waiting?.reason === "CrashLoopBackOff";
    });
    const patched = Date.now();
    await pod.patchImages({ runtime: suite().kubelet.image("fixture-v2") });
    await pod.toldOf("runtime start v2");
    expect((pod.seen("runtime", "start").at(-1)?.t ?? 0) - patched).toBeLessThan(noBackoffMs);
  });

  test("a container that crashes: the second restart waits 10 s, with the exit code in the status, and a new image resets it", async () => {
    await using pod = await suite().pod({
      name: "crash-backoff",
      runtimeArgs: ["--exit=3"],
    });
    await pod.toldOf("runtime start v1", 3);
    const starts = pod.seen("runtime", "start").map(({ t }) => t);
    const waits = starts.slice(1).map((start, index) => start - (starts[index] ?? 0));
    expect(waits[0]).toBeLessThan(noBackoffMs);
    expect(waits[1]).toBeGreaterThan(noBackoffMs);

    await pod.until("the second restart's end in the status", async () => {
      const seen = await pod.container("runtime");
      return seen?.restartCount === 2 && seen.state?.running === undefined;
    });
    // The status says `terminated` until something makes the kubelet look at the pod again, which may be the restart.
    await pod.annotate({ look: "again" });
    const status = await pod.until("CrashLoopBackOff", async () => {
      const seen = await pod.container("runtime");
      return seen?.state?.waiting?.reason === "CrashLoopBackOff" && seen;
    });
    expect(status.restartCount).toBe(2);
    expect(status.lastState?.terminated).toMatchObject({ exitCode: 3, reason: "Error" });
    expect(status.state?.waiting?.message).toMatch(/back-off .*restarting failed container=runtime/);
    const patched = Date.now();
    await pod.patchImages({ runtime: suite().kubelet.image("fixture-v2") });
    await pod.toldOf("runtime start v2");
    expect((pod.seen("runtime", "start").at(-1)?.t ?? 0) - patched).toBeLessThan(noBackoffMs);
    expect(pod.seen("agent", "start")).toHaveLength(1);
  });

  test("runtime liveness through the sidecar, sidecar image unpullable: the healthy runtime is killed again and again", async () => {
    await using pod = await suite().pod({
      name: "liveness-without-agent",
      runtime: { livenessProbe },
    });
    await pod.ready();
    await pod.patchImages({ agent: suite().kubelet.image("unpullable") });
    await pod.toldOf("runtime start v1", 3);
    await pod.until("the restarts in the status", async () => {
      return ((await pod.container("runtime"))?.restartCount ?? 0) >= 2;
    });
    expect(pod.seen("agent", "start")).toHaveLength(1);
    // There was nobody to drain through.
    expect(pod.seen("agent", "drain-begin")).toEqual([]);
  });

  test("liveness of the runtime answered 503 by the sidecar: preStop drain first, then the runtime restarts in place", async () => {
    await using pod = await suite().pod({
      name: "liveness-drain",
      drainMs: 2_000,
      runtime: { livenessProbe },
    });
    await pod.ready();
    await pod.turn("live", "off");
    await pod.toldOf("agent drain-begin");
    await pod.turn("live", "on");
    await pod.toldOf("runtime start v1", 2);
    expect(pod.story()).toEqual([
      "agent start v1",
      "runtime start v1",
      "agent drain-begin",
      "agent drain-end",
      "runtime term",
      "runtime exit",
      "runtime start v1",
    ]);
    await pod.until("the restart in the status", async () => {
      const status = await pod.container("runtime");
      return status?.restartCount === 1 && status.state?.running !== undefined;
    });
    expect((await pod.read())?.metadata.uid).toBe(pod.uid);
    expect((await pod.container("agent"))?.restartCount).toBe(0);
  });
}
