/** What is said of a node that is not well: each fault by itself, its condition, and what its message tells to do. */
import { describe, expect, it } from "vitest";
import { isUrgent } from "../../../src/operator/node/pace.ts";
import { configOf, snapshotOf } from "./network.ts";
import { Patient } from "./recovery/patient.ts";

type Upset = (world: Patient) => void;

const feed =
  (changes: Partial<NonNullable<Patient["feed"]>>): Upset =>
  (world) => {
    if (world.feed) world.feed = { ...world.feed, ...changes };
  };
const scheduled =
  (reason: string, message: string): Upset =>
  (world) =>
    world.kubeletSays({ conditions: [{ type: "PodScheduled", status: "False", reason, message }] });
const serves: Upset = (world) => world.stopServing();

const table: readonly [string, string, string, RegExp, ...Upset[]][] = [
  [
    "no host has a GPU",
    "Scheduled",
    "False Unschedulable",
    /0\/3 nodes.*free or add a host with 1 nvidia.com\/gpu, or relax/,
    (world) => {
      world.pod = world.pod && { ...world.pod, spec: { containers: world.pod.spec?.containers ?? [] } };
      scheduled("Unschedulable", "0/3 nodes")(world);
    },
  ],
  [
    "the runtime's image does not come",
    "Degraded",
    "True ImagePullFailed",
    /the runtime image .*check that the registry has it.*imagePullSecrets/,
    (world) => world.kubeletWaits("runtime", "ErrImagePull"),
  ],
  [
    "the agent's image does not come",
    "Degraded",
    "True ImagePullFailed",
    /the agent image .*check that the registry/,
    (world) => world.kubeletWaits("agent", "ImagePullBackOff"),
  ],
  [
    "the agent crashes",
    "Degraded",
    "True AgentFailed",
    /see `kubectl logs -c agent`/,
    (world) => world.kubeletWaits("agent", "CrashLoopBackOff"),
  ],
  [
    "the runtime's container crashes",
    "Degraded",
    "True EngineFailed",
    /see `kubectl logs -c runtime`/,
    (world) => world.kubeletWaits("runtime", "CrashLoopBackOff"),
  ],
  [
    "the engine crashes under its launcher",
    "Degraded",
    "True EngineFailed",
    /see `kubectl logs -c runtime`.*arguments, memory or GPUs/,
    serves,
    (world) => world.crash(3),
  ],
  [
    "… which is no start",
    "RuntimeReady",
    "False EngineFailed",
    /ends again and again/,
    serves,
    (world) => world.crash(3),
  ],
  [
    "an engine that starts",
    "RuntimeReady",
    "False EngineStarting",
    /starts/,
    serves,
    (world) => world.crash(0),
  ],
  [
    "a device is unhealthy",
    "Degraded",
    "True GPUFault",
    /device GPU-0 .*see `nvidia-smi -q`.*reset the GPU or reboot the host.*replaced/,
    (world) => world.unhealthyDevice(),
  ],
  [
    "the driver says that a GPU is gone",
    "Degraded",
    "True GPUFault",
    /XID 79 .*on host host-1 see/,
    serves,
    (world) => world.xid(79, world.now),
  ],
  [
    "the config was withdrawn",
    "ConfigApplied",
    "False NoConfig",
    /see the conditions of ResultityNetwork testnet/,
    (world) => {
      if (world.config) world.config = { ...world.config, release: undefined };
    },
  ],
  [
    "the config is not one that the release allows",
    "ConfigApplied",
    "False DigestNotAllowed",
    /release/,
    (world) => world.changeSpec({ config: { pin: `sha256:${"0".repeat(64)}` as const } }),
  ],
  [
    "no runtime for the engine",
    "ConfigApplied",
    "False NoRuntimeForEngine",
    /change spec.runtime or spec.gpu.product, or ask the network/,
    (world) => world.changeSpec({ runtime: { engine: "vllm" } }),
  ],
  [
    "the owner denies the image",
    "ConfigApplied",
    "False ImageNotAllowed",
    /spec.images.*change spec.images of ResultityNetwork testnet/,
    (world) => {
      world.config = configOf([snapshotOf("v1")], {
        images: { mirrors: [], allowed: ["nobody.test"], denied: [] },
      });
    },
  ],
  [
    "the session is closed",
    "Connected",
    "False SessionClosed",
    /see|says more \(`kubectl logs -c agent`\)/,
    (world) => feed({ connected: false, since: world.now - 120_000 })(world),
  ],
  [
    "the network does not know it",
    "Registered",
    "False NotRegistered",
    /see `kubectl logs -c agent`/,
    (world) => {
      world.feed = undefined;
    },
  ],
  ["it is banned", "Connected", "False Banned", /sold.*ask the network/, feed({ banned: "sold" })],
  ["its key is revoked", "Registered", "False KeyRevoked", /kubectl annotate/, feed({ revoked: true })],
  [
    "two have its key",
    "Degraded",
    "True IdentityConflict",
    /stop it .*set annotation/,
    feed({ conflict: 1 }),
  ],
  [
    "the agent is silent",
    "Degraded",
    "True AgentUnreachable",
    /port 9440.*NetworkPolicy/,
    (world) => {
      world.agent = { status: undefined, silentMs: 90_000, problem: "timeout" };
    },
  ],
  [
    "the host is lost",
    "Degraded",
    "True HostLost",
    /repair the host, or delete its Node object/,
    serves,
    (world) => {
      world.agent = { status: undefined, silentMs: 90_000, problem: "timeout" };
      feed({ connected: false })(world);
      world.hostLook = { state: { is: "lost", since: world.now, what: "" }, ageMs: 0 };
    },
  ],
  [
    "the pod has ended",
    "Degraded",
    "True PodFailed",
    /a new one is made/,
    (world) => world.kubeletSays({ phase: "Failed", reason: "Evicted" }),
  ],
  [
    "somebody has put a container in",
    "Degraded",
    "True EphemeralContainer",
    /kubectl -n inference delete pod gpu-0/,
    (world) => {
      const spec = world.pod?.spec;
      if (world.pod && spec)
        world.pod = { ...world.pod, spec: { ...spec, ephemeralContainers: [{ name: "d", image: "i" }] } };
    },
  ],
];

describe("a node of which", () => {
  it.each(table)("%s: %s=%s", (_, type, wanted, advice, ...upsets) => {
    const world = new Patient();
    const before = world.node.status;
    for (const upset of upsets) upset(world);
    world.reconcile();
    expect(world.condition(type)).toBe(wanted);
    const message = world.node.status?.conditions?.find((one) => one.type === type)?.message ?? "";
    expect(message).toMatch(advice);
    // What is wrong is not held back until it has settled.
    const after = world.node.status;
    if (type === "Degraded" && after) expect(isUrgent(before, after)).toBe(true);
  });
});
