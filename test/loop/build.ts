import { spawn } from "node:child_process";
import { join } from "node:path";
import { repository } from "./paths.ts";

/** Set where {@link buildBundles} was done for all. */
export const builtVariable = "RESULTITY_TEST_BUILT";

/**
 * Bundles the commands as `npm run build` does, so that a test runs what the sources say. A run of the tests does so once
 * (`build-once.ts`).
 */
export function buildBundles(): Promise<void> {
  if (process.env[builtVariable] !== undefined) return Promise.resolve();
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
