import { parseArgs } from "node:util";
import { messageOf } from "../lib/errors.ts";
import { CliError } from "./errors.ts";
import { type Subject, subjectOf } from "./subject.ts";

export const commands = ["status", "why", "plan"] as const;
export type CommandName = (typeof commands)[number];

/** The command line, read and checked. */
export interface Options {
  readonly command: CommandName;
  readonly subject: Subject | undefined;
  /** `-n`; undefined = the kubeconfig's. */
  readonly namespace: string | undefined;
  readonly allNamespaces: boolean;
  readonly output: "text" | "json";
  readonly context: string | undefined;
  readonly kubeconfig: string | undefined;
}

const flags = `flags:
  -n, --namespace NAME   default: the namespace of the context, else "default"
      --context NAME     context of the kubeconfig; default: its current one
      --kubeconfig FILE  default: $KUBECONFIG, else ~/.kube/config
  -o, --output json      all that is known, for programs
  -h, --help

It only reads, with your own rights (ClusterRole view is enough). Exit code 0; 1 when something cannot be read or is not
there; 2 for a wrong command line.`;

const usages: Readonly<Record<CommandName | "", string>> = {
  "": `usage: kubectl resultity COMMAND [flags]

  status [NAME]            networks, pools and nodes on one screen
  why NODE|POOL|NETWORK    what is wrong, what to do about it, and what the operator does next
  plan POOL                what the operator does next with a pool, in which order, and what stays in service

${flags}`,
  status: `usage: kubectl resultity status [NAME] [flags]

Networks, pools and nodes: whether each is well, and if not why. With NAME only that network, pool or node and what
belongs to it. NAME may be KIND/NAME, with rnet, rpool or rnode as kind.

  -A, --all-namespaces   all namespaces
${flags}`,
  why: `usage: kubectl resultity why NODE|POOL|NETWORK [flags]

The conditions of one object in the order in which they depend on each other, with what to do about those that are not
well; what the operator does next, and why; recent events. Where a name is that of several objects, write
rnode/NAME, rpool/NAME or rnet/NAME.

${flags}`,
  plan: `usage: kubectl resultity plan POOL [flags]

What the operator does next with a pool, by the operator's own planner; the order in which the nodes move, as long as
each one that moves arrives; and how many nodes stay in service meanwhile.

${flags}`,
};

/** Help for a command, or for the whole program. */
export function usageOf(command: CommandName | undefined): string {
  return usages[command ?? ""];
}

/** Reads the command line. A string is the help that was asked for. @throws CliError Usage */
export function parseOptions(argv: readonly string[]): Options | string {
  const { values, positionals } = parse(argv);
  const [word, ...rest] = positionals;
  const command = commands.find((name) => name === word);
  if (values.help || word === undefined || word === "help")
    return usageOf(command ?? commands.find((name) => name === rest[0]));
  if (!command) {
    throw new CliError("Usage", `there is no command "${word}": use one of ${commands.join(", ")}`);
  }
  const allNamespaces = values["all-namespaces"] ?? false;
  if (values.output !== undefined && values.output !== "json") {
    throw new CliError("Usage", `--output "${values.output}" is unknown: use json, or leave it out`);
  }
  if (rest.length === 0 && command !== "status") {
    throw new CliError("Usage", `${command} needs the name of an object`);
  }
  if (allNamespaces && (command !== "status" || rest.length > 0)) {
    throw new CliError(
      "Usage",
      "--all-namespaces does not go with a name, which may be in several: use -n NAMESPACE",
    );
  }
  return {
    command,
    subject: rest.length === 0 ? undefined : subjectOf(rest),
    namespace: unequal(values.namespace) || undefined,
    allNamespaces,
    output: values.output ?? "text",
    context: values.context || undefined,
    kubeconfig: values.kubeconfig || undefined,
  };
}

function parse(argv: readonly string[]) {
  try {
    const { values, positionals } = parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        namespace: { type: "string", short: "n" },
        "all-namespaces": { type: "boolean", short: "A" },
        output: { type: "string", short: "o" },
        context: { type: "string" },
        kubeconfig: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    });
    return { values: { ...values, output: unequal(values.output) }, positionals };
  } catch (thrown) {
    throw new CliError("Usage", messageOf(thrown));
  }
}

/** kubectl takes `-n=NAME`; Node's parser leaves the sign in the value. */
function unequal<T extends string | undefined>(value: T): T | string {
  return typeof value === "string" && value.startsWith("=") ? value.slice(1) : value;
}
