/**
 * The hosts of a rollout with all their pods, as a process of their own: it has the event loop of two hundred agents, and the
 * test that forks it has its own. Asked over the channel of `fork`.
 */
import { messageOf } from "../../../src/lib/errors.ts";
import { agentProgram } from "../../testbed/kubelet/memory/agent-program.ts";
import { engineProgram } from "../../testbed/kubelet/memory/engine-program.ts";
import { hostNames, type MemoryFleet, startMemoryFleet } from "../../testbed/kubelet/memory/fleet.ts";
import type { ProgramInMemory } from "../../testbed/kubelet/memory/program.ts";
import type { MemoryImage } from "../../testbed/kubelet/process/images.ts";
import { agentImage, engineImage } from "../images.ts";
import type { EngineLine } from "../reconcile.ts";
import type { Answer, FleetSetup, Question } from "./fleet.ts";
import type { Start } from "./starts.ts";

const releases = ["v1", "v2", "v3"];
const starts: Start[] = [];
const lines: (EngineLine & { readonly node: string })[] = [];
/** `<host> <image>`: what cannot be pulled there. */
const missing = new Set<string>();
let fleet: MemoryFleet | undefined;

/** A program of which each start is noted. */
const noted =
  (image: string, program: ProgramInMemory, what: "agent" | "runtime"): ProgramInMemory =>
  (container) => {
    // A pod that only brings the image to its host is no node.
    const isNode = what === "agent" || container.name === "runtime";
    const isPrefetch = container.command.every((word) => !word.endsWith("/launch.sh")) && what === "runtime";
    if (isNode && !isPrefetch)
      starts.push({ node: container.pod.name, program: what, image, at: Date.now() });
    return program(container);
  };

function imagesOf({ tokenDelayMs, startMs, pullMs }: FleetSetup): ReadonlyMap<string, MemoryImage> {
  const agent = { program: noted(agentImage(), agentProgram(), "agent") };
  const engines = releases.map((release) => {
    const image = engineImage(release);
    const program = engineProgram({
      version: release,
      behaviour: () => ({ startMs, tokenDelayMs }),
      onEngine: ({ name }) => starts.push({ node: name, program: "engine", image, at: Date.now() }),
      onRequest: (line, { name }) => lines.push({ ...line, node: name, time: Date.now(), version: release }),
    });
    return [image, { program: noted(image, program, "runtime"), pullDelayMs: pullMs }] as const;
  });
  return new Map<string, MemoryImage>([[agentImage(), agent], ...engines]);
}

async function start(setup: FleetSetup): Promise<void> {
  const images = imagesOf(setup);
  fleet = await startMemoryFleet({
    kubeconfig: setup.kubeconfig,
    hosts: hostNames("gpu-host", setup.hosts),
    gpus: { count: setup.gpusPerHost, product: "NVIDIA-H100-80GB-HBM3" },
    leaseMs: setup.leaseMs,
    images: (reference, host) => (missing.has(`${host} ${reference}`) ? undefined : images.get(reference)),
  });
}

async function answer(question: Question): Promise<unknown> {
  if (question.is === "start") return start(question.setup);
  if (!fleet) throw new Error("the fleet has not been started");
  switch (question.is) {
    case "miss":
      return void missing.add(`${question.host} ${question.image}`);
    case "kill": {
      const container = fleet.container(question.namespace, question.pod, question.container);
      if (!container) throw new Error(`no container ${question.container} of pod ${question.pod} runs`);
      return container.kill();
    }
    case "crash":
      return fleet.host(question.host).crash();
    case "boot":
      return fleet.host(question.host).boot();
    case "told":
      return { starts, lines };
    default:
      return question satisfies never;
  }
}

process.on("message", (message: { readonly id: number; readonly question: Question }) => {
  const { id, question } = message;
  const reply = (told: Omit<Answer, "id">) => process.send?.({ id, ...told } satisfies Answer);
  answer(question).then(
    (value) => reply({ value }),
    (thrown: unknown) => reply({ problem: messageOf(thrown) }),
  );
});
// Whoever asked is gone.
process.on("disconnect", () => process.exit(0));
