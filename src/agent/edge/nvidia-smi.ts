import { execFile } from "node:child_process";
import { gpusFromSmi, smiArgs } from "../telemetry/nvidia-smi.ts";
import type { GpuReading } from "../telemetry/gpu.ts";

/** Asks this machine's `nvidia-smi`. A driver that hangs with a broken GPU is given up after 10 s. */
export function readNvidiaSmi(): Promise<readonly GpuReading[]> {
  const limits = { timeout: 10_000, killSignal: "SIGKILL", maxBuffer: 256 * 1024 } as const;
  return new Promise((resolve, reject) => {
    execFile("nvidia-smi", [...smiArgs], limits, (error, stdout) => {
      try {
        if (error) throw new Error(`nvidia-smi: ${stdout.trim() || error.message}`.slice(0, 300));
        resolve(gpusFromSmi(stdout));
      } catch (thrown) {
        reject(thrown instanceof Error ? thrown : new Error(String(thrown)));
      }
    });
  });
}
