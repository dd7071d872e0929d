import { startControlPlane } from "../../control-plane.ts";
import { suiteReferences } from "../process/under-test.ts";
import type { KubeletKind } from "../under-test.ts";
import { fixtureProgram } from "./fixture-program.ts";
import { startMemoryFleet } from "./fleet.ts";

const hostName = "memory-1";
const gpus = 2;

/** The memory kubelet as the suite takes it. */
export const memoryKubelet: KubeletKind = {
  name: "memory",
  missing: () =>
    process.platform === "linux" ? undefined : "pods need addresses in 127/8, as Linux has them",
  async start() {
    const bed = await startControlPlane({ components: [], log: (line) => console.error(line) });
    const programs = new Map([
      [suiteReferences["fixture-v1"], fixtureProgram("v1")],
      [suiteReferences["fixture-v2"], fixtureProgram("v2")],
    ]);
    try {
      const fleet = await startMemoryFleet({
        kubeconfig: bed.adminKubeconfig,
        hosts: [hostName],
        gpus: { count: gpus, product: "NVIDIA-H100-80GB-HBM3" },
        events: "all",
        images(reference) {
          const program = programs.get(reference);
          return program && { program };
        },
      });
      return {
        name: "memory",
        hostName,
        gpus,
        kubeconfig: bed.adminKubeconfig,
        image: (kind) => suiteReferences[kind],
        async reboot() {
          await fleet.host(hostName).crash();
          await fleet.host(hostName).boot();
        },
        async stop() {
          await fleet.stop();
          await bed.stop();
        },
      };
    } catch (thrown) {
      await bed.stop();
      throw thrown;
    }
  },
};
