import { join } from "node:path";
import { startControlPlane } from "../../control-plane.ts";
import type { KubeletKind, SuiteImage } from "../under-test.ts";
import type { ContainerImage } from "./images.ts";
import { whyNoProcessKubelet } from "./isolation.ts";
import { startProcessKubelet } from "./kubelet.ts";

const fixture = join(import.meta.dirname, "..", "fixture.mjs");
const hostName = "process-1";
const gpus = 2;

/** References of the suite's images on kubelets that pull nothing. */
export const suiteReferences: Readonly<Record<SuiteImage, string>> = {
  "fixture-v1": `fixture.resultity.test/fixture@sha256:${"1".repeat(64)}`,
  "fixture-v2": `fixture.resultity.test/fixture@sha256:${"2".repeat(64)}`,
  unpullable: `127.0.0.1:1/resultity/nothing@sha256:${"0".repeat(64)}`,
};

function fixtureImage(reference: string): ContainerImage | undefined {
  const version = { [suiteReferences["fixture-v1"]]: "v1", [suiteReferences["fixture-v2"]]: "v2" }[reference];
  if (version === undefined) return undefined;
  return {
    command: ["/image/node", "/image/fixture.mjs", version],
    readOnlyPaths: [
      { source: process.execPath, target: "/image/node" },
      { source: fixture, target: "/image/fixture.mjs" },
    ],
  };
}

/** The process kubelet as the suite takes it. */
export const processKubelet: KubeletKind = {
  name: "process",
  missing: whyNoProcessKubelet,
  async start() {
    const bed = await startControlPlane({ components: [], log: (line) => console.error(line) });
    try {
      const dir = bed.processes.folder("host");
      const kubeconfig = bed.kubeconfigForUser(`system:node:${hostName}`, ["system:nodes"]);
      const start = () =>
        startProcessKubelet({
          kubeconfig,
          hostName,
          dir,
          images: fixtureImage,
          gpus: { count: gpus, product: "NVIDIA-H100-80GB-HBM3" },
        });
      let kubelet = await start();
      return {
        name: "process",
        hostName,
        gpus,
        kubeconfig: bed.adminKubeconfig,
        image: (kind) => suiteReferences[kind],
        async reboot() {
          await kubelet.crash();
          kubelet = await start();
        },
        async stop() {
          await kubelet.stop();
          await bed.stop();
        },
      };
    } catch (thrown) {
      await bed.stop();
      throw thrown;
    }
  },
};
