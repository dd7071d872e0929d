import { messageOf } from "../../../lib/errors.ts";
import { verifyChain } from "../../../protocol/receipt.ts";
import { askService } from "../client.ts";
import { type Command, CommandError, dataFlag } from "../command.ts";
import { serviceKeyPath } from "../data-folder.ts";
import { readKey, readText } from "../key-files.ts";
import { type JobView, type NodeView, receiptPage } from "../server.ts";
import { table } from "../table.ts";
import type { ReceiptRow } from "../../store/port.ts";

const jsonFlag = { name: "json", help: "print JSON" } as const;

/** Field of an answer of the service, whose form is the service's own. */
function fieldOf(answer: unknown, name: string): string {
  if (typeof answer === "object" && answer !== null && name in answer)
    return String((answer as Readonly<Record<string, unknown>>)[name]);
  throw new CommandError("refused", `the service's answer has no ${name}: is it of another version?`);
}

export const accountsAdd: Command = {
  name: "accounts add",
  positionals: ["ID"],
  summary: "Adds an account and prints its key, once.",
  details:
    "The key goes into the Secret that ResultityNetwork spec.account names. The service cannot print it again.",
  flags: [dataFlag],
  async run({ args, out }) {
    const answer = await askService(args.get("data"), "POST", "/accounts", { id: args.at(0) });
    out(fieldOf(answer, "key"));
  },
};

export const accountsBind: Command = {
  name: "accounts bind",
  positionals: ["ACCOUNT", "NODE_ID"],
  summary: "Binds a node to an account and prints binding.json, for a node that no operator binds.",
  details:
    "NODE_ID is what `agent identity init` prints on the node's host. The account key stays here: with the binding that one\n" +
    "node can register for the account, and nothing else. It is of no use without key.jwk, beside which it goes.",
  flags: [dataFlag],
  async run({ args, out }) {
    const body = { account: args.at(0), node_id: args.at(1) };
    out(JSON.stringify(await askService(args.get("data"), "POST", "/bindings", body)));
  },
};

export const accountsGrant: Command = {
  name: "accounts grant",
  positionals: ["ACCOUNT", "NODE_ID", "KID"],
  summary: "Grants a node another key and prints grant.json: for a key that is lost, stolen or revoked.",
  details:
    "KID is what `agent identity init` prints for a fresh key; the node keeps its id, its name and what it has earned. grant.json\n" +
    "goes beside that key.jwk and the node's binding.json. The key before is void when the new one has registered.",
  flags: [
    dataFlag,
    { name: "generation", value: "N", help: "number of the grant; default: one more than the node's" },
  ],
  async run({ args, out }) {
    const given = args.find("generation");
    if (given !== undefined && !/^[1-9]\d{0,14}$/.test(given))
      throw new CommandError("usage", `--generation: ${given} is no number from 1 on`);
    const body = {
      account: args.at(0),
      node_id: args.at(1),
      kid: args.at(2),
      generation: given === undefined ? null : Number(given),
    };
    out(JSON.stringify(await askService(args.get("data"), "POST", "/grants", body)));
  },
};

export const apikeysAdd: Command = {
  name: "apikeys add",
  positionals: ["CONSUMER"],
  summary: "Makes an API key for a consumer and prints it, once.",
  details: "Only its hash is kept. A consumer may have several.",
  flags: [dataFlag],
  async run({ args, out }) {
    const answer = await askService(args.get("data"), "POST", "/apikeys", { consumer: args.at(0) });
    out(fieldOf(answer, "key"));
  },
};

export const status: Command = {
  name: "status",
  positionals: [],
  summary: "Says whether the service can do its work, and if not why.",
  flags: [dataFlag],
  async run({ args, out }) {
    out(JSON.stringify(await askService(args.get("data"), "GET", "/status"), null, 2));
  },
};

export const nodesList: Command = {
  name: "nodes list",
  positionals: [],
  summary: "Lists the registered nodes.",
  flags: [dataFlag, jsonFlag],
  async run({ args, out }) {
    const nodes = (await askService(args.get("data"), "GET", "/nodes")) as readonly NodeView[];
    if (args.has("json")) {
      out(JSON.stringify(nodes, null, 2));
      return;
    }
    out(
      table(
        [
          "NODE",
          "ACCOUNT",
          "CONNECTED",
          "SINCE",
          "CONFIG",
          "MODELS",
          "JOBS",
          "COMMITTED",
          "BANNED",
          "KEY",
          "GENERATION",
          "CONFLICT",
        ],
        nodes.map((node) => [
          node.id,
          node.account,
          node.connected ? "yes" : "no",
          node.since,
          node.config?.slice(7, 19) ?? "-",
          node.models.join(",") || "-",
          String(node.jobs),
          String(node.committed),
          node.banned ?? "-",
          node.revoked ? "revoked" : node.kid.slice(0, 12),
          String(node.generation),
          node.conflict ?? "-",
        ]),
      ),
    );
  },
};

export const nodesBan: Command = {
  name: "nodes ban",
  positionals: ["ID"],
  summary: "Bans a node: its session is closed, its jobs go elsewhere, it may not come back.",
  flags: [
    dataFlag,
    {
      name: "reason",
      value: "TEXT",
      help: "why; the node's owner sees it",
      default: "banned by the network",
    },
  ],
  async run({ args, out }) {
    await askService(args.get("data"), "POST", "/nodes/ban", { id: args.at(0), reason: args.get("reason") });
    out(`banned ${args.at(0)}`);
  },
};

export const nodesUnban: Command = {
  name: "nodes unban",
  positionals: ["ID"],
  summary: "Lets a banned node in again.",
  flags: [dataFlag],
  async run({ args, out }) {
    await askService(args.get("data"), "POST", "/nodes/ban", { id: args.at(0), reason: null });
    out(`unbanned ${args.at(0)}`);
  },
};

export const nodesRevoke: Command = {
  name: "nodes revoke",
  positionals: ["ID"],
  summary: "Makes a node's key void: its session is closed, its jobs go elsewhere.",
  details: "For a key that may be stolen. The node comes back with another key and `io accounts grant`.",
  flags: [dataFlag],
  async run({ args, out }) {
    const answer = await askService(args.get("data"), "POST", "/nodes/revoke", { id: args.at(0) });
    out(
      `revoked key ${fieldOf(answer, "kid")} of ${args.at(0)} (generation ${fieldOf(answer, "generation")})`,
    );
  },
};

export const jobsList: Command = {
  name: "jobs list",
  positionals: [],
  summary: "Lists jobs, newest first.",
  flags: [
    dataFlag,
    { name: "state", value: "STATE", help: "only jobs in this state, such as COMMITTED or DEAD" },
    { name: "consumer", value: "ID", help: "only jobs of this consumer" },
    { name: "limit", value: "N", help: "at most so many", default: "100" },
    jsonFlag,
  ],
  async run({ args, out }) {
    const query = new URLSearchParams({ limit: args.get("limit") });
    for (const name of ["state", "consumer"]) {
      const value = args.find(name);
      if (value !== undefined) query.set(name, value);
    }
    const jobs = (await askService(
      args.get("data"),
      "GET",
      `/jobs?${query.toString()}`,
    )) as readonly JobView[];
    if (args.has("json")) {
      out(JSON.stringify(jobs, null, 2));
      return;
    }
    out(
      table(
        ["JOB", "STATE", "MODE", "ATTEMPT", "MODEL", "CONSUMER", "CREATED", "BYTES", "TOKENS", "ERROR"],
        jobs.map((job) => [
          job.id,
          job.state,
          job.mode,
          String(job.attempt),
          job.model,
          job.consumer,
          job.createdAt,
          String(job.relayedBytes),
          String(job.completionTokens),
          job.error?.slice(0, 80) ?? "-",
        ]),
      ),
    );
  },
};

export const jobsShow: Command = {
  name: "jobs show",
  positionals: ["JOB"],
  summary:
    "Shows one job with its receipt. JOB is the `x-request-id` of the client's answer, or the id of an asynchronous job.",
  flags: [dataFlag, jsonFlag],
  async run({ args, out }) {
    out(
      JSON.stringify(
        await askService(args.get("data"), "GET", `/jobs/${encodeURIComponent(args.at(0))}`),
        null,
        2,
      ),
    );
  },
};

export const receiptsExport: Command = {
  name: "receipts export",
  positionals: ["ACCOUNT"],
  summary: "Prints an account's countersigned receipts, one compact JWS a line, from the first on.",
  flags: [dataFlag],
  async run({ args, out }) {
    const account = args.at(0);
    for (let from = 1; ; from += receiptPage) {
      const query = new URLSearchParams({ account, from: String(from) });
      const rows = (await askService(
        args.get("data"),
        "GET",
        `/receipts?${query.toString()}`,
      )) as readonly ReceiptRow[];
      for (const row of rows) out(row.countersign);
      if (rows.length < receiptPage) return;
    }
  },
};

export const receiptsVerify: Command = {
  name: "receipts verify",
  positionals: ["FILE"],
  summary:
    "Checks an exported chain: every countersignature, and that none is missing. Needs no running service.",
  flags: [{ ...dataFlag, help: "data folder whose service.jwk has signed" }],
  run({ args, out }) {
    const chain = readText(args.at(0))
      .split("\n")
      .filter((line) => line !== "");
    try {
      const links = verifyChain(chain, readKey(serviceKeyPath(args.get("data"))));
      const tokens = links.reduce((sum, { metered }) => sum + metered.completion_tokens, 0);
      out(`${links.length} receipts, ${tokens} completion tokens: the chain is whole`);
    } catch (error) {
      throw new CommandError("refused", `${args.at(0)}: ${messageOf(error)}`);
    }
  },
};
