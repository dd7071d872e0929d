import { describe, expect, it } from "vitest";
import { type ContainerView, planPod } from "./kubelet/process/pod-plan.ts";
import { type ContainerReport, podStatus, type StatusInput } from "./kubelet/process/status.ts";
import type { Container, Pod, RestartPolicy } from "./kubelet/process/types.ts";

type Running = NonNullable<ContainerView["running"]>;

const fresh: Running = { image: "v1", started: true, startupFailed: false, livenessFailed: false };

/** A container that was never started, unless told otherwise. */
function view(name: string, more: Partial<ContainerView> & { sidecar?: boolean } = {}): ContainerView {
  const { sidecar = false, ...rest } = more;
  const container: Container = { name, image: "v1", ...(sidecar ? { restartPolicy: "Always" } : {}) };
  return { container, created: rest.running !== undefined || rest.exitCode !== undefined, ...rest };
}

const plan = (init: ContainerView[], regular: ContainerView[], restartPolicy: RestartPolicy = "Always") =>
  planPod({ restartPolicy, containers: regular.map(({ container }) => container) }, init, regular);

describe("what is done about a pod's containers", () => {
  it("starts the sidecar alone, then waits until it has started", () => {
    const runtime = view("runtime");
    expect(plan([view("agent", { sidecar: true })], [runtime])).toMatchObject({ start: ["agent"], kill: [] });
    const starting = view("agent", { sidecar: true, running: { ...fresh, started: false } });
    expect(plan([starting], [runtime])).toMatchObject({ start: [], kill: [] });
    expect(plan([view("agent", { sidecar: true, running: fresh })], [runtime])).toMatchObject({
      start: ["runtime"],
    });
  });

  it("runs init containers one after the other and keeps an earlier sidecar alive meanwhile", () => {
    const regular = [view("main")];
    const agent = view("agent", { sidecar: true, running: fresh });
    const crashed = view("agent", { sidecar: true, exitCode: 1 });
    expect(plan([agent, view("two")], regular).start).toEqual(["two"]);
    expect(plan([crashed, view("two", { running: fresh })], regular).start).toEqual(["agent"]);
    expect(plan([agent, view("two", { exitCode: 1 })], regular).start).toEqual(["two"]);
    expect(plan([agent, view("two", { exitCode: 0 })], regular).start).toEqual(["main"]);
    expect(plan([agent, view("two", { exitCode: 1 })], regular, "Never").finished).toBe(true);
  });

  it("restarts a sidecar without touching the runtime once the pod got past its init containers", () => {
    const runtime = view("runtime", { running: fresh });
    expect(plan([view("agent", { sidecar: true, exitCode: 1 })], [runtime])).toEqual({
      kill: [],
      start: ["agent"],
      finished: false,
    });
  });

  it("ends and starts again what has another image, each for itself", () => {
    const old = { ...fresh, image: "v0" };
    const agent = view("agent", { sidecar: true, running: old });
    const runtime = view("runtime", { running: old });
    const changed = (name: string) => ({ name, reason: "changed" });
    expect(plan([agent], [view("runtime", { running: fresh })])).toMatchObject({
      kill: [changed("agent")],
      start: ["agent"],
    });
    expect(plan([agent], [runtime]).kill).toEqual([changed("runtime"), changed("agent")]);
  });

  it("leaves a sidecar whose startup has not passed alone, whatever its image", () => {
    const agent = view("agent", { sidecar: true, running: { ...fresh, image: "v0", started: false } });
    expect(plan([agent], [view("runtime", { running: fresh })]).kill).toEqual([]);
    const failed = view("agent", {
      sidecar: true,
      running: { ...fresh, started: false, startupFailed: true },
    });
    expect(plan([failed], [view("runtime")])).toMatchObject({
      kill: [{ name: "agent", reason: "startup" }],
      start: ["agent"],
    });
  });

  it("takes the restart policy at its word", () => {
    const outcomes = (["Always", "OnFailure", "Never"] as const).map((policy) =>
      [0, 1].map((exitCode) => plan([], [view("job", { exitCode })], policy).finished),
    );
    expect(outcomes).toEqual([
      [false, false],
      [true, false],
      [true, true],
    ]);
    const ill = view("job", { running: { ...fresh, livenessFailed: true } });
    expect(plan([], [ill], "Never")).toMatchObject({
      kill: [{ name: "job", reason: "liveness" }],
      start: [],
    });
  });

  it("starts everything from the front after a reboot, though all had run before", () => {
    const agent = view("agent", { sidecar: true, exitCode: 255, created: false });
    const runtime = view("runtime", { exitCode: 255, created: false });
    expect(plan([agent], [runtime])).toMatchObject({ start: ["agent"], finished: false });
  });
});

describe("status", () => {
  const containers: Container[] = [{ name: "runtime", image: "v1" }];
  const initContainers: Container[] = [{ name: "agent", image: "v1", restartPolicy: "Always" }];
  const pod: Pod = {
    metadata: { name: "p", namespace: "n", uid: "u", generation: 3 },
    spec: { initContainers, containers },
  };
  const report = (
    container: Container | undefined,
    more: Partial<ContainerReport> = {},
  ): ContainerReport => ({
    container: container ?? { name: "", image: "" },
    created: more.running !== undefined,
    ready: more.running !== undefined,
    restartCount: 0,
    ...(more.running ? { startedAt: 0 } : {}),
    ...more,
  });
  const status = (
    agent: Partial<ContainerReport>,
    runtime: Partial<ContainerReport>,
    more: Partial<StatusInput> = {},
  ) =>
    podStatus({
      pod,
      init: [report(initContainers[0], agent)],
      regular: [report(containers[0], runtime)],
      podIP: "127.1.2.3",
      hostIP: "127.1.0.1",
      startTime: 0,
      now: 60_000,
      failure: undefined,
      over: false,
      previous: undefined,
      ...more,
    });
  const conditions = (of: ReturnType<typeof status>) =>
    Object.fromEntries((of.conditions ?? []).map(({ type, status: value }) => [type, value]));

  it("is Pending until every container has started, with Initialized following the sidecar's startup", () => {
    const starting = status({ running: { ...fresh, started: false }, ready: false }, {});
    expect(starting.phase).toBe("Pending");
    expect(conditions(starting)).toMatchObject({
      Initialized: "False",
      Ready: "False",
      PodScheduled: "True",
    });
    expect(starting.containerStatuses?.[0]?.state?.waiting?.reason).toBe("PodInitializing");
    const running = status({ running: fresh }, { running: fresh });
    expect(running).toMatchObject({ phase: "Running", observedGeneration: 3 });
    expect(conditions(running)).toMatchObject({
      Initialized: "True",
      ContainersReady: "True",
      Ready: "True",
    });
  });

  it("stays Running and Initialized while the sidecar restarts, but is not Ready", () => {
    const restarting = status(
      { created: true, terminated: { exitCode: 1 }, exitCode: 1, ready: false },
      { running: fresh },
    );
    expect(restarting.phase).toBe("Running");
    expect(conditions(restarting)).toMatchObject({ Initialized: "True", Ready: "False" });
    expect(restarting.conditions?.find(({ type }) => type === "Ready")).toMatchObject({
      reason: "ContainersNotReady",
      message: "containers with unready status: [agent]",
    });
  });

  it("shows a crash as waiting with the last end beside it, and a run after it as running", () => {
    const terminated = { exitCode: 3, reason: "Error" };
    const waiting = { reason: "CrashLoopBackOff", message: "back-off 10s" };
    const crashed = status(
      { running: fresh },
      { created: true, terminated, exitCode: 3, waiting, ready: false, restartCount: 2 },
    );
    expect(crashed.containerStatuses?.[0]).toMatchObject({
      state: { waiting },
      lastState: { terminated },
      restartCount: 2,
      ready: false,
    });
    const again = status({ running: fresh }, { running: fresh, terminated, exitCode: 3 });
    expect(again.containerStatuses?.[0]).toMatchObject({ state: { running: {} }, lastState: { terminated } });
  });

  it("keeps the time of a condition that did not change, and takes a new one for one that did", () => {
    const before = status({ running: fresh }, { running: fresh });
    const after = status(
      { running: fresh },
      { running: fresh, ready: false },
      { now: 120_000, previous: before },
    );
    const times = Object.fromEntries(
      (after.conditions ?? []).map(({ type, lastTransitionTime }) => [type, lastTransitionTime]),
    );
    expect(times["Initialized"]).toBe("1970-01-01T00:01:00Z");
    expect(times["Ready"]).toBe("1970-01-01T00:02:00Z");
    expect(status({ running: fresh }, { running: fresh }, { now: 120_000, previous: before })).toEqual(
      before,
    );
  });

  it("is Failed with the reason, and without containers, when the host refused the pod", () => {
    const failure = { reason: "UnexpectedAdmissionError", message: "no GPU" };
    const refused = status({}, {}, { failure, over: true, podIP: undefined });
    expect(refused).toMatchObject({ phase: "Failed", ...failure });
    expect(refused.containerStatuses).toBeUndefined();
  });
});
