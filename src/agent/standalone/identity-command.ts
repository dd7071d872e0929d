import { open } from "node:fs/promises";
import { join } from "node:path";
import { CodedError, messageOf } from "../../lib/errors.ts";
import { makeFolder, syncFolder } from "../../lib/folders.ts";
import { systemClock } from "../../lib/clock.ts";
import { nodeHttp } from "../edge/http.ts";
import { generateKey } from "../../protocol/keys.ts";
import { diskFiles } from "../edge/files.ts";
import { readNodeKey } from "../identity.ts";
import type { AgentCommand } from "./command.ts";
import { readCommandLine, UsageError } from "./command-line.ts";
import { rotateIdentity } from "./rotate-identity.ts";
import { agentSettings, localUrl } from "./settings.ts";
import { Settings } from "./sources.ts";

/** The identity folder cannot be written. */
export class IdentityCommandError extends CodedError<"unwritable"> {}

/** Longest wait of a rotation for the network, ms. */
const patienceMs = 120_000;

/**
 * `agent identity init`: makes the node's key, once, and prints its node id. The key never leaves the host; the account,
 * whose key never comes to the host, binds the id. `agent identity rotate`: gives the running node another key.
 */
export const identityCommand: AgentCommand = {
  usage: "identity init|rotate [--identity-dir DIR]",
  summary:
    "init: makes the node's key where there is none, and prints the node id\nrotate: gives the running node another key; its id stays",
  flags: [],
  async run({ argv, env, out, note }) {
    const line = await readCommandLine(argv, env);
    const settings = new Settings(line.sources, Object.values(agentSettings));
    const dir = settings.find(agentSettings.identityDir) ?? "/etc/resultity/identity";
    switch (line.positionals.join(" ")) {
      case "init": {
        const made = await makeKey(dir);
        const { kid } = await readNodeKey(diskFiles, dir);
        const what = made ? "made: keep a copy of it in a safe place" : "was there already";
        note(`${join(dir, "key.jwk")} ${what}`);
        note(`next, whoever has the account: io accounts bind ACCOUNT ${kid} > binding.json`);
        out(kid);
        return 0;
      }
      case "rotate": {
        const agentUrl = localUrl(settings.find(agentSettings.listen));
        const http = nodeHttp({});
        const uid = process.getuid?.();
        out(await rotateIdentity({ dir, uid, agentUrl, http, clock: systemClock, patienceMs }));
        note(`${join(dir, "key.jwk")} is new: keep a copy of it in a safe place; the one before is void`);
        return 0;
      }
      default:
        throw new UsageError("the commands are `agent identity init` and `agent identity rotate`");
    }
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
