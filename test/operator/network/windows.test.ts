import { describe, expect, test } from "vitest";
import { restartsAt } from "../../../src/operator/network/windows.ts";

const at = (text: string) => Date.parse(text);
const window = (schedule: string, durationMinutes: number, timeZone = "UTC") => ({
  schedule,
  durationMinutes,
  timeZone,
});

describe("maintenance windows", () => {
  // 2026-01-03 is a Saturday.
  const saturdays = window("0 2 * * 6", 120);
  const rows = [
    ["before it opens", [saturdays], "2026-01-03T01:59:59Z", false, "2026-01-03T02:00:00Z"],
    ["at the moment it opens", [saturdays], "2026-01-03T02:00:00Z", true, "2026-01-03T04:00:00Z"],
    ["just before it closes", [saturdays], "2026-01-03T03:59:59Z", true, "2026-01-03T04:00:00Z"],
    ["at the moment it closes", [saturdays], "2026-01-03T04:00:00Z", false, "2026-01-10T02:00:00Z"],
    [
      "the longest of two that are open counts",
      [saturdays, window("0 3 * * *", 180)],
      "2026-01-03T03:30:00Z",
      true,
      "2026-01-03T06:00:00Z",
    ],
    [
      "the next of two that are closed counts",
      [saturdays, window("0 3 * * *", 30)],
      "2026-01-04T00:00:00Z",
      false,
      "2026-01-04T03:00:00Z",
    ],
    [
      "a time zone",
      [window("0 2 * * *", 60, "Europe/Berlin")],
      "2026-01-03T01:30:00Z",
      true,
      "2026-01-03T02:00:00Z",
    ],
    ["over midnight", [window("30 23 * * *", 120)], "2026-01-04T00:45:00Z", true, "2026-01-04T01:30:00Z"],
  ] as const;
  test.each(rows)("%s", (_name, windows, now, allowed, until) => {
    expect(restartsAt(windows, at(now))).toEqual({ allowed, until: at(until) });
  });

  test("without windows restarts are allowed at all times", () => {
    expect(restartsAt([], at("2026-01-03T00:00:00Z"))).toEqual({ allowed: true, until: undefined });
  });

  test.each([
    ["61 2 * * *", "UTC"],
    ["0 0 31 2 *", "UTC"],
    ["0 2 * * *", "Mars/Olympus"],
  ])("one that can never open (%s in %s) is told, and allows nothing", (schedule, timeZone) => {
    const { allowed, finding } = restartsAt([window(schedule, 60, timeZone)], at("2026-01-03T02:10:00Z"));
    expect(allowed).toBe(false);
    expect(finding?.reason).toBe("SpecInvalid");
    expect(finding?.message).toContain("spec.config.maintenanceWindows[0]");
  });
});
