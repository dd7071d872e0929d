/**
 * `kubectl-resultity`: kubectl runs it as `kubectl resultity`. Reads networks, pools and nodes with the user's own rights,
 * says how they are, why, and what the operator does next; some commands change one field of a spec.
 *
 * Environment: KUBECONFIG and HOME as kubectl has them; NO_COLOR. Without a kubeconfig, in a pod, the pod's
 * ServiceAccount. Exit code 0; 1 when something cannot be read or is not there, or of `plan` when a node refuses; 2 for a wrong command line.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { text as readAll } from "node:stream/consumers";
import { CliError, explain } from "../cli/errors.ts";
import { type Options, parseOptions } from "../cli/options.ts";
import { run } from "../cli/run.ts";
import { plainScreen, type Screen, terminal } from "../cli/text/screen.ts";
import { Client } from "../kube/client.ts";
import { type ApiConnection, fromKubeconfig, inCluster } from "../kube/config.ts";
import { Transport } from "../kube/transport.ts";
import { messageOf } from "../lib/errors.ts";
import { version } from "../lib/version.ts";

async function connect({ kubeconfig, context }: Options, env: NodeJS.ProcessEnv): Promise<ApiConnection> {
  const files = kubeconfig === undefined ? kubeconfigFiles(env) : [kubeconfig];
  if (files.length > 0) {
    try {
      return await fromKubeconfig(files, context === undefined ? {} : { context });
    } catch (cause) {
      throw new Error(`the kubeconfig cannot be used (--kubeconfig or KUBECONFIG names another)`, { cause });
    }
  }
  const host = env["KUBERNETES_SERVICE_HOST"];
  const port = env["KUBERNETES_SERVICE_PORT"];
  if (host && port) return inCluster({ host, port });
  throw new Error("there is no kubeconfig: name one with --kubeconfig or KUBECONFIG");
}

/** Files of `KUBECONFIG` that are there, as kubectl takes them, else the one in the home folder. */
function kubeconfigFiles(env: NodeJS.ProcessEnv): string[] {
  const named = (env["KUBECONFIG"] ?? "").split(delimiter).filter((file) => file !== "");
  const files = named.length > 0 ? named : [join(homedir(), ".kube", "config")];
  return files.filter((file) => existsSync(file));
}

function screenOf({ stdout }: NodeJS.Process, env: NodeJS.ProcessEnv): Screen {
  return stdout.isTTY ? terminal(stdout.columns, { colours: !env["NO_COLOR"] }) : plainScreen;
}

async function answer(options: Options, env: NodeJS.ProcessEnv): Promise<number> {
  const connection = await connect(options, env);
  const transport = new Transport({ connection, userAgent: `kubectl-resultity/${version}` });
  try {
    const client = new Client(transport);
    const {
      text,
      remark,
      code = 0,
    } = await run(options, {
      reader: client,
      writer: client,
      namespace: options.namespace ?? connection.namespace ?? "default",
      now: Date.now(),
      screen: screenOf(process, env),
      readFile: (path) => (path === "-" ? readAll(process.stdin) : readFile(path, "utf8")),
    });
    if (remark !== undefined) process.stderr.write(`${remark}\n`);
    if (text !== "") await write(`${text}\n`);
    return code;
  } catch (thrown) {
    return failed(thrown, explain(thrown, connection.server.origin));
  } finally {
    transport.close();
  }
}

/** Resolves when a pipe has taken all of it, or is closed (`| head`). */
function write(text: string): Promise<void> {
  return new Promise((resolve) => {
    process.stdout.once("error", () => resolve());
    process.stdout.write(text, () => resolve());
  });
}

/** Says what went wrong; returns the exit code. */
function failed(thrown: unknown, message: string): number {
  const usage = thrown instanceof CliError && thrown.code === "Usage";
  process.stderr.write(`error: ${message}${usage ? " (see kubectl resultity --help)" : ""}\n`);
  return usage ? 2 : 1;
}

async function main(): Promise<number> {
  try {
    const options = parseOptions(process.argv.slice(2));
    if (typeof options !== "string") return await answer(options, process.env);
    await write(`${options}\n`);
    return 0;
  } catch (thrown) {
    return failed(thrown, messageOf(thrown));
  }
}

process.exit(await main());
