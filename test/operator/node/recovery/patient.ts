/** A node that serves, and to which things happen: the world of the recovery's tests. */
import type { FleetHealth } from "../../../../src/operator/node/recovery/ladder.ts";
import { configOf, snapshotOf } from "../network.ts";
import { nodeOf, World } from "../world.ts";

export const minute = 60_000;

/** Neighbours of whom all are well. */
export const fine: FleetHealth = {
  pool: { nodes: 8, failing: 1 },
  network: { nodes: 8, failing: 1 },
  recentSteps: 0,
  servesSame: true,
  servesOther: false,
};

/** A time as Kubernetes writes it. */
export const at = (now: number): string => new Date(now).toISOString().replace(/\.\d+Z/, "Z");

export class Patient extends World {
  constructor(spec: Parameters<typeof nodeOf>[0] = {}) {
    super(nodeOf(spec), configOf([snapshotOf("v1")]));
    this.untilServing();
    this.fleet = fine;
  }

  /** Something has taken the engine away. */
  stopServing(): void {
    this.kubeletSays({
      conditions: [
        { type: "PodScheduled", status: "True", lastTransitionTime: at(this.now) },
        { type: "Ready", status: "False", lastTransitionTime: at(this.now) },
      ],
    });
  }

  crash(crashes: number): void {
    this.engine("starting", crashes);
  }

  engine(health: "starting" | "unhealthy", crashes = 0): void {
    const { status } = this.agent;
    if (!status) throw new Error("the agent has said nothing");
    const engine = { ...status.report.engine, health, crashes };
    this.agent = { ...this.agent, status: { ...status, report: { ...status.report, engine } } };
  }

  xid(code: number, since: number | null): void {
    const { status } = this.agent;
    if (!status) throw new Error("the agent has said nothing");
    const gpus = [{ product: null, memory_mib: null, xid: { code, since } }];
    const hardware = { ...status.report.hardware, gpus };
    this.agent = { ...this.agent, status: { ...status, report: { ...status.report, hardware } } };
  }

  unhealthyDevice(): void {
    const [runtime] = this.pod?.status?.containerStatuses ?? [];
    if (!runtime) throw new Error("there is no runtime");
    const resources = [
      { resourceID: "GPU-0", health: "Unhealthy" },
      { resourceID: "GPU-1", health: "Unknown" },
    ];
    const allocatedResourcesStatus = [{ name: "nvidia.com/gpu", resources }];
    this.kubeletSays({ containerStatuses: [{ ...runtime, allocatedResourcesStatus }] });
  }

  /** Reconciles each second for a while; returns when what was logged, by second. */
  watch(ms: number): string[] {
    const seen: string[] = [];
    for (const end = this.now + ms; this.now < end; this.now += 1_000) {
      const before = this.log.length;
      this.reconcile();
      for (const line of this.log.slice(before)) seen.push(line);
    }
    return seen;
  }

  get message(): string {
    return this.node.status?.conditions?.find(({ type }) => type === "Degraded")?.message ?? "";
  }
}
