import { readSamples, type Sample } from "../telemetry/exposition.ts";
import type { EngineLoad } from "./adapter.ts";

/**
 * Reads an engine's load out of its Prometheus text: the sums of two gauges over their series. Null when either is
 * missing: half a load is none.
 *
 * @param counts false for series that say again what others say.
 */
export function loadFrom(
  text: string,
  running: string,
  waiting: string,
  counts: (sample: Sample) => boolean = () => true,
): EngineLoad | null {
  const samples = readSamples(text, new Set([running, waiting])).filter(counts);
  const sum = (wanted: string): number | null => {
    const values = samples.filter(({ name }) => name === wanted).map(({ value }) => value);
    return values.length === 0 ? null : Math.round(values.reduce((total, value) => total + value, 0));
  };
  const [atWork, inQueue] = [sum(running), sum(waiting)];
  return atWork === null || inQueue === null || atWork < 0 || inQueue < 0
    ? null
    : { running: atWork, waiting: inQueue };
}
