import { defineConfig } from "vitest/config";

/**
 * Three projects: `unit` needs nothing but Node and runs in parallel; `integration` starts real processes
 * (API server, agents, engines) and `kubelet` the pods of the kubelet specification, both one file at a time,
 * because the machines that run them have two cores.
 */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/{lib,protocol,api,kube,operator,agent,io,cli,scripts,testbed,loop}/**/*.test.ts"],
          exclude: ["test/testbed/kubelet/**"],
          testTimeout: 15_000,
        },
      },
      {
        test: {
          name: "kubelet",
          include: ["test/testbed/kubelet/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 1_500_000,
        },
      },
      {
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 1_500_000,
        },
      },
    ],
  },
});
