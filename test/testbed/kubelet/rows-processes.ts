import { test } from "vitest";
import type { Suite } from "./suite.ts";

/** What a kubelet does with processes: not for one whose containers are programs in memory, which have no children. */
export function processRows(suite: () => Suite): void {
  test("what a container started ends with it", async () => {
    // The child leaves its parent's session and holds a port of the pod, which the next container needs.
    await using pod = await suite().pod({
      name: "children",
      runtimeArgs: ["--child", "--listen=POD_IP:9999"],
    });
    await pod.ready();
    await pod.until("the child to listen", () => pod.seen("runtime-child", "listening").length === 1);
    await pod.patchImages({ runtime: suite().kubelet.image("fixture-v2") });
    await pod.until("the new child to listen", () =>
      pod.seen("runtime-child", "listening").some(({ version }) => version === "v2"),
    );
  });
}
