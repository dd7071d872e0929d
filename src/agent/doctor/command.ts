import { messageOf } from "../../lib/errors.ts";
import { systemClock } from "../../lib/clock.ts";
import { diskFiles } from "../edge/files.ts";
import { nodeHttp } from "../edge/http.ts";
import { wsTransport } from "../edge/transport.ts";
import type { AgentCommand } from "../standalone/command.ts";
import { readCommandLine, UsageError } from "../standalone/command-line.ts";
import { SettingsError } from "../standalone/setting.ts";
import { type AgentSettings, resolveSettings } from "../standalone/settings.ts";
import { examine } from "./doctor.ts";
import { fail, type Finding, lineOf } from "./finding.ts";
import { thisMachine } from "./world.ts";

const own = [{ name: "json", help: "print JSON" }] as const;

/** `agent doctor`: takes the settings that the agent takes, and says what stands in its way. */
export const doctorCommand: AgentCommand = {
  usage: "doctor [--json] [options of run]",
  summary: "looks for what stands in the node's way and says how to mend it",
  flags: own,
  async run({ argv, env, out }) {
    let findings: readonly Finding[];
    let json = argv.includes("--json");
    try {
      const line = await readCommandLine(argv, env, own);
      if (line.positionals.length > 0) throw new UsageError("doctor takes no arguments beside its flags");
      json = line.find("json") !== undefined;
      findings = await examineHere(resolveSettings(line.sources), env);
    } catch (thrown) {
      if (!(thrown instanceof SettingsError)) throw thrown;
      findings = [
        fail("config", messageOf(thrown), "correct the setting; docs/standalone.md shows them all"),
      ];
    }
    if (json) out(JSON.stringify(findings, null, 2));
    else for (const finding of findings) out(lineOf(finding));
    return findings.some(({ verdict }) => verdict === "fail") ? 1 : 0;
  },
};

function examineHere(
  settings: AgentSettings,
  env: Readonly<Record<string, string | undefined>>,
): Promise<readonly Finding[]> {
  return examine(
    {
      ...thisMachine,
      files: diskFiles,
      http: nodeHttp(env),
      transport: wsTransport(env),
      clock: systemClock,
      env,
    },
    settings,
  );
}
