import { whyNoSmallDisk } from "../test/lib/small-disk.ts";
import { whyNoStrace } from "../test/lib/traced.ts";
import { whyUnavailable } from "../test/testbed/binaries.ts";
import { whyNoProcessKubelet } from "../test/testbed/kubelet/process/isolation.ts";

/** Test files that need more than Node, and how to tell whether this machine has it. */
export interface Need {
  /** What it is, for people. */
  readonly what: string;
  readonly files: readonly string[];
  /** Why it cannot be had here, in one line; undefined when it can. */
  readonly missing: () => Promise<string | undefined>;
}

/** What a whole file needs. Where single tests need something (the real kubelet, an engine), the file itself says so. */
export const needs: readonly Need[] = [
  {
    what: "control plane",
    files: [
      ...[
        "api",
        "cli",
        "faults-cluster",
        "faults-operator*",
        "kube",
        "loop-*",
        "operator-*",
        "simulation-operator",
        "testbed",
      ].map((name) => `test/integration/${name}.test.ts`),
      "test/testbed/kubelet/**/*.test.ts",
      "test/e2e/*.test.ts",
    ],
    missing: () =>
      whyUnavailable(["etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubectl"]),
  },
  {
    what: "hosts that run pods as processes",
    files: ["test/integration/loop-*.test.ts", "test/testbed/kubelet/process/hosts.test.ts"],
    missing: () => Promise.resolve(whyNoProcessKubelet()),
  },
  {
    what: "strace",
    files: ["outage", "strace"].map((name) => `test/integration/durability-${name}.test.ts`),
    missing: () => Promise.resolve(whyNoStrace()),
  },
  {
    what: "disk of its own",
    files: ["test/integration/durability-outage.test.ts"],
    missing: () => Promise.resolve(whyNoSmallDisk()),
  },
];
