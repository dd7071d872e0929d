import { Metrics } from "../../lib/metrics.ts";
import type { Agent } from "../agent.ts";
import type { GpuReading } from "../telemetry/gpu.ts";
import type { MetricsText } from "./server.ts";

/** The agent's figures as Prometheus reads them. Made at the first scrape: an agent that nobody scrapes pays nothing. */
export function agentMetrics(agent: Agent): MetricsText {
  const metrics = new Metrics();
  metrics.collectProcess();
  const gauge = (name: string, help: string, read: () => number) => metrics.gauge(name, help, [], read);
  gauge("resultity_agent_ready", "1 while the node is ready: config, engine and models, not draining.", () =>
    Number(agent.figures.ready),
  );
  gauge("resultity_agent_connected", "1 while a session is open.", () => Number(agent.figures.connected));
  gauge("resultity_agent_accepting", "1 while the node takes jobs.", () => Number(agent.figures.accepting));
  gauge("resultity_agent_slots", "Jobs that the node runs at once.", () => agent.figures.slots);
  gauge("resultity_agent_jobs_running", "Jobs that run now.", () => agent.figures.running);
  gauge(
    "resultity_agent_jobs_held",
    "Jobs that run or whose result is not acknowledged.",
    () => agent.figures.held,
  );
  gauge(
    "resultity_agent_send_buffer_bytes",
    "Bytes not yet taken by the session's socket.",
    () => agent.figures.buffered,
  );
  gauge("resultity_agent_release_sequence", "Newest release known.", () => agent.figures.releaseSequence);

  const load = metrics.gauge(
    "resultity_agent_engine_requests",
    "Requests inside the engine, as it tells; absent where it does not.",
    ["state"],
  );
  const gpus = gpuGauges(metrics);

  const ended = metrics.counter("resultity_agent_jobs_total", "Jobs by how they ended here.", ["outcome"]);
  const frames = metrics.counter("resultity_agent_frames_total", "Frames of sessions.", ["direction"]);
  const dials = metrics.counter("resultity_agent_dials_total", "Attempts to open a session.");
  const crashes = metrics.counter(
    "resultity_agent_engine_crashes_total",
    "Engines that ended by themselves.",
  );
  const told = new Map<string, number>();
  const since = (name: string, total: number): number => {
    // The launcher's count starts anew with its container.
    const before = Math.min(told.get(name) ?? 0, total);
    told.set(name, total);
    return total - before;
  };
  return {
    contentType: metrics.contentType,
    text() {
      const { jobs, frames: counted, engineCrashes, engineLoad, gpus: readings } = agent.figures;
      for (const state of ["running", "waiting"] as const) {
        if (engineLoad) load.set(engineLoad[state], { state });
        else load.remove({ state });
      }
      gpus(readings);
      for (const [outcome, total] of Object.entries(jobs)) ended.inc({ outcome }, since(outcome, total));
      frames.inc({ direction: "sent" }, since("sent", counted.sent));
      frames.inc({ direction: "received" }, since("received", counted.received));
      dials.inc({}, since("dials", counted.dials));
      crashes.inc({}, since("crashes", engineCrashes));
      return metrics.text();
    },
  };
}

/** Gauges of GPUs; a figure that is unknown has no series. */
function gpuGauges(metrics: Metrics): (readings: readonly GpuReading[]) => void {
  const gauge = (name: string, help: string) => metrics.gauge(`resultity_agent_gpu_${name}`, help, ["gpu"]);
  const mib = 1024 * 1024;
  const figures = [
    { gauge: gauge("memory_bytes", "Memory of a GPU."), of: scaled(({ memoryMib }) => memoryMib, mib) },
    { gauge: gauge("memory_used_bytes", "Memory in use."), of: scaled((gpu) => gpu.memoryUsedMib, mib) },
    {
      gauge: gauge("utilisation_ratio", "Share of time in which it worked."),
      of: scaled((gpu) => gpu.utilisation, 0.01),
    },
    { gauge: gauge("temperature_celsius", "Temperature."), of: scaled((gpu) => gpu.temperatureC, 1) },
    { gauge: gauge("power_watts", "Power drawn."), of: scaled((gpu) => gpu.powerW, 1) },
    {
      gauge: gauge("xid", "Code of the last error that the driver reported; 0 = none."),
      of: scaled((gpu) => gpu.xid, 1),
    },
  ];
  let told: readonly string[] = [];
  return (readings) => {
    for (const gpu of told) for (const figure of figures) figure.gauge.remove({ gpu });
    const named = readings.map((reading, index) => ({ reading, gpu: reading.uuid ?? String(index) }));
    told = named.map(({ gpu }) => gpu);
    for (const { reading, gpu } of named) {
      for (const figure of figures) {
        const value = figure.of(reading);
        if (value !== null) figure.gauge.set(value, { gpu });
      }
    }
  };
}

const scaled =
  (read: (gpu: GpuReading) => number | null, factor: number) =>
  (gpu: GpuReading): number | null => {
    const value = read(gpu);
    return value === null ? null : value * factor;
  };
