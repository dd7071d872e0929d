import { join } from "node:path";
import { startControlPlane } from "../control-plane.ts";
import { type ImageSource, nodeInImage } from "../oci.ts";
import { startRealKubelet } from "./kubelet.ts";
import { whyNoRealKubelet } from "./parts.ts";
import type { KubeletKind, SuiteImage } from "../kubelet/under-test.ts";

const fixture = join(import.meta.dirname, "..", "kubelet", "fixture.mjs");

/** Port 1 of loopback: nothing listens there, so that a pull is refused at once. */
const unpullable = `127.0.0.1:1/resultity/nothing@sha256:${"0".repeat(64)}`;

const gpus = 2;
const log = (line: string) => console.error(line);

/** The real kubelet as the suite takes it. */
export const realKubelet: KubeletKind = {
  name: "real",
  missing: whyNoRealKubelet,
  async start() {
    const bed = await startControlPlane({ components: [], log });
    try {
      const host = await startRealKubelet({ bed, hostName: "real-1", gpus, log });
      const source = (version: string): ImageSource => ({
        reference: `fixture.resultity.test/fixture:${version}`,
        entrypoint: [nodeInImage, "/fixture.mjs", version],
        files: { "/fixture.mjs": { source: fixture } },
      });
      const [v1, v2] = host.importImages([source("v1"), source("v2")]);
      const images: Readonly<Record<SuiteImage, string>> = {
        "fixture-v1": v1?.pinned ?? "",
        "fixture-v2": v2?.pinned ?? "",
        unpullable,
      };
      return {
        name: "real",
        hostName: host.hostName,
        gpus,
        kubeconfig: bed.adminKubeconfig,
        image: (kind) => images[kind],
        reboot: () => host.reboot(),
        stop: () => bed.stop(),
      };
    } catch (thrown) {
      await bed.stop();
      throw thrown;
    }
  },
};
