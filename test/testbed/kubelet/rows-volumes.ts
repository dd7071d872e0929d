import { expect, test } from "vitest";
import { podInfo } from "./rows-images.ts";
import type { Suite } from "./suite.ts";

/** Rows about what a pod reads from its volumes. */
export function volumeRows(suite: () => Suite): void {
  test("ConfigMap and Secret patched, then the pod's annotation: all files are new in the container at once", async () => {
    await suite().config("configmaps", "news", { text: "before" });
    await suite().config("secrets", "news", { key: "before" });
    await using pod = await suite().pod({
      name: "news",
      agentArgs: ["--watch=/config/text,/secret/key,/podinfo/note"],
      agent: {
        volumeMounts: [
          { name: "config", mountPath: "/config" },
          { name: "secret", mountPath: "/secret" },
          { name: "podinfo", mountPath: "/podinfo" },
        ],
      },
      volumes: [
        { name: "config", configMap: { name: "news" } },
        { name: "secret", secret: { secretName: "news" } },
        podInfo,
      ],
      annotations: { note: "before" },
    });
    await pod.ready();
    const paths = ["/config/text", "/secret/key", "/podinfo/note"];
    await pod.until("the first contents", () => paths.every((path) => pod.contentsOf(path).length === 1));
    await suite().reconfigure("configmaps", "news", { text: "after" });
    await suite().reconfigure("secrets", "news", { key: "after" });
    await pod.annotate({ note: "after" });
    // Without the annotation it may take a minute. Seen: 170 ms.
    await pod.until(
      "the new contents",
      () => paths.every((path) => pod.contentsOf(path).length === 2),
      25_000,
    );
    for (const path of paths) expect(pod.contentsOf(path)).toEqual(["before", "after"]);
  });

  test("an optional ConfigMap that is not there: the pod runs, and reads it once it is there and the pod is annotated", async () => {
    await using pod = await suite().pod({
      name: "optional",
      agentArgs: ["--watch=/config/text"],
      agent: { volumeMounts: [{ name: "config", mountPath: "/config" }] },
      volumes: [{ name: "config", configMap: { name: "optional", optional: true } }],
      annotations: { note: "before" },
    });
    await pod.ready();
    await suite().config("configmaps", "optional", { text: "there" });
    await pod.annotate({ note: "after" });
    await pod.until("the file", () => pod.contentsOf("/config/text").includes("there"), 90_000);
  });

  test("an emptyDir is shared by the pod's containers and outlives their restarts, and goes with the pod", async () => {
    const spec = {
      name: "empty-dir",
      agentArgs: ["--write=/shared/once:first"],
      agent: { volumeMounts: [{ name: "shared", mountPath: "/shared" }] },
      runtimeArgs: ["--try=/work/once"],
      runtime: { volumeMounts: [{ name: "shared", mountPath: "/work" }] },
      volumes: [{ name: "shared", emptyDir: {} }],
    };
    await using pod = await suite().pod(spec);
    await pod.ready();
    await pod.patchImages({ runtime: suite().kubelet.image("fixture-v2") });
    await pod.toldOf("runtime start v2");
    await pod.until("the second try", () => pod.seen("runtime", "try").length === 2);
    expect(pod.seen("runtime", "try").map(({ content }) => content)).toEqual(["first", "first"]);
    await pod.delete();
    await pod.gone();

    await using next = await suite().pod({ ...spec, name: "empty-dir-again", agentArgs: ["--try=/shared"] });
    await next.until("a look into the new one", () => next.seen("agent", "try").length === 1);
    expect(next.seen("agent", "try")[0]?.content).toBe("");
  });
}
