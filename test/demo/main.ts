/**
 * `npm run demo`: the whole loop on this machine. A control plane, two hosts with GPUs, the IO service and the operator come
 * up; the samples of `manifests/` are applied; completions run while the pool moves to a new runtime image, grows to five nodes
 * and shrinks to two. It ends with a table in which client, store and engine logs are reconciled by job id.
 *
 * `--once`: exit when done, 0 if everything reconciles, 1 if not. Without it the system stays up until Ctrl-C.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { messageOf } from "../../src/lib/errors.ts";
import { startLoop, type Loop, namespace } from "../loop/loop.ts";
import { repository } from "../loop/paths.ts";
import { binary } from "../testbed/binaries.ts";
import { runScenario } from "./scenario.ts";
import { printTable } from "./table.ts";

const { values: flags } = parseArgs({ options: { once: { type: "boolean", default: false } } });
const began = performance.now();
const say = (line: string) =>
  console.log(`${((performance.now() - began) / 1000).toFixed(1).padStart(7)} s  ${line}`);

async function demo(): Promise<boolean> {
  say("bundles");
  const build = spawnSync(process.execPath, [join(repository, "scripts/build.ts")], { encoding: "utf8" });
  if (build.status !== 0) throw new Error(`npm run build failed: ${build.stderr}`);
  await using loop = await startLoop({ hosts: 2, gpusPerHost: 4, tokenDelayMs: 60, maxJobs: 4, log: say });
  const outcome = await runScenario(loop, say);
  printTable(outcome, (performance.now() - began) / 1000);
  if (!flags.once) {
    sayWhatNext(loop);
    await new Promise<void>((resolve) => {
      for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve());
    });
  }
  return outcome.problems.length === 0;
}

function sayWhatNext(loop: Loop): void {
  console.log(`
It stays up until Ctrl-C. What to try next, in another shell:

  export KUBECONFIG=${loop.bed.adminKubeconfig}
  alias kubectl=${binary(loop.bed.binaries, "kubectl")}
  kubectl -n ${namespace} get rnet,rpool,rnode -o wide
  kubectl -n ${namespace} scale rpool chat --replicas=4
  curl -N ${loop.ioURL}/v1/chat/completions -H 'authorization: Bearer ${loop.apiKey}' -H 'content-type: application/json' \\
    -d '{"model":"tiny","stream":true,"messages":[{"role":"user","content":"hello"}]}'
  node dist/io.mjs nodes list --data ${loop.ioData}
  node dist/io.mjs jobs list --data ${loop.ioData}
`);
}

try {
  process.exitCode = (await demo()) ? 0 : 1;
} catch (thrown) {
  console.error(`demo failed: ${messageOf(thrown)}`);
  process.exitCode = 1;
}
