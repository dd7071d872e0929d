import { Cron } from "croner";
import { messageOf } from "../../lib/errors.ts";
import type { Finding } from "./refusal.ts";

/** A maintenance window as the spec has it. */
export interface MaintenanceWindow {
  /** Cron, five fields: when it opens. */
  readonly schedule: string;
  readonly durationMinutes: number;
  /** IANA name. */
  readonly timeZone: string;
}

/** Whether nodes in service may be restarted for what the network brings. Wall times, ms. */
export interface Restarts {
  readonly allowed: boolean;
  /** When that changes by itself; undefined = never. */
  readonly until: number | undefined;
  /** A window that cannot be read. It never opens. */
  readonly finding?: Finding;
}

const always: Restarts = { allowed: true, until: undefined };

/**
 * Whether one of the windows is open at `now`, and until when that stays so. Without windows restarts are allowed at all
 * times; with windows that cannot be read they are not: whoever asked for windows wants no restart outside of them.
 */
export function restartsAt(windows: readonly MaintenanceWindow[], now: number): Restarts {
  if (windows.length === 0) return always;
  let finding: Finding | undefined;
  const ends: number[] = [];
  const starts: number[] = [];
  for (const [index, window] of windows.entries()) {
    const durationMs = window.durationMinutes * 60_000;
    try {
      const cron = new Cron(window.schedule, { timezone: window.timeZone, paused: true });
      // A window is open if it began less than its length ago.
      const start = cron.nextRun(new Date(now - durationMs))?.getTime();
      if (start === undefined) throw new Error("no such time ever comes");
      if (start <= now) ends.push(start + durationMs);
      else starts.push(start);
    } catch (thrown) {
      finding ??= {
        reason: "SpecInvalid",
        message: `spec.config.maintenanceWindows[${index}] never opens: schedule "${window.schedule}" in time zone "${window.timeZone}": ${messageOf(thrown).slice(0, 200)}; write five cron fields, for example "0 2 * * 6", and an IANA time zone`,
      };
    }
  }
  const until = ends.length > 0 ? Math.max(...ends) : starts.length > 0 ? Math.min(...starts) : undefined;
  return { allowed: ends.length > 0, until, ...(finding && { finding }) };
}
