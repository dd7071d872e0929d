import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

/** Path of an executable regular file in a folder, or undefined. An empty folder name finds nothing. */
export function executableIn(folder: string, name: string): string | undefined {
  if (folder === "") return undefined;
  const path = join(folder, name);
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile() ? path : undefined;
  } catch {
    return undefined;
  }
}

/** First executable of that name in the folders of `env.PATH`, or undefined. */
export function executableOnPath(name: string, env: NodeJS.ProcessEnv): string | undefined {
  for (const folder of (env["PATH"] ?? "").split(delimiter)) {
    const path = executableIn(folder, name);
    if (path) return path;
  }
  return undefined;
}
