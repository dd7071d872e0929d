import { parseArgs } from "node:util";
import { messageOf } from "../lib/errors.ts";
import { CliError } from "./errors.ts";
import { type Subject, subjectOf } from "./subject.ts";

export const commands = ["status", "why", "plan", "approve", "rollout", "park", "unpark"] as const;
export type CommandName = (typeof commands)[number];

/** What `rollout` does with a pool. */
export const rolloutVerbs = ["status", "history", "pause", "resume", "undo", "follow", "promote"] as const;
export type RolloutVerb = (typeof rolloutVerbs)[number];

/** The command line, read and checked. */
export interface Options {
  readonly command: CommandName;
  readonly subject: Subject | undefined;
  /** Of `rollout` alone. */
  readonly verb: RolloutVerb | undefined;
  /** Config that is meant; undefined = the one that the command finds. */
  readonly digest: string | undefined;
  /** `-f` of `plan`: a manifest, or `-`. */
  readonly file: string | undefined;
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

With your own rights: ClusterRole view is enough for what only reads, edit for rollout, park and unpark, admin for approve.
Exit code 0; 1 when something cannot be read or written or is not there; 2 for a wrong command line.`;

const usages: Readonly<Record<CommandName | "", string>> = {
  "": `usage: kubectl resultity COMMAND [flags]

  status [NAME]            networks, pools and nodes on one screen
  why NODE|POOL|NETWORK    what is wrong, what to do about it, and what the operator does next
  plan POOL|NETWORK        what the operator does next, or would do with another config or spec: each node, in which order,
                           who would refuse, and what stays in service
  approve NETWORK          let the config that waits for approval through
  rollout VERB POOL        the updates of a pool: status, history, pause, resume, undo, follow, promote
  park NODE                drain a node and keep its identity
  unpark NODE              let it run again

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
  plan: `usage: kubectl resultity plan POOL|NETWORK [--digest DIGEST] [flags]
       kubectl resultity plan -f FILE [flags]

What the operator does next with a pool, or with all pools and nodes of a network, by the operator's own planner: what
becomes of each node (nothing, live, load-models, resize, restart-engine, patch-runtime, patch-agent, recreate, create,
delete), in which order, as long as each one that moves arrives; who refuses and why; which hosts fetch an image first; how
many nodes stay in service meanwhile, and for how long; and what windows, approval, pauses and partitions hold back.
Nothing is written. Of a network it is about the config that waits for approval, where one does.

      --digest DIGEST    as if the network called this config current
  -f, --filename FILE    as if the networks, pools and nodes in this manifest (- = standard input) had been applied; the
                         API server checks them in a dry run, for which you need the right to write them
${flags}
For plan: 1 also where a node refuses what it is to do, so that a pipeline can ask before it applies.`,
  approve: `usage: kubectl resultity approve NETWORK [--digest DIGEST] [flags]

Lets the config in the network's status.pending through, and says what it changes. Sets spec.config.approved.

      --digest DIGEST    only if this is the one that waits
${flags}`,
  rollout: `usage: kubectl resultity rollout VERB POOL [flags]

  status     how far the pool is, and which node it waits for
  history    configs of its network, newest first
  pause      hold updates; nodes that were told to move still do
  resume     let updates go on
  undo       go back to the config before this one, and stay there
  follow     end the stay: go to what the network is at
  promote    take the config without a trial, or though its trial failed

      --digest DIGEST    with undo: the config to go to
${flags}`,
  park: `usage: kubectl resultity park NODE [flags]

Drains the node, deletes its pod and keeps its identity. Its pool makes no other in its place. Sets spec.replicas to 0.

${flags}`,
  unpark: `usage: kubectl resultity unpark NODE [flags]

Lets a parked node run again, as the same node. Sets spec.replicas to 1.

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
  const [verb, names] = command === "rollout" ? rolloutOf(rest) : [undefined, rest];
  const file = unequal(values.filename);
  if (file !== undefined && (command !== "plan" || names.length > 0)) {
    throw new CliError("Usage", "--filename goes with plan, in place of a name");
  }
  if (names.length === 0 && command !== "status" && file === undefined) {
    throw new CliError("Usage", `${command} needs the name of an object`);
  }
  const { digest } = values;
  const takesDigest = command === "approve" || verb === "undo" || (command === "plan" && file === undefined);
  if (digest !== undefined && !takesDigest) {
    throw new CliError("Usage", "--digest goes with approve, with rollout undo, and with plan NAME");
  }
  if (digest !== undefined && !/^sha256:[0-9a-f]{64}$/.test(digest)) {
    throw new CliError(
      "Usage",
      `--digest "${digest}" is no digest: write sha256: and 64 lower-case hex digits`,
    );
  }
  if (allNamespaces && (command !== "status" || rest.length > 0)) {
    throw new CliError(
      "Usage",
      "--all-namespaces does not go with a name, which may be in several: use -n NAMESPACE",
    );
  }
  return {
    command,
    subject: names.length === 0 ? undefined : subjectOf(names),
    verb,
    digest,
    file,
    namespace: unequal(values.namespace) || undefined,
    allNamespaces,
    output: values.output ?? "text",
    context: values.context || undefined,
    kubeconfig: values.kubeconfig || undefined,
  };
}

function rolloutOf(words: readonly string[]): readonly [RolloutVerb, readonly string[]] {
  const [word, ...names] = words;
  const verb = rolloutVerbs.find((known) => known === word);
  if (!verb) {
    const said = word === undefined ? "rollout needs a verb" : `rollout has no verb "${word}"`;
    throw new CliError("Usage", `${said}: use one of ${rolloutVerbs.join(", ")}`);
  }
  return [verb, names];
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
        digest: { type: "string" },
        filename: { type: "string", short: "f" },
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
