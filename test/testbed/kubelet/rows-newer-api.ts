import { expect, test } from "vitest";
import { until } from "../until.ts";
import type { Pod } from "../../../src/kube/resources.ts";
import { prefetchFacts } from "../../../src/operator/node/prefetch/facts.ts";
import { prefetchPod } from "../../../src/operator/node/prefetch/pod.ts";
import { networkOf } from "../../operator/node/network.ts";
import { nodeOf } from "../../operator/node/world.ts";
import { namespace, type PodObject } from "./fixture-pod.ts";
import type { Suite } from "./suite.ts";

/** Rows about parts of the pod API that the process kubelet does not have. */
export function newerApiRows(suite: () => Suite): void {
  test("env from a file in an emptyDir (fileKeyRef) is read anew at each in-place restart", async () => {
    await using pod = await suite().pod({
      name: "file-env",
      agentArgs: ["--write=/env/vars:MODE='one'\n"],
      agent: { volumeMounts: [{ name: "vars", mountPath: "/env" }] },
      runtimeArgs: ["--env=MODE", "--write=/env/vars:MODE='two'\n"],
      runtime: {
        volumeMounts: [{ name: "vars", mountPath: "/env" }],
        env: [
          { name: "WHO", value: "runtime" },
          { name: "TIMELINE", value: "/timeline/events.jsonl" },
          {
            name: "MODE",
            valueFrom: { fileKeyRef: { volumeName: "vars", path: "vars", key: "MODE", optional: false } },
          },
        ],
      },
      volumes: [{ name: "vars", emptyDir: {} }],
    });
    await pod.ready();
    await pod.patchImages({ runtime: suite().kubelet.image("fixture-v2") });
    await pod.until("the second environment", () => pod.seen("runtime", "env").length === 2);
    expect(pod.seen("runtime", "env").map(({ values }) => values?.["MODE"])).toEqual(["one", "two"]);
  });

  test("in-place resize: CPU and memory of a running container are changed by pods/resize without a restart; more than the host has is refused", async () => {
    const { kube } = suite();
    const size = (cpu: string, memory: string) => {
      const list = { cpu, memory };
      return { requests: list, limits: list };
    };
    const policy = ["cpu", "memory"].map((resourceName) => ({ resourceName, restartPolicy: "NotRequired" }));
    await using pod = await suite().pod({
      name: "resized",
      runtime: { resources: size("100m", "256Mi"), resizePolicy: policy },
    });
    await pod.ready();
    const path = `/api/v1/namespaces/${namespace}/pods/resized`;
    const resize = (cpu: string, memory: string) =>
      kube.patch<Pod>(`${path}/resize`, "strategic", {
        spec: { containers: [{ name: "runtime", resources: size(cpu, memory) }] },
      });
    const statusOf = async () =>
      (await kube.get<Pod>(path))?.status?.containerStatuses?.find(({ name }) => name === "runtime");
    const before = await statusOf();
    for (const [cpu, memory] of [
      ["200m", "320Mi"],
      ["150m", "288Mi"],
    ] as const) {
      await resize(cpu, memory);
      await pod.until(`${cpu} and ${memory}`, async () => {
        const { limits } = (await statusOf())?.resources ?? {};
        return limits?.["cpu"] === cpu && limits["memory"] === memory;
      });
      const after = await statusOf();
      expect(after?.containerID).toBe(before?.containerID);
      expect(after?.restartCount).toBe(0);
    }
    await expect(resize("4k", "288Mi")).rejects.toThrow(/enough allocatable resources: cpu/);
  });

  test("a pod that holds an image by an image volume runs without running it; one that cannot be pulled is ErrImagePull with the reference", async () => {
    const { kube, kubelet } = suite();
    const pods = `/api/v1/namespaces/${namespace}/pods`;
    const hold = (name: string, reference: string) => ({
      metadata: { name, namespace },
      spec: {
        nodeName: kubelet.hostName,
        automountServiceAccountToken: false,
        terminationGracePeriodSeconds: 0,
        containers: [
          {
            name: "hold",
            image: kubelet.image("fixture-v1"),
            args: ["engine"],
            volumeMounts: [{ name: "held", mountPath: "/held" }],
          },
        ],
        volumes: [{ name: "held", image: { reference, pullPolicy: "IfNotPresent" } }],
      },
    });
    const unpullable = kubelet.image("unpullable");
    await kube.create(pods, hold("holds", kubelet.image("fixture-v2")));
    await kube.create(pods, hold("cannot-hold", unpullable));
    const look = (name: string) => kube.get<PodObject>(`${pods}/${name}`);
    await until("the pod to run", async () => (await look("holds"))?.status?.phase === "Running");
    const waiting = await until("the other one's image error", async () => {
      const state = (await look("cannot-hold"))?.status?.containerStatuses?.[0]?.state?.waiting;
      return state?.reason?.match(/^(ErrImagePull|ImagePullBackOff)$/) && state;
    });
    expect(waiting.message).toContain(unpullable);
    for (const name of ["holds", "cannot-hold"]) await kube.delete(`${pods}/${name}`, 0);
  });

  test("the operator's pod that brings an image: by volume and by command, the image is there, or the kubelet's words are", async () => {
    const { kube, kubelet } = suite();
    const pods = `/api/v1/namespaces/${namespace}/pods`;
    const [base, image, unpullable] = [
      kubelet.image("fixture-v1"),
      kubelet.image("fixture-v2"),
      kubelet.image("unpullable"),
    ];
    const wishes = [
      { image, base, becomes: "present" },
      { image: unpullable, base, becomes: "failed" },
      { image, base: undefined, becomes: "present" },
      { image: unpullable, base: undefined, becomes: "failed" },
    ] as const;
    for (const [at, { becomes, ...wish }] of wishes.entries()) {
      const who = { node: nodeOf(), network: networkOf(), host: kubelet.hostName, role: "runtime" } as const;
      const { metadata, spec } = prefetchPod({ ...who, ...wish });
      const name = `prefetch-${at}`;
      const { labels, annotations } = metadata;
      await kube.create(pods, { metadata: { name, namespace, labels, annotations }, spec });
      await until(`${wish.image} by ${wish.base === undefined ? "command" : "volume"}`, async () => {
        const live = await kube.get<Pod>(`${pods}/${name}`);
        const facts = live && prefetchFacts(live);
        if (facts?.state === "failed") expect(facts.message).toContain(wish.image);
        return facts?.state === becomes;
      });
      await kube.delete(`${pods}/${name}`, 0);
    }
  });
}
