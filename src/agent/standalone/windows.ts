/** A daily span of UTC minutes; one that ends before it begins goes over midnight. */
export interface DailyWindow {
  readonly fromMinute: number;
  readonly toMinute: number;
}

const dayMinutes = 24 * 60;

/** Reads `HH:MM-HH:MM`; undefined if it is none. `24:00` may be the end. */
export function parseWindow(text: string): DailyWindow | undefined {
  const [, fromHour, fromMinute, toHour, toMinute] = /^(\d\d):(\d\d)-(\d\d):(\d\d)$/.exec(text) ?? [];
  const from = minuteOf(fromHour, fromMinute);
  const to = minuteOf(toHour, toMinute);
  if (from === undefined || to === undefined || from === dayMinutes || from === to) return undefined;
  return { fromMinute: from, toMinute: to };
}

function minuteOf(hour: string | undefined, minute: string | undefined): number | undefined {
  const minutes = Number(hour) * 60 + Number(minute);
  return Number(minute) < 60 && minutes <= dayMinutes ? minutes : undefined;
}

/** True when `now` (wall time, ms) lies in one of the windows, or when there are none. */
export function inWindows(windows: readonly DailyWindow[], now: number): boolean {
  if (windows.length === 0) return true;
  const minute = Math.floor(now / 60_000) % dayMinutes;
  return windows.some(({ fromMinute, toMinute }) =>
    fromMinute < toMinute
      ? minute >= fromMinute && minute < toMinute
      : minute >= fromMinute || minute < toMinute,
  );
}
