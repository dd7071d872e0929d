import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/**
 * Three projects. `unit` needs nothing but Node. `integration` and `kubelet` (the kubelet specification, and the system on a
 * real kubelet) start real processes: API servers, hosts, agents, engines. Each of their files has a control plane of its own
 * and waits more than it computes, so four run side by side on two cores; more would make them wait for each other. The rows
 * of the kubelet specification are side by side themselves.
 */
const processes = {
  testTimeout: 120_000,
  // Hooks that may have to build the control plane's binaries say so themselves (`buildingMs`).
  hookTimeout: 180_000,
  globalSetup: ["test/loop/build-once.ts"],
  sequence: { groupOrder: 1 },
  maxWorkers: 4,
};

/**
 * Files that take longer than 40 s on a machine that does nothing else, in the order in which they begin, so that none is
 * the last to run, alone. First what takes the others' leavings (`nice`) and what computes most; those that mostly wait lie
 * between those that do not.
 */
const longest = [
  "integration/simulation.",
  "integration/loop-rollout",
  "integration/loop-idle",
  "integration/faults-operator.",
  "integration/loop-tenant",
  "e2e/node",
  "integration/loop-operator",
  "integration/faults-operator-kill",
  "integration/operator-node",
  "integration/loop-canary",
  "integration/simulation-operator",
  "kubelet/real",
  "integration/operator-ahead",
  "integration/faults-agent",
  "integration/loop-faults",
  "integration/operator-recovery",
  "integration/loop-writes",
  "integration/faults-io",
  "integration/operator-resize",
  "integration/kube.",
  "integration/operator-pool",
  "integration/operator-rotation",
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const at = longest.findIndex((name) => moduleId.includes(`/${name}`));
      return at === -1 ? longest.length : at;
    };
    return (await super.sort(files)).toSorted((a, b) => rank(a) - rank(b));
  }
}

export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/{lib,protocol,api,kube,operator,agent,io,cli,scripts,testbed,loop}/**/*.test.ts"],
          exclude: ["test/testbed/kubelet/**"],
          testTimeout: 15_000,
          sequence: { groupOrder: 0 },
          maxWorkers: 2,
          // They leave nothing behind that the next file could see, and half of their time was the import of the same modules.
          isolate: false,
        },
      },
      {
        test: {
          ...processes,
          name: "kubelet",
          include: ["test/testbed/kubelet/**/*.test.ts", "test/e2e/**/*.test.ts"],
          testTimeout: 180_000,
        },
      },
      {
        test: {
          ...processes,
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
        },
      },
    ],
  },
});
