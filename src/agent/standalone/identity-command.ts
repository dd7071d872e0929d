import { open } from "node:fs/promises";
import { join } from "node:path";
import { CodedError, messageOf } from "../../lib/errors.ts";
import { makeFolder, syncFolder } from "../../lib/folders.ts";
import { generateKey } from "../../protocol/keys.ts";
import { diskFiles } from "../edge/files.ts";
import { readNodeKey } from "../identity.ts";
import type { AgentCommand } from "./command.ts";
import { readCommandLine, UsageError } from "./command-line.ts";
import { agentSettings } from "./settings.ts";
import { Settings } from "./sources.ts";

/** The identity folder cannot be written. */
export class IdentityCommandError extends CodedError<"unwritable"> {}

/**
 * `agent identity init`: makes the node's key, once, and prints its node id. The key never leaves the host; the account,
 * whose key never comes to the host, binds the id.
 */
export const identityCommand: AgentCommand = {
  usage: "identity init [--identity-dir DIR]",
  summary: "makes the node's key where there is none, and prints the node id",
  flags: [],
  async run({ argv, env, out, note }) {
    const line = await readCommandLine(argv, env);
    if (line.positionals.join(" ") !== "init") throw new UsageError("the command is `agent identity init`");
    const settings = new Settings(line.sources, Object.values(agentSettings));
    const dir = settings.find(agentSettings.identityDir) ?? "/etc/resultity/identity";
    const made = await makeKey(dir);
    const { kid } = await readNodeKey(diskFiles, dir);
    note(`${join(dir, "key.jwk")} ${made ? "made: keep a copy of it in a safe place" : "was there already"}`);
    note(`next, whoever has the account: io accounts bind ACCOUNT ${kid} > binding.json`);
    out(kid);
    return 0;
  },
};

/** Makes `key.jwk` with mode 0600; false when there is one. @throws {IdentityCommandError} */
async function makeKey(dir: string): Promise<boolean> {
  const path = join(dir, "key.jwk");
  const jwk = generateKey();
  try {
    await makeFolder(dir, 0o700);
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(`${JSON.stringify(jwk)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await syncFolder(dir);
    return true;
  } catch (thrown) {
    if (thrown instanceof Error && "code" in thrown && thrown.code === "EEXIST") return false;
    throw new IdentityCommandError(
      "unwritable",
      `${path} cannot be made (${messageOf(thrown)}): run this as the agent's user, which owns the folder`,
    );
  }
}
