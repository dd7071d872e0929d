import { systemClock } from "../../lib/clock.ts";
import { CodedError, messageOf } from "../../lib/errors.ts";
import { nodeHttp } from "../edge/http.ts";
import { requestBytes } from "../http-bytes.ts";
import type { AgentCommand } from "./command.ts";
import { readCommandLine, UsageError } from "./command-line.ts";
import { agentSettings, localUrl } from "./settings.ts";
import { Settings } from "./sources.ts";

/** The agent could not be asked to drain. */
export class DrainCommandError extends CodedError<"unavailable"> {}

/** Longest wait; the agent's own drain timeout is far shorter as a rule. */
const timeoutMs = 3_600_000;

/**
 * `agent drain`: has the running agent take no more jobs, and waits until those that run have ended or gone back. For who is
 * about to stop the engine; undone when no stop follows within half a minute.
 */
export const drainCommand: AgentCommand = {
  usage: "drain [--listen HOST:PORT]",
  summary: "before the engine is stopped: has the running agent drain, and waits",
  flags: [],
  async run({ argv, env, out }) {
    const line = await readCommandLine(argv, env);
    if (line.positionals.length > 0) throw new UsageError("drain takes no arguments beside its flags");
    const listen = new Settings(line.sources, Object.values(agentSettings)).find(agentSettings.listen);
    const url = `${localUrl(listen)}/drain`;
    try {
      const limits = { maxBytes: 4096, timeoutMs };
      const { status } = await requestBytes(nodeHttp({}), systemClock, { method: "POST", url }, limits);
      if (status !== 200) throw new Error(`HTTP ${status}`);
    } catch (thrown) {
      throw new DrainCommandError(
        "unavailable",
        `${url} was not answered: ${messageOf(thrown)}: is the agent down?`,
      );
    }
    out("drained");
    return 0;
  },
};
