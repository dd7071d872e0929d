/**
 * `npm run testbed`: a control plane to play with, until Ctrl-C.
 * `npm run testbed -- --build [names…]`: only finds or builds the binaries, and says how long it took.
 */
import { parseArgs } from "node:util";
import { messageOf } from "../../src/lib/errors.ts";
import { type BinaryName, binary, binaryNames, ensureBinaries } from "./binaries.ts";
import { startControlPlane } from "./control-plane.ts";
import { kwokStages } from "./kwok-stages.ts";

const usage = `usage: npm run testbed                        start a control plane, stop it with Ctrl-C
       npm run testbed -- --build [names…]    only find or build binaries (default: all)
names: ${binaryNames.join(", ")}`;

const say = (line: string) => void process.stdout.write(`${line}\n`);
const log = (line: string) => void process.stderr.write(`${line}\n`);
const seconds = (since: number) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

async function build(names: readonly BinaryName[]): Promise<void> {
  const began = performance.now();
  for (const name of names) {
    const before = performance.now();
    const path = binary(await ensureBinaries([name], { log }), name);
    say(`${name.padEnd(24)} ${seconds(before).padStart(8)}  ${path}`);
  }
  if (names.includes("kwok")) await kwokStages();
  say(`${"all".padEnd(24)} ${seconds(began).padStart(8)}`);
}

async function play(): Promise<void> {
  const began = performance.now();
  await using bed = await startControlPlane({ components: ["controller-manager", "scheduler", "kwok"], log });
  const kubectl = binary(bed.binaries, "kubectl");
  say(`
The control plane is up after ${seconds(began)}: ${bed.server}

  export KUBECONFIG=${bed.adminKubeconfig}
  alias kubectl=${kubectl}

What to try:
  kubectl get --raw /readyz?verbose
  kubectl apply -f crds/ && kubectl explain rpool.spec
  tail -f ${bed.audit.path}

Logs are in ${bed.dir}/*.log. Ctrl-C stops everything and removes the folder.`);
  const names = ["etcd", "apiserver", "controller-manager", "scheduler", "kwok"] as const;
  const first = await Promise.race(names.map(async (name) => (await bed.component(name).exited, name)));
  bed.component(first).requireRunning();
}

function isBinaryName(name: string): name is BinaryName {
  return binaryNames.some((known) => known === name);
}

async function main(args: readonly string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args: [...args],
    options: { build: { type: "boolean" }, help: { type: "boolean", short: "h" } },
    allowPositionals: true,
  });
  const unknown = positionals.filter((name) => !isBinaryName(name));
  if (values.help) say(usage);
  else if (unknown.length > 0 || (positionals.length > 0 && !values.build)) {
    throw new Error(`unknown argument ${unknown[0] ?? positionals[0]}\n${usage}`);
  } else if (values.build)
    await build(positionals.length > 0 ? positionals.filter(isBinaryName) : binaryNames);
  else await play();
}

try {
  await main(process.argv.slice(2));
} catch (thrown) {
  log(messageOf(thrown));
  process.exitCode = 1;
}
