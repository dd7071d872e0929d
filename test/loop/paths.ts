import { join } from "node:path";

/** Root of the repository. */
export const repository = join(import.meta.dirname, "../..");
/** The bundle of a command, as `npm run build` writes it. */
export const bundle = (name: "operator" | "agent" | "io" | "kubectl-resultity"): string =>
  join(repository, "dist", `${name}.mjs`);
export const engineProgram = join(repository, "test/engine/engine.mjs");
