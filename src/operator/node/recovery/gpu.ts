import type { Xid } from "../../../protocol/messages.ts";
import { type DeviceFault, type PodFacts, startFails } from "../facts.ts";
import type { NodeObservation } from "../observation.ts";

/**
 * What NVIDIA's XIDs mean for a node, after the catalogue (docs.nvidia.com/deploy/xid-errors) and what the device plugin
 * ignores. `dead`: whatever runs on this GPU fails until it is reset or its host rebooted, so another GPU helps and the same one does
 * not. `worn`: the GPU works on, and wants a reset when there is an occasion. All others say nothing about the GPU: most are what a
 * program did (13, 31, 43, 45, 68, 69, 109), which a new one does again or does not.
 */
const xids: ReadonlyMap<number, { readonly is: "dead" | "worn"; readonly what: string }> = new Map([
  [46, { is: "dead", what: "the GPU stopped processing" }],
  [48, { is: "dead", what: "an uncorrectable memory error" }],
  [54, { is: "dead", what: "auxiliary power is not connected" }],
  [62, { is: "dead", what: "its micro-controller halted" }],
  // Recorded, and what was remapped is used after the next reset only: memory errors go on until then, but seldom hit.
  [63, { is: "worn", what: "a memory row is remapped at the next reset" }],
  [64, { is: "dead", what: "a memory row could not be remapped" }],
  [74, { is: "dead", what: "an NVLink error" }],
  [79, { is: "dead", what: "the GPU has fallen off the bus" }],
  [92, { is: "worn", what: "many corrected memory errors" }],
  // Contained: the program that was hit has ended, and no other was.
  [94, { is: "worn", what: "an uncorrectable memory error, contained" }],
  [95, { is: "dead", what: "an uncorrectable memory error, not contained" }],
  [119, { is: "dead", what: "its system processor does not answer" }],
  [120, { is: "dead", what: "its system processor failed" }],
  [140, { is: "dead", what: "an unrecovered ECC error" }],
  [143, { is: "dead", what: "the GPU could not be initialised" }],
]);

/** What is wrong with the GPUs of a node. */
export interface GpuFault {
  /** Another GPU is needed. Else the node works on with what it has. */
  readonly dead: boolean;
  /**
   * The engine is not out of service for something else, as far as can be seen: it fails, the fault came while it was, or the
   * device's plugin says so. Many an engine serves on for weeks after an XID, and then loads for an hour when it is moved.
   */
  readonly blamed: boolean;
  /** For people: which GPU, what, and who says so. */
  readonly text: string;
}

/**
 * The worst that is known of a node's GPUs, from the kubelet, the agent's signed status and the network's view. What the driver
 * had said before the agent began counts only once the engine has ended by itself or its container does not start: it stays until
 * the driver is loaded anew, and a large model loads for an hour on a GPU that is well.
 */
export function gpuFaultOf({ pod, agent, feed }: NodeObservation): GpuFault | undefined {
  if (!pod || pod.finished || pod.terminating) return undefined;
  const [device] = pod.deviceFaults;
  const said = (agent.status?.report.hardware.gpus ?? []).flatMap(({ xid }) => (xid ? [xid] : []));
  const told = (feed?.xids ?? []).filter(({ since }) => since !== null && since >= pod.since.created);
  const known = [...said, ...told].flatMap((xid) => readXid(xid, pod, agent));
  const worst =
    known.find(({ dead, blamed }) => dead && blamed) ?? known.find(({ dead }) => dead) ?? known[0];
  if (!device) return worst;
  const text = worst?.dead ? `${deviceText(device)}; ${worst.text}` : deviceText(device);
  return { dead: true, blamed: true, text };
}

/** One crash may be a container that was stopped in a moment in which nobody looked. */
const someCrashes = 2;

function readXid({ code, since }: Xid, pod: PodFacts, { status }: NodeObservation["agent"]): GpuFault[] {
  const meaning = xids.get(code);
  const engine = status?.report.engine;
  const ends = !pod.ready && ((engine?.crashes ?? 0) >= someCrashes || startFails(pod.runtime));
  if (!meaning || (since === null && !ends)) return [];
  // An engine that is being stopped does not answer either.
  const planned = pod.desired.ok && pod.desired.desired.plannedStop !== null;
  const silent = engine?.health === "unhealthy" && !planned;
  const blamed = ends || (!pod.ready && (silent || (since !== null && since >= pod.since.ready)));
  const text = `the driver reports XID ${code} (${meaning.what})`;
  return [{ dead: meaning.is === "dead", blamed, text }];
}

function deviceText({ resource, id, message }: DeviceFault): string {
  return `device ${id} (${resource}) is unhealthy, its plugin says${message ? `: ${message}` : ""}`;
}

/** What a person has to do about a GPU. */
export const gpuAdvice = (host: string | undefined): string =>
  `on host ${host ?? ""} see \`nvidia-smi -q\` and \`dmesg | grep -i xid\`, reset the GPU or reboot the host; if it comes back, cordon the host and have the GPU replaced`;
