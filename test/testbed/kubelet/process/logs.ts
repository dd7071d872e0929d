import { readdirSync } from "node:fs";
import { join } from "node:path";

/** Which pod's logs. `uid` is needed only where pods of one name came and went. */
export interface PodIdentity {
  readonly namespace: string;
  readonly name: string;
  readonly uid?: string;
}

/** Output of one run of a container. */
export interface ContainerLog {
  readonly uid: string;
  readonly container: string;
  /** Number of the run, from 0; it equals the restart count at its time. */
  readonly attempt: number;
  /** File with stdout and stderr as they came. */
  readonly path: string;
}

/** Folder of a container's logs: `<dir>/pods/<namespace>_<name>_<uid>/<container>`, with one `<attempt>.log` a run. */
export function logFolder(dir: string, pod: Required<PodIdentity>, container: string): string {
  return join(dir, "pods", `${pod.namespace}_${pod.name}_${pod.uid}`, container);
}

/** Logs of a pod that runs or ran on the host with this folder, oldest run first within a container. */
export function containerLogs(dir: string, pod: PodIdentity): ContainerLog[] {
  const logs: ContainerLog[] = [];
  const root = join(dir, "pods");
  for (const entry of list(root)) {
    const [namespace, name, uid = ""] = entry.split("_");
    if (namespace !== pod.namespace || name !== pod.name || (pod.uid !== undefined && pod.uid !== uid))
      continue;
    for (const container of list(join(root, entry))) {
      for (const file of list(join(root, entry, container))) {
        const attempt = Number(file.replace(/\.log$/, ""));
        logs.push({ uid, container, attempt, path: join(root, entry, container, file) });
      }
    }
  }
  return logs.sort((a, b) => a.container.localeCompare(b.container) || a.attempt - b.attempt);
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
