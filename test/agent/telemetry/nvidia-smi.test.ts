import { describe, expect, it } from "vitest";
import { gpusFromSmi } from "../../../src/agent/telemetry/nvidia-smi.ts";

describe("nvidia-smi's answer", () => {
  it("gives a GPU for each line, and null for what a GPU does not tell", () => {
    // In the form of nvidia-smi 580.95: a data centre GPU, a workstation's without sensors, one that has failed.
    const text = `NVIDIA H100 80GB HBM3, GPU-7d2a, 81559, 61001, 97, 41, 312.48
NVIDIA T400 4GB, GPU-11fe, 4096, 0, 0, [N/A], [Not Supported]
[Unknown Error], GPU-90aa, [Unknown Error], [Unknown Error], [Unknown Error], [GPU requires reset], [N/A]
`;
    expect(gpusFromSmi(text)).toEqual([
      {
        product: "NVIDIA H100 80GB HBM3",
        uuid: "GPU-7d2a",
        memoryMib: 81_559,
        memoryUsedMib: 61_001,
        utilisation: 97,
        temperatureC: 41,
        powerW: 312.48,
        xid: null,
      },
      {
        product: "NVIDIA T400 4GB",
        uuid: "GPU-11fe",
        memoryMib: 4_096,
        memoryUsedMib: 0,
        utilisation: 0,
        temperatureC: null,
        powerW: null,
        xid: null,
      },
      {
        product: null,
        uuid: "GPU-90aa",
        memoryMib: null,
        memoryUsedMib: null,
        utilisation: null,
        temperatureC: null,
        powerW: null,
        xid: null,
      },
    ]);
  });

  it("is told as it is when it is a failure", () => {
    expect(() =>
      gpusFromSmi(
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n",
      ),
    ).toThrow(/nvidia-smi says: Failed to initialize NVML/);
    expect(() => gpusFromSmi("No devices were found\n")).toThrow(/No devices/);
  });
});
