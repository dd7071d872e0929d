import { describe, expect, test } from "vitest";
import type { NodeSpec } from "../../../src/api/v1alpha1/node.ts";
import { outlookOf } from "../../../src/operator/node/outlook.ts";
import { noImagePolicy } from "../../../src/operator/node/places.ts";
import type { Snapshot } from "../../../src/protocol/config/snapshot.ts";
import type { NetworkConfig } from "../../../src/operator/views.ts";
import { configOf, digestOfSnapshot, imageOf, networkOf, snapshotOf } from "./network.ts";
import { nodeOf } from "./world.ts";

const first = snapshotOf("1");
const { spec: network } = networkOf();

interface Case {
  readonly spec?: (spec: NodeSpec) => NodeSpec;
  readonly to?: Snapshot;
  readonly agentImage?: string;
  readonly endpoints?: readonly string[];
  readonly config?: Partial<NetworkConfig>;
  readonly applied?: string | null;
}

function outlook({ spec = (same) => same, to = first, agentImage, endpoints, config = {}, applied }: Case) {
  const node = { ...nodeOf({}, "gpu-0") };
  const runs = applied === undefined ? digestOfSnapshot(first) : applied;
  return outlookOf({
    node: runs === null ? node : { ...node, status: { config: { applied: runs } } },
    from: { agentImage: network.agent.image, endpoints: network.endpoints },
    to: {
      spec: spec(node.spec),
      digest: digestOfSnapshot(to),
      agentImage: agentImage ?? network.agent.image,
      endpoints: endpoints ?? network.endpoints,
    },
    config: configOf(to === first ? [first] : [first, to], config),
    now: Date.UTC(2026, 0, 1),
  });
}

const running = (spec: NodeSpec, more: Partial<NodeSpec["runtime"]>): NodeSpec => ({
  ...spec,
  runtime: { ...spec.runtime, ...more },
});
const sized = (cpu: string) => (spec: NodeSpec) =>
  running(spec, { resources: { limits: { cpu }, requests: { cpu } } });

describe("what a change does to a node", () => {
  test.each<[string, Case, string, boolean]>([
    ["nothing changes", {}, "none", false],
    [
      "another limit",
      { to: snapshotOf("1", { limits: { max_jobs: 9, max_output_bytes: 1 << 20 } }) },
      "live",
      false,
    ],
    [
      "it is to accept no jobs",
      { spec: (spec) => ({ ...spec, participation: { ...spec.participation, accept: false } }) },
      "live",
      false,
    ],
    [
      "a model less, which the engine takes at its start",
      { spec: (spec) => ({ ...spec, models: ["model-a"] }) },
      "restart-engine",
      true,
    ],
    ["arguments", { spec: (spec) => running(spec, { args: ["--new"] }) }, "restart-engine", true],
    ["another runtime", { to: snapshotOf("2") }, "patch-runtime", true],
    ["another agent", { agentImage: imageOf("agent", "v2") }, "patch-agent", true],
    [
      "another runtime and agent",
      { to: snapshotOf("2"), agentImage: imageOf("agent", "v2") },
      "patch-runtime",
      true,
    ],
    ["a variable", { spec: (spec) => running(spec, { env: [{ name: "A", value: "b" }] }) }, "recreate", true],
    ["another service", { endpoints: ["https://io2.example"] }, "recreate", true],
    ["the first config", { applied: null }, "create", false],
    [
      "a config that nobody holds before it",
      { applied: `sha256:${"0".repeat(64)}`, to: snapshotOf("2") },
      "unknown",
      true,
    ],
  ])("%s", (_name, change, does, interrupts) => {
    expect(outlook(change)).toMatchObject({ does, interrupts });
  });

  test("CPU is changed in the running pod", () => {
    const node = nodeOf({}, "gpu-0");
    const config = configOf([first]);
    const shared = { agentImage: network.agent.image, endpoints: network.endpoints };
    const told = outlookOf({
      node: {
        ...node,
        spec: sized("1")(node.spec),
        status: { config: { applied: digestOfSnapshot(first) } },
      },
      from: shared,
      to: { ...shared, spec: sized("2")(node.spec), digest: digestOfSnapshot(first) },
      config,
      now: 0,
    });
    expect(told).toMatchObject({ does: "resize", interrupts: false });
  });

  test("the image comes from its first mirror", () => {
    const images = { ...noImagePolicy, mirrors: [{ source: "registry.example", mirrors: ["near.example"] }] };
    expect(outlook({ to: snapshotOf("2"), config: { images } })).toMatchObject({
      image: imageOf("engine", "2").replace("registry.example", "near.example"),
    });
  });

  test.each<[string, Case, string]>([
    [
      "an engine that the config has not",
      { spec: (spec) => running(spec, { engine: "vllm" }) },
      "NoRuntimeForEngine",
    ],
    [
      "an image that the config has not",
      { spec: (spec) => running(spec, { image: imageOf("engine", "9") }) },
      "ImageNotInConfig",
    ],
    [
      "an image that the owner denies",
      { config: { images: { ...noImagePolicy, denied: ["registry.example"] } } },
      "ImageNotAllowed",
    ],
    [
      "a config that the release does not allow",
      { config: { release: configOf([snapshotOf("3")]).release } },
      "DigestNotAllowed",
    ],
    ["a config that nobody holds", { to: snapshotOf("2"), config: { snapshots: new Map() } }, "Waiting"],
  ])("refuses %s", (_name, change, reason) => {
    expect(outlook(change).refused?.reason).toBe(reason);
  });
});
