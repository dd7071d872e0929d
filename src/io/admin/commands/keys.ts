import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { makeFolderNow } from "../../../lib/folders.ts";
import { ProtocolError } from "../../../protocol/codes.ts";
import { generateKey, importPrivateKey, type SigningKey } from "../../../protocol/keys.ts";
import { signDelegation } from "../../../protocol/config/delegation.ts";
import { signRoot, trustRoot } from "../../../protocol/config/root.ts";
import { askService, socketPath } from "../client.ts";
import { type Command, CommandError, dataFlag, durationOf } from "../command.ts";
import { keyText, readKey, readStatement, writeNew } from "../key-files.ts";
import { serviceKeyPath, writeOffline } from "../data-folder.ts";

const sets = [
  { role: "root", count: 3, threshold: 2 },
  { role: "config", count: 3, threshold: 2 },
  { role: "delegation", count: 1, threshold: 1 },
] as const;

/** Makes the keys of a new network. */
export const keysInit: Command = {
  name: "keys init",
  positionals: [],
  summary: "Makes the keys of a network and its root: root 2 of 3, config 2 of 3, delegation 1 of 1.",
  details:
    "Move each key file to where its holder keeps it: root keys offline, no two of a role in one place, the\n" +
    "delegation key on another machine than the service. root.json is public; users configure it as `trust`.",
  flags: [
    { name: "network", value: "NAME", help: "name of the network", required: true },
    { name: "out", value: "DIR", help: "folder for the key files; made if it is not there", required: true },
  ],
  run({ args, out, now: _now }) {
    const folder = args.get("out");
    const network = args.get("network");
    makeFolderNow(folder, 0o700);
    const taken = readdirSync(folder).find((name) => name.endsWith(".jwk") || name === "root.json");
    if (taken !== undefined)
      throw new CommandError("refused", `${join(folder, taken)} exists: --out must be a folder without keys`);
    const made = sets.map(({ role, count, threshold }) => ({
      role,
      threshold,
      keys: Array.from({ length: count }, () => generateKey()),
    }));
    const roleOf = (name: (typeof sets)[number]["role"]) => {
      const set = made.find(({ role }) => role === name);
      if (!set) throw new CommandError("refused", `no keys for role ${name}`);
      return { threshold: set.threshold, kids: set.keys.map((jwk) => importPrivateKey(jwk).kid) };
    };
    const root = signRoot(
      {
        network,
        version: 1,
        keys: made.flatMap(({ keys }) => keys.map(({ kty, crv, x }) => ({ kty, crv, x }))),
        roles: { root: roleOf("root"), config: roleOf("config"), delegation: roleOf("delegation") },
      },
      (made[0]?.keys ?? []).map((jwk) => importPrivateKey(jwk)),
    );
    try {
      trustRoot(root, network);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      throw new CommandError(
        "usage",
        `--network: ${network} is no name of a network: letters, digits, . _ -`,
      );
    }
    for (const { role, keys } of made) {
      keys.forEach((jwk, at) => {
        const path = join(folder, keys.length === 1 ? `${role}.jwk` : `${role}-${at + 1}.jwk`);
        writeNew(path, keyText(jwk), 0o600);
        out(path);
      });
    }
    const path = join(folder, "root.json");
    writeNew(path, `${JSON.stringify(root)}\n`, 0o644);
    out(path);
  },
};

/** Lends the network's voice to the service's key. */
export const keysDelegate: Command = {
  name: "keys delegate",
  positionals: [],
  summary: "Signs a delegation for the service's key and gives it, with the root, to the service.",
  details:
    "Run it before the first `io serve` and then again before --ttl is over (a timer, once in half of it). The service\n" +
    "need not run: then both wait in its data folder.",
  flags: [
    { name: "keys", value: "DIR", help: "folder with root.json and delegation.jwk", required: true },
    dataFlag,
    { name: "ttl", value: "24h", help: "life of the delegation", default: "24h" },
  ],
  async run({ args, out, now }) {
    const keys = args.get("keys");
    const data = args.get("data");
    const expires = now() + durationOf(args.get("ttl"), "ttl");
    const root = readStatement(join(keys, "root.json"), "root");
    const trusted = trustRoot(root);
    const signer = delegationKey(keys, (kid) => trusted.roles.delegation.keys.has(kid));
    const service = ensureServiceKey(data);
    const delegation = signDelegation({ network: trusted.network, key: service.jwk, expires }, [signer]);
    if (existsSync(socketPath(data))) {
      try {
        await askService(data, "POST", "/delegate", { root, delegation });
        out(`delegated to the running service until ${new Date(expires).toISOString()}`);
        return;
      } catch (error) {
        // A socket file without a service is what a killed one leaves.
        if (!(error instanceof CommandError) || error.code !== "unavailable") throw error;
      }
    }
    writeOffline(data, { root, delegation });
    out(`delegated until ${new Date(expires).toISOString()}; the service takes it when it starts`);
  },
};

function delegationKey(folder: string, trusted: (kid: SigningKey["kid"]) => boolean): SigningKey {
  for (const name of readdirSync(folder)) {
    if (!name.startsWith("delegation") || !name.endsWith(".jwk")) continue;
    const key = readKey(join(folder, name));
    if (trusted(key.kid)) return key;
  }
  throw new CommandError("refused", `${folder}: no delegation*.jwk whose key root.json names for delegation`);
}

/** The service's own key; made here when the service has never run. */
function ensureServiceKey(data: string): SigningKey {
  makeFolderNow(data, 0o700);
  const path = serviceKeyPath(data);
  if (!existsSync(path)) writeNew(path, keyText(generateKey()), 0o600);
  return readKey(path);
}
