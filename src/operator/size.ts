import type { NodeSpec } from "../api/v1alpha1/node.ts";
import { amountOf } from "./quantity.ts";

/** `spec.runtime.resources` of a ResultityNode. */
export type Resources = NonNullable<NodeSpec["runtime"]["resources"]>;

/** What can be changed in a running pod (KEP-1287). */
const resizable = ["cpu", "memory"] as const;
type List = Readonly<Record<string, string | number>>;

/** CPU and memory that a container asks for and is bound to, as the API server keeps them. */
export interface Size {
  readonly requests: Readonly<Record<string, string>>;
  readonly limits: Readonly<Record<string, string>>;
}

/** The size that resources ask for. A request that is not given is its limit, as the API server has it in a new pod. */
export function sizeOf({ requests = {}, limits = {} }: Resources): Size {
  return { requests: cpuAndMemory({ ...limits, ...requests }), limits: cpuAndMemory(limits) };
}

function cpuAndMemory(list: List): Record<string, string> {
  return Object.fromEntries(
    resizable.flatMap((name) => {
      const amount = list[name];
      return amount === undefined ? [] : [[name, String(amount)]];
    }),
  );
}

/** A size for people: `requests cpu 1, limits cpu 2 memory 4Gi`. */
export function sizeText(resources: Resources): string {
  const { requests, limits } = sizeOf(resources);
  const text = (list: List) =>
    Object.entries(list)
      .map(([name, amount]) => `${name} ${amount}`)
      .join(" ") || "none";
  return `requests ${text(requests)}, limits ${text(limits)}`;
}

/**
 * Whether a running container can be taken from one to the other: nothing but amounts of CPU and memory differ, none is
 * taken away, and the pod's QoS class stays (validation of `pods/resize` in the API server). The agent beside it has limits
 * equal to its requests, so the runtime alone decides the class.
 */
export function isResizable(from: Resources, to: Resources): boolean {
  const [before, after] = [sizeOf(from), sizeOf(to)];
  const kept = (list: "requests" | "limits") =>
    Object.keys(before[list]).every((name) => after[list][name] !== undefined);
  return (
    kept("requests") &&
    kept("limits") &&
    isGuaranteed(before) === isGuaranteed(after) &&
    sameAmounts(others({ ...from.limits, ...from.requests }), others({ ...to.limits, ...to.requests })) &&
    sameAmounts(others(from.limits), others(to.limits))
  );
}

/** QoS class Guaranteed: CPU and memory are bound, and all of it is set aside. */
function isGuaranteed({ requests, limits }: Size): boolean {
  return resizable.every((name) => {
    const [request, limit] = [requests[name], limits[name]];
    return request !== undefined && limit !== undefined && amountOf(request) === amountOf(limit);
  });
}

function others(list: List = {}): List {
  const { cpu: _cpu, memory: _memory, ...rest } = list;
  return rest;
}

function sameAmounts(a: List, b: List): boolean {
  const names = Object.keys(a);
  return (
    names.length === Object.keys(b).length &&
    names.every((name) => {
      const [one, other] = [a[name], b[name]];
      return one !== undefined && other !== undefined && amountOf(one) === amountOf(other);
    })
  );
}
