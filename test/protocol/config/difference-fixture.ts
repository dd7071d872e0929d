import type { Snapshot } from "../../../src/protocol/config/snapshot.ts";

/** A snapshot with one runtime and one model. */
export function makeSnapshot(changes: Partial<Snapshot> = {}): Snapshot {
  const snapshot: Snapshot = {
    network: "testnet",
    version: "1",
    runtimes: [
      {
        engine: "vllm",
        image: `r/vllm@sha256:${"1".repeat(64)}`,
        gpu_products: [],
        launcher: "shell",
        command: ["serve"],
      },
    ],
    models: [{ name: "a", engines: [] }],
    participation: { testnet: true, mainnet: false },
    subclouds: [],
    limits: { max_jobs: 4, max_output_bytes: 1024 },
    min_agent_version: "1.0.0",
  };
  return { ...snapshot, ...changes };
}
