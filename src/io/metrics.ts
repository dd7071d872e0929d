import type { Metrics } from "../lib/metrics.ts";

/** What the service counts. */
export type IoMetrics = ReturnType<typeof ioMetrics>;

const seconds = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

/** Registers the service's metrics. */
export function ioMetrics(metrics: Metrics) {
  return {
    submitted: metrics.counter("resultity_io_jobs_submitted_total", "Jobs that clients have submitted."),
    asyncSubmitted: metrics.counter(
      "resultity_io_async_jobs_submitted_total",
      "Asynchronous jobs that clients have submitted.",
    ),
    asyncRestored: metrics.counter(
      "resultity_io_async_jobs_restored_total",
      "Asynchronous jobs that a start of the service has found unfinished.",
    ),
    ended: metrics.counter("resultity_io_jobs_ended_total", "Jobs that are over, by final state.", ["state"]),
    offers: metrics.counter("resultity_io_offers_total", "Offers to nodes; each is one attempt."),
    refused: metrics.counter(
      "resultity_io_results_refused_total",
      "Results that were not committed, by why.",
      ["why"],
    ),
    duration: metrics.histogram("resultity_io_job_duration_seconds", "From submission to commit.", seconds),
    firstByte: metrics.histogram(
      "resultity_io_first_byte_seconds",
      "From submission to the first byte of a streamed answer.",
      seconds,
    ),
    sessionsOpened: metrics.counter(
      "resultity_io_sessions_opened_total",
      "Sessions that got as far as ready.",
    ),
    sessionsClosed: metrics.counter(
      "resultity_io_sessions_closed_total",
      "Connections that ended, by close code.",
      ["code"],
    ),
    identityConflicts: metrics.counter(
      "resultity_io_identity_conflicts_total",
      "Sessions refused to a process whose node another process speaks for by now.",
    ),
    refusedUpgrades: metrics.counter(
      "resultity_io_upgrades_refused_total",
      "Connections refused before a challenge, by why.",
      ["why"],
    ),
    frames: metrics.counter("resultity_io_frames_received_total", "Frames from nodes that were believed."),
    commit: metrics.histogram(
      "resultity_io_store_commit_seconds",
      "Time of one transaction of the store, with its fsync.",
      seconds,
    ),
    commitWrites: metrics.counter("resultity_io_store_writes_total", "Writes that transactions have held."),
    requests: metrics.counter("resultity_io_requests_total", "Answers of the client API, by status.", [
      "status",
    ]),
  };
}
