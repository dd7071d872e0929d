/** The runner's set-up of all files that start processes: the bundles are made once, and not by each file under the others' feet. */
import { buildBundles, builtVariable } from "./build.ts";

export async function setup(): Promise<void> {
  await buildBundles();
  // Workers inherit it.
  process.env[builtVariable] = "yes";
}
