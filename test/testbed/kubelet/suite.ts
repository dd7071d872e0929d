/**
 * The specification of a kubelet, as far as the project leans on one: each row of what the real kubelet was seen to
 * do is a test. It takes the kubelet as an argument, and says only what it sees from outside: pod status, and the
 * timeline that the fixture writes.
 */
import { afterAll, beforeAll, describe, test } from "vitest";
import { buildingMs } from "../control-plane.ts";
import { KubeAnswerError, type KubeJson, kubeJson } from "../kube-json.ts";
import { supervise } from "../processes.ts";
import { FixturePod, type FixturePodSpec, namespace } from "./fixture-pod.ts";
import { hostRows } from "./rows-host.ts";
import { imageRows } from "./rows-images.ts";
import { isolationRows } from "./rows-isolation.ts";
import { lifecycleRows } from "./rows-lifecycle.ts";
import { newerApiRows } from "./rows-newer-api.ts";
import { processRows } from "./rows-processes.ts";
import { restartRows } from "./rows-restarts.ts";
import { volumeRows } from "./rows-volumes.ts";
import type { KubeletKind, KubeletUnderTest } from "./under-test.ts";

/** What a row works with. */
export interface Suite {
  readonly kubelet: KubeletUnderTest;
  readonly kube: KubeJson;
  /** Creates a pod on the kubelet under test. */
  pod(spec: FixturePodSpec): Promise<FixturePod>;
  /** Creates a ConfigMap or Secret in the suite's namespace. */
  config(
    kind: "configmaps" | "secrets",
    name: string,
    content: Readonly<Record<string, string>>,
  ): Promise<void>;
  /** Changes its content. */
  reconfigure(
    kind: "configmaps" | "secrets",
    name: string,
    content: Readonly<Record<string, string>>,
  ): Promise<void>;
}

/** Registers the suite for one kubelet; a single skipped test with the reason where the machine cannot run it. */
export async function kubeletSuite(kind: KubeletKind): Promise<void> {
  const missing = await kind.missing();
  if (missing !== undefined) {
    test.skip(`kubelet ${kind.name}: ${missing}`, () => {});
    return;
  }
  describe(`kubelet ${kind.name}`, () => {
    let running: Suite | undefined;
    let stop = async () => {};
    beforeAll(async () => {
      const opened = await open(kind);
      running = opened.suite;
      stop = opened.stop;
    }, buildingMs);
    afterAll(() => stop());
    const suite = (): Suite => {
      if (!running) throw new Error("the kubelet is not running");
      return running;
    };
    // Rows wait more than they work, so they run side by side, the longest first.
    describe.concurrent("rows", () => {
      restartRows(suite);
      imageRows(suite);
      lifecycleRows(suite);
      volumeRows(suite);
      isolationRows(suite);
      if (kind.name !== "memory") processRows(suite);
      if (kind.name === "real") newerApiRows(suite);
    });
    // Rows about the host as a whole must have it for themselves.
    describe("rows, one at a time", () => {
      hostRows(suite);
    });
  });
}

async function open(kind: KubeletKind): Promise<{ suite: Suite; stop: () => Promise<void> }> {
  const processes = supervise();
  try {
    const kubelet = await kind.start();
    processes.onClose(() => kubelet.stop());
    const kube = kubeJson(kubelet.kubeconfig);
    processes.onClose(() => kube.close());
    await kube.create("/api/v1/namespaces", { metadata: { name: namespace } });
    await ensure(kube, "serviceaccounts", { metadata: { name: "default" } });
    return {
      suite: suiteOn(kubelet, kube, processes.folder("kubelet-suite")),
      stop: () => processes.close(),
    };
  } catch (thrown) {
    await processes.close();
    throw thrown;
  }
}

/** @param folder where the pods' timelines go */
function suiteOn(kubelet: KubeletUnderTest, kube: KubeJson, folder: string): Suite {
  const field = { configmaps: "data", secrets: "stringData" } as const;
  return {
    kubelet,
    kube,
    pod: (spec) => FixturePod.create(kube, kubelet, folder, spec),
    async config(plural, name, content) {
      await kube.create(`/api/v1/namespaces/${namespace}/${plural}`, {
        metadata: { name },
        [field[plural]]: content,
      });
    },
    async reconfigure(plural, name, content) {
      const path = `/api/v1/namespaces/${namespace}/${plural}/${name}`;
      await kube.patch(path, "merge", { [field[plural]]: content });
    },
  };
}

/** Creates what a controller of the control plane may have made already. */
async function ensure(kube: KubeJson, plural: string, body: object): Promise<void> {
  try {
    await kube.create(`/api/v1/namespaces/${namespace}/${plural}`, body);
  } catch (thrown) {
    if (!(thrown instanceof KubeAnswerError && thrown.code === "http-409")) throw thrown;
  }
}
