import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { VirtualHost } from "./loop.ts";
import type { EngineLine } from "./reconcile.ts";

/** A line of a container's log that is a JSON object. */
export interface LogLine {
  readonly pod: string;
  readonly line: Readonly<Record<string, unknown>>;
}

/** Every JSON line that the container `container` of any pod has ever written on these hosts. */
export function containerLines(hosts: readonly VirtualHost[], container: "agent" | "runtime"): LogLine[] {
  return hosts.flatMap(({ dir }) =>
    list(join(dir, "pods")).flatMap((pod) => {
      const folder = join(dir, "pods", pod, container);
      return list(folder)
        .filter((file) => file.endsWith(".log"))
        .flatMap((file) =>
          jsonLines(readFileSync(join(folder, file), "utf8")).map((line) => ({
            pod: pod.split("_")[1] ?? pod,
            line,
          })),
        );
    }),
  );
}

/** What the engines wrote about requests, in no particular order. */
export function engineLines(hosts: readonly VirtualHost[]): EngineLine[] {
  return containerLines(hosts, "runtime")
    .map(({ line }) => line as unknown as EngineLine)
    .filter(({ event }) => typeof event === "string");
}

function jsonLines(text: string): Record<string, unknown>[] {
  return text.split("\n").flatMap((line) => {
    if (!line.startsWith("{")) return [];
    try {
      return [JSON.parse(line) as Record<string, unknown>];
    } catch {
      return []; // the last line of a killed process may be cut
    }
  });
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
