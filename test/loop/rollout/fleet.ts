import { fork } from "node:child_process";
import { openSync } from "node:fs";
import { join } from "node:path";
import type { ControlPlane } from "../../testbed/control-plane.ts";
import { namespace } from "../loop.ts";
import type { EngineLine } from "../reconcile.ts";
import type { Start } from "./starts.ts";

/** How the hosts are. */
export interface FleetSetup {
  readonly kubeconfig: string;
  /** How many; they are called gpu-host-1 and so on. */
  readonly hosts: number;
  readonly gpusPerHost: number;
  /** Milliseconds between two tokens, from an engine's start until it answers, that an image takes to come. */
  readonly tokenDelayMs: number;
  readonly startMs: number;
  readonly pullMs: number;
  /** Milliseconds between two renewals of a host's Lease. */
  readonly leaseMs: number;
}

/** What the hosts' process is asked. */
export type Question =
  | { readonly is: "start"; readonly setup: FleetSetup }
  /** From now on a host cannot pull an image. */
  | { readonly is: "miss"; readonly host: string; readonly image: string }
  | { readonly is: "kill"; readonly namespace: string; readonly pod: string; readonly container: string }
  | { readonly is: "crash" | "boot"; readonly host: string }
  | { readonly is: "told" };

/** What it answers: one of the two. */
export interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly problem?: string;
}

/** What the programs on the hosts have said so far. */
export interface Told {
  readonly starts: readonly Start[];
  readonly lines: readonly (EngineLine & { readonly node: string })[];
}

/** The hosts, in a process of their own (`fleet-process.ts`). */
export class Fleet {
  readonly #ask: (question: Question) => Promise<unknown>;

  private constructor(ask: (question: Question) => Promise<unknown>) {
    this.#ask = ask;
  }

  /** Starts hosts before a control plane, with which they end; resolves when their Nodes are registered. */
  static async start(bed: ControlPlane, setup: Omit<FleetSetup, "kubeconfig">): Promise<Fleet> {
    const log = openSync(join(bed.dir, "fleet.log"), "a");
    const child = fork(join(import.meta.dirname, "fleet-process.ts"), { stdio: ["ignore", log, log, "ipc"] });
    const waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
    let last = 0;
    const ended = new Promise<void>((resolve) =>
      child.once("exit", () => {
        for (const { reject } of waiting.values())
          reject(new Error(`the hosts' process has ended: see ${bed.dir}/fleet.log`));
        resolve();
      }),
    );
    child.on("message", ({ id, value, problem }: Answer) => {
      const asked = waiting.get(id);
      waiting.delete(id);
      if (problem === undefined) asked?.resolve(value);
      else asked?.reject(new Error(problem));
    });
    bed.processes.onClose(async () => {
      child.kill("SIGKILL");
      await ended;
    });
    const fleet = new Fleet(
      (question) =>
        new Promise((resolve, reject) => {
          if (!child.connected) return reject(new Error("the hosts' process has ended"));
          const id = ++last;
          waiting.set(id, { resolve, reject });
          child.send({ id, question });
        }),
    );
    await fleet.#ask({ is: "start", setup: { ...setup, kubeconfig: bed.adminKubeconfig } });
    return fleet;
  }

  /** From now on a host cannot pull an image. */
  async miss(host: string, image: string): Promise<void> {
    await this.#ask({ is: "miss", host, image });
  }

  /** SIGKILL to the agent of a node. */
  async killAgent(node: string): Promise<void> {
    await this.#ask({ is: "kill", namespace, pod: node, container: "agent" });
  }

  /** A host loses its power. */
  async crash(host: string): Promise<void> {
    await this.#ask({ is: "crash", host });
  }

  async boot(host: string): Promise<void> {
    await this.#ask({ is: "boot", host });
  }

  async told(): Promise<Told> {
    return (await this.#ask({ is: "told" })) as Told;
  }
}
