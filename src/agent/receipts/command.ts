import { createReadStream } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import * as z from "zod/mini";
import { CodedError, messageOf } from "../../lib/errors.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { publicJwkField } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import { importPublicKey, type VerifyKey } from "../../protocol/keys.ts";
import { diskFiles } from "../edge/files.ts";
import { readBinding, readKeys, readRoot } from "../identity.ts";
import { type AgentCommand, columns, type CommandWorld } from "../standalone/command.ts";
import { type CommandLine, readCommandLine, UsageError } from "../standalone/command-line.ts";
import { agentSettings } from "../standalone/settings.ts";
import { Settings } from "../standalone/sources.ts";
import { bookFiles } from "./book.ts";
import { type ClaimedReceipt, claimsOf, parseLine } from "./line.ts";
import { dayOf, totalsOf } from "./totals.ts";
import { type PlacedLine, type ReceiptTrust, ReceiptVerifier } from "./verify.ts";

/** Receipts cannot be read or written. */
export class ReceiptsError extends CodedError<"unreadable" | "unwritable"> {}

const own = [
  { name: "from", value: "DAY", help: "from this day on (UTC, 2026-01-31)" },
  { name: "to", value: "DAY", help: "up to this day, included" },
  {
    name: "format",
    value: "jws|csv",
    help: "export: compact JWS as `io receipts export` prints them (default), or a table",
  },
  { name: "out", value: "FILE", help: "export: write there, not to stdout; never overwrites" },
  { name: "service-key", value: "FILE", help: "verify: public JWK of a service that may have countersigned" },
  {
    name: "node-key",
    value: "FILE",
    help: "verify: public JWK of the node, or an array of all that it had (default: those of the identity folder)",
  },
  { name: "json", help: "print JSON" },
] as const;

/** `agent receipts list|verify|export`. */
export const receiptsCommand: AgentCommand = {
  usage: "receipts list|verify|export [FILE …]",
  summary: "what the node has earned: totals per day and model, check of every signature, export",
  flags: own,
  async run(world) {
    const line = await readCommandLine(world.argv, world.env, own);
    const [verb = "list", ...files] = line.positionals;
    const read = await sourceOf(line, files);
    switch (verb) {
      case "list":
        return list(world, line, read);
      case "verify":
        return verify(world, line, read);
      case "export":
        return exportTo(world, line, read);
      default:
        throw new UsageError(`receipts ${verb}: the commands are list, verify and export`);
    }
  },
};

type Lines = () => AsyncGenerator<PlacedLine>;

async function sourceOf(line: CommandLine, given: readonly string[]): Promise<Lines> {
  const files = given.length > 0 ? given : await keptFiles(line);
  return async function* () {
    for (const file of files) {
      let number = 0;
      try {
        for await (const text of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
          number++;
          if (text !== "") yield { file, line: number, text };
        }
      } catch (thrown) {
        throw new ReceiptsError("unreadable", `${file} cannot be read: ${messageOf(thrown)}`);
      }
    }
  };
}

async function keptFiles(line: CommandLine): Promise<readonly string[]> {
  const settings = new Settings(line.sources, Object.values(agentSettings));
  const dir =
    settings.find(agentSettings.receiptsDir) ??
    `${settings.find(agentSettings.stateDir) ?? "/var/lib/resultity"}/receipts`;
  try {
    return await bookFiles(dir);
  } catch (thrown) {
    throw new ReceiptsError(
      "unreadable",
      `${dir} cannot be read (${messageOf(thrown)}): name the agent's --config or --receipts-dir, and run as its user; the folder appears with the first session of a standalone agent`,
    );
  }
}

/** Receipts of the wanted days, each once, and how many lines could not be read. */
async function claimed(line: CommandLine, read: Lines) {
  const [from, to] = [dayFlag(line, "from"), dayFlag(line, "to")];
  const seen = new Map<string, ClaimedReceipt>();
  let unreadable = 0;
  for await (const { text } of read()) {
    try {
      const kept = parseLine(text);
      if (kept.is !== "receipt") continue;
      const claims = claimsOf(kept.countersign);
      const day = dayOf(claims.countersign.committed_at);
      if ((from === undefined || day >= from) && (to === undefined || day <= to))
        seen.set(kept.countersign, claims);
    } catch (thrown) {
      if (!(thrown instanceof ProtocolError)) throw thrown;
      unreadable++;
    }
  }
  return { receipts: seen, unreadable };
}

function dayFlag(line: CommandLine, name: "from" | "to"): string | undefined {
  const day = line.find(name);
  if (day === undefined || /^\d{4}-\d\d-\d\d$/.test(day)) return day;
  throw new UsageError(`--${name} is a day such as 2026-01-31`);
}

async function list({ out, note }: CommandWorld, line: CommandLine, read: Lines): Promise<0 | 1> {
  const { receipts, unreadable } = await claimed(line, read);
  const totals = totalsOf(receipts.values());
  if (line.find("json") !== undefined) out(JSON.stringify({ totals, unreadable }, null, 2));
  else {
    const header = ["DAY", "MODEL", "JOBS", "FAILED", "PROMPT TOKENS", "COMPLETION TOKENS"];
    const rows = totals.map((total) => [
      total.day,
      total.model,
      String(total.jobs),
      String(total.failed),
      String(total.promptTokens),
      String(total.completionTokens),
    ]);
    for (const row of columns([header, ...rows])) out(row);
  }
  if (unreadable > 0)
    note(`${unreadable} lines cannot be read and are not counted: see \`agent receipts verify\``);
  return unreadable > 0 ? 1 : 0;
}

async function verify({ out, note }: CommandWorld, line: CommandLine, read: Lines): Promise<0 | 1> {
  const settings = new Settings(line.sources, Object.values(agentSettings));
  const identityDir = settings.find(agentSettings.identityDir) ?? "/etc/resultity/identity";
  const serviceKey = line.find("service-key");
  const nodeKey = line.find("node-key");
  const network = settings.find(agentSettings.network);
  const verifier = new ReceiptVerifier({
    ...(nodeKey === undefined
      ? await ownKeys(identityDir)
      : { nodeKeys: await readPublicKeys(nodeKey), nodeId: undefined }),
    serviceKeys: serviceKey === undefined ? [] : await readPublicKeys(serviceKey),
    // Without a network (a bare export on another machine) only the given key is believed.
    root:
      network === undefined && serviceKey !== undefined
        ? undefined
        : await readRoot(diskFiles, identityDir, settings.require(agentSettings.network)),
  });
  for await (const placed of read()) verifier.take(placed);
  const report = verifier.report();
  if (line.find("json") !== undefined) out(JSON.stringify(report, null, 2));
  else {
    for (const { file, line: number, problem } of report.problems) out(`${file}:${number}: ${problem}`);
    const { receipts, completionTokens, links, problems } = report;
    out(
      `${receipts} receipts, ${completionTokens} completion tokens, ${links} linked to the one before: ` +
        (problems.length === 0 ? "every signature stands" : `${problems.length} lines do not stand`),
    );
  }
  if (report.receipts === 0) note("there is no receipt to verify");
  return report.problems.length === 0 ? 0 : 1;
}

/** The keys that the identity folder has and remembers. A folder without a binding is of a node with its first key. */
async function ownKeys(dir: string): Promise<Pick<ReceiptTrust, "nodeKeys" | "nodeId">> {
  const { key, next, former } = await readKeys(diskFiles, dir);
  const binding = await readBinding(diskFiles, dir).catch(() => undefined);
  return { nodeKeys: [key, ...(next ? [next] : []), ...former], nodeId: binding?.node_id };
}

const jwks = z.union([publicJwkField, z.array(publicJwkField)]);

async function readPublicKeys(path: string): Promise<readonly VerifyKey[]> {
  try {
    return [parsePayload(jwks, await readFile(path, "utf8"), "key")]
      .flat()
      .map((jwk) => importPublicKey(jwk));
  } catch (thrown) {
    throw new ReceiptsError("unreadable", `${path} is no Ed25519 key (JWK): ${messageOf(thrown)}`);
  }
}

const csvHeader =
  "committed_at,job,attempt,account,index,model,consumer,outcome,prompt_tokens,completion_tokens,duration_ms,config_digest";

async function exportTo({ out, note }: CommandWorld, line: CommandLine, read: Lines): Promise<0 | 1> {
  const format = line.find("format") ?? "jws";
  if (format !== "jws" && format !== "csv") throw new UsageError("--format is jws or csv");
  const { receipts, unreadable } = await claimed(line, read);
  const lines = format === "jws" ? [...receipts.keys()] : [csvHeader, ...[...receipts.values()].map(csvLine)];
  const path = line.find("out");
  if (path === undefined) for (const text of lines) out(text);
  else await writeNew(path, lines.map((text) => `${text}\n`).join(""));
  note(`${receipts.size} receipts exported${unreadable > 0 ? `, ${unreadable} lines cannot be read` : ""}`);
  return unreadable > 0 ? 1 : 0;
}

/** No field can hold a comma, a quote or a formula: their schemas allow none. */
function csvLine({ countersign, receipt }: ClaimedReceipt): string {
  return [
    new Date(countersign.committed_at).toISOString(),
    receipt.job,
    receipt.attempt,
    countersign.account,
    countersign.index,
    receipt.model,
    receipt.consumer,
    receipt.outcome,
    countersign.metered.prompt_tokens,
    countersign.metered.completion_tokens,
    receipt.duration_ms,
    receipt.config_digest,
  ].join(",");
}

async function writeNew(path: string, text: string): Promise<void> {
  try {
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (thrown) {
    throw new ReceiptsError("unwritable", `--out ${path} cannot be written: ${messageOf(thrown)}`);
  }
}
