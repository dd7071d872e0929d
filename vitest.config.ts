import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/**
 * Three projects. `unit` needs nothing but Node. `kubelet` (the kubelet specification) and `integration` start real
 * processes: API servers, hosts, agents, engines. Each of their files has a control plane of its own and waits more than it
 * computes, so three run side by side on two cores; more would make them wait for each other. The rows of the kubelet
 * specification are side by side themselves.
 */
const processes = {
  testTimeout: 120_000,
  // Hooks that may have to build the control plane's binaries say so themselves (`buildingMs`).
  hookTimeout: 180_000,
};

/** Files that take a minute or two begin first, so that none of them is the last to run, alone. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = ({ moduleId }: TestSpecification) =>
      /\/(loop-|real\.|e2e\/|simulation|durability-|io-jobs-kills|faults-)/.test(moduleId);
    return (await super.sort(files)).toSorted((a, b) => Number(isLong(b)) - Number(isLong(a)));
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
        },
      },
      {
        test: {
          name: "kubelet",
          include: ["test/testbed/kubelet/**/*.test.ts", "test/e2e/**/*.test.ts"],
          ...processes,
          testTimeout: 180_000,
          sequence: { groupOrder: 2 },
          maxWorkers: 2,
        },
      },
      {
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
          ...processes,
          sequence: { groupOrder: 1 },
          maxWorkers: 3,
        },
      },
    ],
  },
});
