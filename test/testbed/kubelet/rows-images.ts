import { expect, test } from "vitest";
import { agentProbe } from "./fixture-pod.ts";
import type { Suite } from "./suite.ts";

/** Rows about images patched in a living pod, and images that cannot be had. */
export function imageRows(suite: () => Suite): void {
  test("runtime image patched: preStop is called on the sidecar and waited for, then SIGTERM, then the new container; the sidecar never notices", async () => {
    const v2 = suite().kubelet.image("fixture-v2");
    await using pod = await suite().pod({ name: "runtime-image", drainMs: 3_000 });
    await pod.ready();
    const patched = Date.now();
    await pod.patchImages({ runtime: v2 });
    await pod.toldOf("runtime start v2");
    expect(pod.story()).toEqual([
      "agent start v1",
      "runtime start v1",
      "agent drain-begin",
      "agent drain-end",
      "runtime term",
      "runtime exit",
      "runtime start v2",
    ]);
    const [begin, exit, start] = [
      pod.seen("agent", "drain-begin")[0]?.t ?? 0,
      pod.seen("runtime", "exit")[0]?.t ?? 0,
      pod.seen("runtime", "start")[1]?.t ?? 0,
    ];
    // Sooner than the kubelet would look by itself, and without a back-off.
    expect(begin - patched).toBeLessThan(15_000);
    expect(start - exit).toBeLessThan(9_000);

    const status = await pod.until("the new image in the status", async () => {
      const seen = await pod.container("runtime");
      return seen?.state?.running && seen.restartCount === 1 && seen;
    });
    // What tells that a pod runs a digest is `imageID`, which the kubelet writes; the spec says only what is wanted.
    expect(status.imageID).toContain(digestOf(v2));
    const agent = await pod.container("agent");
    expect(agent).toMatchObject({ restartCount: 0, ready: true });
    expect(agent?.imageID).toContain(digestOf(suite().kubelet.image("fixture-v1")));
    const after = await pod.ready();
    expect(after.metadata.uid).toBe(pod.uid);
    expect(after.status?.observedGeneration).toBe(after.metadata.generation);
  });

  test("sidecar image patched: the sidecar alone restarts, the runtime runs on", async () => {
    await using pod = await suite().pod({
      name: "agent-image",
      // A runtime that is ready only through the sidecar loses readiness meanwhile, and nothing else.
      runtime: { readinessProbe: agentProbe("/ready", 3) },
    });
    await pod.ready();
    await pod.patchImages({ agent: suite().kubelet.image("fixture-v2") });
    await pod.toldOf("agent start v2");
    await pod.until("the new sidecar in the status", async () => {
      const agent = await pod.container("agent");
      return agent?.restartCount === 1 && agent.state?.running !== undefined && agent.started;
    });
    await pod.ready();
    expect(pod.story()).toEqual([
      "agent start v1",
      "runtime start v1",
      "agent term",
      "agent exit",
      "agent start v2",
    ]);
    expect((await pod.container("runtime"))?.restartCount).toBe(0);
  });

  test("both images in one PATCH: both containers end up new, in no order", async () => {
    const v2 = suite().kubelet.image("fixture-v2");
    await using pod = await suite().pod({ name: "both-images", drainMs: 500 });
    await pod.ready();
    await pod.patchImages({ agent: v2, runtime: v2 });
    await pod.toldOf("agent start v2");
    await pod.toldOf("runtime start v2");
    await pod.until("both in the status", async () => {
      const both = [await pod.container("agent"), await pod.container("runtime")];
      return both.every((status) => status?.restartCount === 1 && status.imageID.includes(digestOf(v2)));
    });
    await pod.ready();
  });

  test("sidecar image patched while its startup has not passed: ignored, though observedGeneration moves on", async () => {
    await using pod = await suite().pod({
      name: "agent-image-early",
      agentArgs: ["--off=startup", "--watch=/podinfo/note"],
      agent: { volumeMounts: [{ name: "podinfo", mountPath: "/podinfo" }] },
      volumes: [podInfo],
      annotations: { note: "before" },
    });
    await pod.toldOf("agent start v1");
    const patched = await pod.patchImages({ agent: suite().kubelet.image("fixture-v2") });
    await pod.until("the new generation in the status", async () => {
      const observed = (await pod.read())?.status?.observedGeneration ?? 0;
      return observed >= (patched.metadata.generation ?? Number.POSITIVE_INFINITY);
    });
    // A later change gets through: the kubelet has synced the pod with its new image and left the sidecar alone.
    await pod.annotate({ note: "after" });
    await pod.until("the annotation", () => pod.contentsOf("/podinfo/note").includes("after"));
    expect(pod.story()).toEqual(["agent start v1"]);
    expect(await pod.container("agent")).toMatchObject({ restartCount: 0 });
  });

  test("sidecar that crashes, or whose image cannot be had, patched to a good image: it comes up, the runtime runs on", async () => {
    await using pod = await suite().pod({ name: "agent-image-cured", agentArgs: ["--fails-as=v2"] });
    await pod.ready();
    const waiting = (reason: RegExp) => async () =>
      reason.test((await pod.container("agent"))?.state?.waiting?.reason ?? "");
    await pod.patchImages({ agent: suite().kubelet.image("fixture-v2") });
    await pod.toldOf("agent start v2", 2);
    await pod.until("CrashLoopBackOff", waiting(/^CrashLoopBackOff$/));
    await pod.patchImages({ agent: suite().kubelet.image("fixture-v1") });
    await pod.toldOf("agent start v1", 2);
    // Before its startup has passed, the next image would be ignored.
    await pod.until("the startup of the good one", async () => {
      const agent = await pod.container("agent");
      return agent?.state?.running !== undefined && agent.started;
    });
    await pod.patchImages({ agent: suite().kubelet.image("unpullable") });
    // The kubelet takes an init container that ended well for done: of a sidecar too it says `terminated` for as long as
    // the image does not come, and not why it does not run again.
    await pod.until("the end of the good one", async () => {
      const { state } = (await pod.container("agent")) ?? {};
      return state?.terminated?.exitCode === 0 && state.terminated.reason === "Completed";
    });
    await pod.patchImages({ agent: suite().kubelet.image("fixture-v1") });
    await pod.toldOf("agent start v1", 3);
    await pod.ready();
    expect(pod.seen("runtime", "start")).toHaveLength(1);
    expect((await pod.container("runtime"))?.restartCount).toBe(0);
  });

  test("an image that cannot be pulled: ErrImagePull, then ImagePullBackOff, with the reference in the message", async () => {
    const image = suite().kubelet.image("unpullable");
    await using pod = await suite().pod({ name: "unpullable", runtime: { image } });
    const waitingFor = async (reasons: RegExp) => {
      const waiting = (await pod.container("runtime"))?.state?.waiting;
      return waiting?.reason?.match(reasons) && waiting;
    };
    const first = await pod.until("an error", () => waitingFor(/^(ErrImagePull|ImagePullBackOff)$/));
    expect(first.message).toContain(image);
    // The status may say ErrImagePull until something makes the kubelet look at the pod again.
    await pod.annotate({ look: "again" });
    const later = await pod.until("ImagePullBackOff", () => waitingFor(/^ImagePullBackOff$/));
    expect(later.message).toContain(image);
    expect((await pod.read())?.status?.phase).toBe("Pending");
    expect(pod.story()).toEqual(["agent start v1"]);
    // A reference that can be had ends the wait.
    await pod.patchImages({ runtime: suite().kubelet.image("fixture-v1") });
    await pod.ready();
  });

  test("runtime image patched to one that cannot be pulled: the old container is stopped first, and nothing runs", async () => {
    const image = suite().kubelet.image("unpullable");
    await using pod = await suite().pod({ name: "runtime-unpullable" });
    await pod.ready();
    await pod.patchImages({ runtime: image });
    const waiting = await pod.until("ErrImagePull or ImagePullBackOff", async () => {
      const state = (await pod.container("runtime"))?.state?.waiting;
      return state?.reason?.match(/^(ErrImagePull|ImagePullBackOff)$/) && state;
    });
    expect(waiting.message).toContain(image);
    expect(pod.story().slice(2)).toEqual([
      "agent drain-begin",
      "agent drain-end",
      "runtime term",
      "runtime exit",
    ]);
  });
}

/** The annotation `note` as the file `note`. */
export const podInfo = {
  name: "podinfo",
  downwardAPI: { items: [{ path: "note", fieldRef: { fieldPath: "metadata.annotations['note']" } }] },
};

function digestOf(reference: string): string {
  return reference.slice(reference.indexOf("@") + 1);
}
