import { accessSync, constants, statSync } from "node:fs";
import { join } from "node:path";

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
