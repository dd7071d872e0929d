import { expect, test } from "vitest";
import { until } from "../until.ts";
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
}
