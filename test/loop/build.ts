import { spawn } from "node:child_process";
import { join } from "node:path";
import { repository } from "./paths.ts";

/** Bundles the commands as `npm run build` does, so that a test runs what the sources say. */
export function buildBundles(): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(repository, "scripts/build.ts")], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let stderr = "";
    child.stderr.on("data", (part: Buffer) => (stderr += part.toString()));
    child.once("error", reject);
    child.once("close", (code) =>
      code === 0 ? resolve() : reject(new Error(`npm run build ended with ${code}: ${stderr.slice(-800)}`)),
    );
  });
}
