import { expect, test } from "vitest";
import { namespace } from "./fixture-pod.ts";
import type { Suite } from "./suite.ts";

const gpu = "nvidia.com/gpu";

/** Rows about the host as a whole: what it refuses to run, and what comes back after a power cut. */
export function hostRows(suite: () => Suite): void {
  test("a pod that asks for more GPUs than are left is Failed and not run; the GPUs of one that has ended are free again", async () => {
    const wants = (count: number) => ({
      runtime: { resources: { limits: { [gpu]: String(count) }, requests: { [gpu]: String(count) } } },
    });
    await using first = await suite().pod({ name: "gpu-first", ...wants(suite().kubelet.gpus) });
    await first.ready();

    await using second = await suite().pod({ name: "gpu-second", ...wants(1) });
    const refused = await second.until("it to be Failed", async () => {
      const pod = await second.read();
      return pod?.status?.phase === "Failed" && pod;
    });
    expect(refused.status?.reason).toMatch(/^(OutOfnvidia\.com\/gpu|UnexpectedAdmissionError)$/);
    expect(refused.status?.message).toContain(gpu);
    expect(second.story()).toEqual([]);

    await first.delete();
    await first.gone();
    await using third = await suite().pod({ name: "gpu-third", ...wants(suite().kubelet.gpus) });
    await third.ready();
  });

  test("a pod that was marked not ready, as those of a silent host are, is marked ready again", async () => {
    const { kube } = suite();
    await using pod = await suite().pod({ name: "marked" });
    await pod.ready();
    const path = `/api/v1/namespaces/${namespace}/pods/${(await pod.read())?.metadata.name}/status`;
    const condition = { type: "Ready", status: "False", reason: "NodeNotReady" };
    await kube.patch(path, "strategic", { status: { conditions: [condition] } });
    await pod.until("it to be ready again", async () => {
      const found = (await pod.read())?.status?.conditions?.find(({ type }) => type === "Ready");
      return found?.status === "True";
    });
  });

  test("a host that lost its power: the same pod runs again, restarted, with its emptyDir and the API server's pod object", async () => {
    const { kubelet } = suite();
    if (!kubelet.reboot) return;
    await using pod = await suite().pod({
      name: "reboot",
      agentArgs: ["--append=/shared/boots:x", "--try=/shared/boots"],
      agent: { volumeMounts: [{ name: "shared", mountPath: "/shared" }] },
      volumes: [{ name: "shared", emptyDir: {} }],
    });
    await pod.ready();
    await kubelet.reboot();
    await pod.toldOf("runtime start v1", 2);
    await pod.until("the restarts in the status", async () => {
      const [agent, runtime] = [await pod.container("agent"), await pod.container("runtime")];
      return agent?.restartCount === 1 && runtime?.restartCount === 1 && runtime.state?.running !== undefined;
    });
    expect((await pod.ready()).metadata.uid).toBe(pod.uid);
    // Nobody was asked to end, or drained.
    expect(pod.story()).toEqual(["agent start v1", "runtime start v1", "agent start v1", "runtime start v1"]);
    expect(pod.seen("agent", "try").map(({ content }) => content)).toEqual(["x", "xx"]);
  });
}
