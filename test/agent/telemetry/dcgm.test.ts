import { describe, expect, it } from "vitest";
import { dcgmSource, gpusFromDcgm } from "../../../src/agent/telemetry/dcgm.ts";
import { fakePorts } from "../fixture/fakes.ts";

/** Text in the form of dcgm-exporter 4.4.2-4.7.1: two GPUs of pods, one that nobody has, on one host. */
const gpu = (index: number, pod: string) =>
  `gpu="${index}",UUID="GPU-${index}",pci_bus_id="00000000:0${index}:00.0",device="nvidia${index}",modelName="NVIDIA H100 80GB HBM3",Hostname="host-1",DCGM_FI_DRIVER_VERSION="580.95.05"${pod}`;
const of = (namespace: string, pod: string) =>
  `,container="runtime",namespace="${namespace}",pod="${pod}",pod_uid=""`;
const text = `# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{${gpu(0, of("lend", "n1"))}} 1980
# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{${gpu(0, of("lend", "n1"))}} 41
DCGM_FI_DEV_GPU_TEMP{${gpu(1, of("other", "n1"))}} 55
DCGM_FI_DEV_GPU_TEMP{${gpu(2, "")}} 30
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{${gpu(0, of("lend", "n1"))}} 312.477000
DCGM_FI_DEV_POWER_USAGE{${gpu(1, of("other", "n1"))}} 140737488355330.000000
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{${gpu(0, of("lend", "n1"))}} 0
DCGM_FI_DEV_GPU_UTIL{${gpu(1, of("other", "n1"))}} 2147483632
# TYPE DCGM_FI_DEV_XID_ERRORS gauge
DCGM_FI_DEV_XID_ERRORS{${gpu(0, `${of("lend", "n1")},err_code="79",err_msg="GPU has fallen off the bus"`)}} 79
# TYPE DCGM_FI_DEV_FB_FREE gauge
DCGM_FI_DEV_FB_FREE{${gpu(0, "")}} 20000
DCGM_FI_DEV_FB_FREE{${gpu(1, of("other", "n1"))}} 9223372036854775794
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{${gpu(0, of("lend", "n1"))}} 61000
DCGM_FI_DEV_FB_USED{${gpu(1, of("other", "n1"))}} 1000
# TYPE DCGM_FI_DEV_FB_RESERVED gauge
DCGM_FI_DEV_FB_RESERVED{${gpu(0, of("lend", "n1"))}} 559
`;

describe("dcgm-exporter's text", () => {
  it("gives the GPUs of one pod, also where a sample has lost the pod's labels; 0 is 0", () => {
    expect(gpusFromDcgm(text, { namespace: "lend", pod: "n1" })).toEqual([
      {
        product: "NVIDIA H100 80GB HBM3",
        uuid: "GPU-0",
        memoryMib: 81_559,
        memoryUsedMib: 61_000,
        utilisation: 0,
        temperatureC: 41,
        powerW: 312.477,
        xid: 79,
      },
    ]);
  });

  it("takes DCGM's blank values for unknown, never for a figure", () => {
    expect(gpusFromDcgm(text, { namespace: "other", pod: "n1" })).toEqual([
      {
        product: "NVIDIA H100 80GB HBM3",
        uuid: "GPU-1",
        memoryMib: null,
        memoryUsedMib: 1_000,
        utilisation: null,
        temperatureC: 55,
        powerW: null,
        xid: null,
      },
    ]);
  });

  it("gives a pod of the same name in another namespace nothing", () => {
    expect(gpusFromDcgm(text, { namespace: "lend", pod: "n2" })).toEqual([]);
    expect(gpusFromDcgm(text, { namespace: "third", pod: "n1" })).toEqual([]);
  });

  it("gives a host all GPUs", () => {
    expect(gpusFromDcgm(text, "host").map(({ uuid }) => uuid)).toEqual(["GPU-0", "GPU-1", "GPU-2"]);
  });

  it("understands labels that Prometheus has moved aside", () => {
    const moved = text
      .replaceAll(/,(namespace|pod)="/g, ',exported_$1="')
      .replaceAll("} ", ',namespace="gpu",pod="exporter"} ');
    expect(gpusFromDcgm(moved, { namespace: "lend", pod: "n1" })).toHaveLength(1);
    expect(gpusFromDcgm(moved, { namespace: "gpu", pod: "exporter" }).map(({ uuid }) => uuid)).not.toContain(
      "GPU-1",
    );
  });

  it("is no text of a dcgm-exporter without a GPU in it", () => {
    expect(() => gpusFromDcgm("<html>", "host")).toThrow(/no GPU/);
  });

  it("is fetched from its URL; any other answer than 200 is told with it", async () => {
    const ports = fakePorts();
    const url = "http://10.0.0.7:9400/metrics";
    const read = dcgmSource(ports, url, "host");
    ports.http.auto = (request) => (request.url === url ? { status: 200, body: text } : undefined);
    expect(await read()).toHaveLength(3);
    ports.http.auto = () => ({ status: 503, body: "" });
    await expect(read()).rejects.toThrow(`${url} answered HTTP 503`);
  });
});
