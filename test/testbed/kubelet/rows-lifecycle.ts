import { expect, test } from "vitest";
import { agentProbe, conditionOf } from "./fixture-pod.ts";
import { podInfo } from "./rows-images.ts";
import type { Suite } from "./suite.ts";

/** Rows about start, stop, hooks and status. */
export function lifecycleRows(suite: () => Suite): void {
  test("pod deleted: the runtime's preStop drain first, then the runtime, then the sidecar gets SIGTERM", async () => {
    await using pod = await suite().pod({ name: "deleted", drainMs: 2_000 });
    await pod.ready();
    await pod.delete();
    await pod.gone();
    expect(pod.story()).toEqual([
      "agent start v1",
      "runtime start v1",
      "agent drain-begin",
      "agent drain-end",
      "runtime term",
      "runtime exit",
      "agent term",
      "agent exit",
    ]);
  });

  test("pod preempted: drained as on any deletion, and what the scheduler says of it stays until it is gone", async () => {
    await using pod = await suite().pod({ name: "preempted", drainMs: 2_000 });
    await pod.ready();
    await pod.preempt();
    await pod.toldOf("agent drain-begin");
    const ending = await pod.read();
    expect(ending?.metadata.deletionTimestamp).toBeDefined();
    expect(conditionOf(ending, "DisruptionTarget")).toBe("True");
    await pod.gone();
    expect(pod.story().slice(2)).toEqual([
      "agent drain-begin",
      "agent drain-end",
      "runtime term",
      "runtime exit",
      "agent term",
      "agent exit",
    ]);
  });

  test("while a preStop hook runs no new annotation or ConfigMap reaches the pod", async () => {
    await suite().config("configmaps", "during-prestop", { text: "before" });
    await using pod = await suite().pod({
      name: "during-prestop",
      drainMs: 8_000,
      agentArgs: ["--watch=/podinfo/note,/config/text"],
      agent: {
        volumeMounts: [
          { name: "podinfo", mountPath: "/podinfo" },
          { name: "config", mountPath: "/config" },
        ],
      },
      volumes: [podInfo, { name: "config", configMap: { name: "during-prestop" } }],
      annotations: { note: "before" },
    });
    await pod.ready();
    await pod.patchImages({ runtime: suite().kubelet.image("fixture-v2") });
    await pod.toldOf("agent drain-begin");
    // The sync that runs the hook also has the volumes written anew, within 200 ms or so: let that pass.
    const begun = pod.seen("agent", "drain-begin")[0]?.t ?? 0;
    await pod.until("the volumes' turn to pass", () => Date.now() - begun > 3_000);
    await suite().reconfigure("configmaps", "during-prestop", { text: "after" });
    await pod.annotate({ note: "after" });
    await pod.until("both files", () =>
      ["/podinfo/note", "/config/text"].every((path) => pod.contentsOf(path).includes("after")),
    );
    const events = pod.events();
    const end = events.findIndex(({ event }) => event === "drain-end");
    const news = events.findIndex(({ event, content }) => event === "file" && content === "after");
    expect(end).toBeGreaterThan(0);
    expect(pod.seen("agent", "drain-end")).toHaveLength(1);
    expect(news).toBeGreaterThan(end);
  });

  test("containers start only once the sidecar's startup probe has passed", async () => {
    await using pod = await suite().pod({
      name: "startup",
      agentArgs: ["--off=startup", "--watch=/podinfo/note"],
      agent: { volumeMounts: [{ name: "podinfo", mountPath: "/podinfo" }] },
      volumes: [podInfo],
      annotations: { note: "before" },
    });
    await pod.until("the sidecar's address", async () => (await pod.read())?.status?.podIP);
    await pod.annotate({ note: "after" });
    await pod.until("the annotation", () => pod.contentsOf("/podinfo/note").includes("after"));
    expect(pod.story()).toEqual(["agent start v1"]);
    const before = await pod.read();
    expect(before?.status?.phase).toBe("Pending");
    expect(conditionOf(before, "Initialized")).toBe("False");
    expect(await pod.container("runtime")).toMatchObject({
      state: { waiting: { reason: "PodInitializing" } },
    });
    expect(await pod.container("agent")).toMatchObject({ started: false });

    await pod.turn("startup", "on");
    await pod.ready();
    expect(pod.story()).toEqual(["agent start v1", "runtime start v1"]);
    expect(await pod.container("agent")).toMatchObject({ started: true });
  });

  test("a sidecar whose startup probe fails too often is restarted, and the runtime does not start", async () => {
    await using pod = await suite().pod({
      name: "startup-fails",
      agentArgs: ["--off=startup"],
      agent: { startupProbe: agentProbe("/startup", 2) },
    });
    await pod.toldOf("agent start v1", 2);
    expect(pod.story()).toEqual(["agent start v1", "agent term", "agent exit", "agent start v1"]);
  });

  test("preStop longer than the grace period is cut off, and a container deaf to SIGTERM is killed", async () => {
    await using pod = await suite().pod({
      name: "grace",
      drainMs: 60_000,
      terminationGracePeriodSeconds: 3,
      runtimeArgs: ["--deaf"],
    });
    await pod.ready();
    await pod.patchImages({ runtime: suite().kubelet.image("fixture-v2") });
    await pod.toldOf("runtime start v2");
    expect(pod.story()).toEqual([
      "agent start v1",
      "runtime start v1",
      "agent drain-begin",
      "runtime term",
      "runtime start v2",
    ]);
    const [begin, term, start] = [
      pod.seen("agent", "drain-begin")[0]?.t ?? 0,
      pod.seen("runtime", "term")[0]?.t ?? 0,
      pod.seen("runtime", "start")[1]?.t ?? 0,
    ];
    expect(term - begin).toBeGreaterThan(2_500);
    expect(term - begin).toBeLessThan(20_000);
    // However long the hook took, a container has two seconds between SIGTERM and SIGKILL.
    expect(start - term).toBeGreaterThan(1_500);
    await pod.until("the exit code", async () => {
      const last = (await pod.container("runtime"))?.lastState?.terminated;
      return last?.exitCode === 137;
    });
  });

  test("status as the kubelet writes it: conditions, addresses, and readiness that follows the probe", async () => {
    await using pod = await suite().pod({
      name: "status",
      runtime: { readinessProbe: agentProbe("/ready") },
    });
    const ready = await pod.ready();
    expect(ready.status).toMatchObject({ phase: "Running" });
    for (const type of [
      "PodReadyToStartContainers",
      "Initialized",
      "ContainersReady",
      "Ready",
      "PodScheduled",
    ]) {
      expect(`${type} ${conditionOf(ready, type)}`).toBe(`${type} True`);
    }
    expect(ready.status?.podIPs).toEqual([{ ip: ready.status?.podIP }]);
    expect(ready.status?.hostIP).toMatch(/^\d+\./);
    expect(Date.parse(ready.status?.startTime ?? "")).toBeGreaterThan(0);
    expect(await pod.container("runtime")).toMatchObject({
      ready: true,
      started: true,
      restartCount: 0,
      state: { running: { startedAt: expect.any(String) } },
    });
    await pod.turn("ready", "off");
    const unready = await pod.until("it to be not ready", async () => {
      const seen = await pod.read();
      return conditionOf(seen, "Ready") === "False" && seen;
    });
    expect(unready.status).toMatchObject({ phase: "Running" });
    expect(conditionOf(unready, "Initialized")).toBe("True");
    expect(conditionOf(unready, "ContainersReady")).toBe("False");
    expect(unready.status?.conditions?.find(({ type }) => type === "Ready")?.reason).toBe(
      "ContainersNotReady",
    );
    await pod.turn("ready", "on");
    await pod.ready();
    expect(pod.story()).toEqual(["agent start v1", "runtime start v1"]);
  });
}
