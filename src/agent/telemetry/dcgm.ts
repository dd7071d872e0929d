import { requestBytes } from "../http-bytes.ts";
import type { Ports } from "../ports.ts";
import { readSamples, type Sample } from "./exposition.ts";
import type { GpuReading, GpuSource } from "./gpu.ts";

/** Whose GPUs are meant: those that the kubelet has given to a pod, or all of the host. */
export type GpuOwner = { readonly namespace: string; readonly pod: string } | "host";

const fields = {
  memoryUsedMib: "DCGM_FI_DEV_FB_USED",
  memoryFreeMib: "DCGM_FI_DEV_FB_FREE",
  memoryReservedMib: "DCGM_FI_DEV_FB_RESERVED",
  utilisation: "DCGM_FI_DEV_GPU_UTIL",
  temperatureC: "DCGM_FI_DEV_GPU_TEMP",
  powerW: "DCGM_FI_DEV_POWER_USAGE",
  xid: "DCGM_FI_DEV_XID_ERRORS",
} as const;
const names: ReadonlySet<string> = new Set(Object.values(fields));

/** DCGM's marks for "not measured": its blank values begin here, for 64-bit integers, 32-bit ones and doubles. */
const blanks = [2 ** 63 - 1024, 2 ** 31 - 16, 2 ** 47] as const;
const isBlank = (value: number): boolean =>
  value >= blanks[0] ||
  (value >= blanks[1] && value < 2 ** 31) ||
  (value >= blanks[2] && value <= blanks[2] + 3);

/**
 * Reads the GPUs of one owner out of dcgm-exporter's text. The exporter names the pod in `namespace` and `pod`, or, where
 * Prometheus has relabelled what it passes on, in `exported_namespace` and `exported_pod`. It leaves the labels out of
 * single samples now and then, so a GPU that one sample gives to the pod is the pod's in all of them.
 *
 * @throws Error when the text has no sample of any GPU.
 */
export function gpusFromDcgm(text: string, owner: GpuOwner): readonly GpuReading[] {
  const samples = readSamples(text, names).filter(({ value }) => !isBlank(value));
  if (samples.length === 0) throw new Error("dcgm-exporter tells of no GPU");
  const gpus = new Map<string, Sample[]>();
  for (const sample of samples) {
    const key = keyOf(sample);
    gpus.set(key, [...(gpus.get(key) ?? []), sample]);
  }
  return [...gpus.values()]
    .filter((ofOne) => owner === "host" || ofOne.some((sample) => belongs(sample, owner)))
    .map(readingOf);
}

/** Parts of a MIG GPU are GPUs of their own. */
function keyOf({ labels }: Sample): string {
  return JSON.stringify([labels["UUID"] ?? labels["gpu"] ?? "", labels["GPU_I_ID"] ?? ""]);
}

function belongs({ labels }: Sample, { namespace, pod }: Exclude<GpuOwner, "host">): boolean {
  // Relabelled, the plain ones are those of the exporter's own pod.
  const of = (name: string) => labels[`exported_${name}`] ?? labels[name];
  return of("namespace") === namespace && of("pod") === pod;
}

function readingOf(samples: readonly Sample[]): GpuReading {
  const value = (name: string) => samples.find((sample) => sample.name === name)?.value ?? null;
  const label = (name: string) => samples.find(({ labels }) => labels[name])?.labels[name] ?? null;
  const used = value(fields.memoryUsedMib);
  const free = value(fields.memoryFreeMib);
  const reserved = value(fields.memoryReservedMib) ?? 0;
  return {
    product: label("modelName"),
    uuid: label("UUID"),
    memoryMib: used === null || free === null ? null : Math.round(used + free + reserved),
    memoryUsedMib: used,
    utilisation: value(fields.utilisation),
    temperatureC: value(fields.temperatureC),
    powerW: value(fields.powerW),
    xid: value(fields.xid),
  };
}

/** Reads the GPUs of one owner from a dcgm-exporter. @param url of its metrics, such as `http://10.0.0.7:9400/metrics`. */
export function dcgmSource(
  { http, clock }: Pick<Ports, "http" | "clock">,
  url: string,
  owner: GpuOwner,
): GpuSource {
  return async () => {
    const limits = { maxBytes: 4 * 1024 * 1024, timeoutMs: 5_000 };
    const { status, body } = await requestBytes(http, clock, { method: "GET", url }, limits);
    if (status !== 200) throw new Error(`dcgm-exporter at ${url} answered HTTP ${status}`);
    return gpusFromDcgm(body.toString("utf8"), owner);
  };
}
