import { expect, test } from "vitest";
import type { Suite } from "./suite.ts";

const gpu = "nvidia.com/gpu";

/** Rows about what a host refuses to run. */
export function admissionRows(suite: () => Suite): void {
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
}
