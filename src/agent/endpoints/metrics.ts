import { Metrics } from "../../lib/metrics.ts";
import type { Agent } from "../agent.ts";
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
      const { jobs, frames: counted, engineCrashes } = agent.figures;
      for (const [outcome, total] of Object.entries(jobs)) ended.inc({ outcome }, since(outcome, total));
      frames.inc({ direction: "sent" }, since("sent", counted.sent));
      frames.inc({ direction: "received" }, since("received", counted.received));
      dials.inc({}, since("dials", counted.dials));
      crashes.inc({}, since("crashes", engineCrashes));
      return metrics.text();
    },
  };
}
