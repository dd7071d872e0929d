import { messageOf } from "../../lib/errors.ts";
import { type Command, type CommandContext, CommandError, helpOf, readArguments } from "./command.ts";
import { configDraft, configPublish, configSign } from "./commands/config.ts";
import { keysDelegate, keysInit } from "./commands/keys.ts";
import {
  accountsAdd,
  accountsBind,
  accountsGrant,
  apikeysAdd,
  jobsList,
  jobsShow,
  nodesBan,
  nodesList,
  nodesRevoke,
  nodesUnban,
  receiptsExport,
  receiptsVerify,
  status,
} from "./commands/service.ts";
import { configWeights } from "./commands/weights.ts";

/** Every command of `io` beside `serve`, in the order in which `io --help` lists them. */
export const adminCommands: readonly Command[] = [
  status,
  keysInit,
  keysDelegate,
  accountsAdd,
  accountsBind,
  accountsGrant,
  apikeysAdd,
  configWeights,
  configDraft,
  configSign,
  configPublish,
  nodesList,
  nodesBan,
  nodesRevoke,
  nodesUnban,
  jobsList,
  jobsShow,
  receiptsExport,
  receiptsVerify,
];

/** What the command line is run with. */
export interface CliInput {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly commands: readonly Command[];
  readonly world: Omit<CommandContext, "args">;
}

/** Runs a command line; resolves to its exit code: 0 done, 1 it did not work, 2 it was called wrongly. */
export async function runCli({ argv, env, commands, world }: CliInput): Promise<0 | 1 | 2> {
  const command = commands.find(({ name }) => {
    const words = name.split(" ");
    return words.every((word, at) => argv[at] === word);
  });
  if (!command) {
    const asked = argv.length === 0 || argv.includes("--help") || argv.includes("-h") || argv[0] === "help";
    (asked ? world.out : world.note)(overview(commands));
    if (!asked) world.note(`\nio: there is no command \`${argv.slice(0, 2).join(" ")}\``);
    return asked ? 0 : 2;
  }
  const rest = argv.slice(command.name.split(" ").length);
  if (rest.includes("--help") || rest.includes("-h")) {
    world.out(helpOf(command));
    return 0;
  }
  try {
    await command.run({ ...world, args: readArguments(command, rest, env) });
    return 0;
  } catch (error) {
    world.note(`io ${command.name}: ${messageOf(error)}`);
    if (!(error instanceof CommandError) || error.code !== "usage") return 1;
    world.note(`see \`io ${command.name} --help\``);
    return 2;
  }
}

function overview(commands: readonly Command[]): string {
  const lines = commands.map(
    ({ name, positionals, summary }) => `  ${[name, ...positionals].join(" ").padEnd(26)} ${summary}`,
  );
  return [
    "usage: io COMMAND [flags]",
    "",
    "The network's side: sessions, jobs, signed config, OpenAI-compatible API.",
    "",
    ...lines,
    "",
    "io COMMAND --help says more.",
  ].join("\n");
}
