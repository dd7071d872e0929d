import { readFileSync } from "node:fs";
import { join } from "node:path";
import { randomBytes } from "node:crypto";
import { type FastifyInstance, fastify } from "fastify";
import { AccountRequests } from "../../../src/io/account-requests.ts";
import { Accounts } from "../../../src/io/accounts.ts";
import { NetworkConfig } from "../../../src/io/config/network-config.ts";
import { type KnownNode, Nodes } from "../../../src/io/nodes.ts";
import { RateLimit } from "../../../src/io/rate.ts";
import type { RegistrationParts } from "../../../src/io/registration/envelope.ts";
import { Nonces } from "../../../src/io/registration/nonces.ts";
import { revokeRoute } from "../../../src/io/registration/revoke.ts";
import { registrationRoutes } from "../../../src/io/registration/routes.ts";
import { ServiceKey } from "../../../src/io/service-key.ts";
import { MemoryStore } from "../../../src/io/store/memory.ts";
import { silentLogger } from "../../../src/lib/logger.ts";
import {
  type AccountKey,
  accountAuthorization,
  type Grant,
  mintBinding,
  mintGrant,
} from "../../../src/protocol/binding.ts";
import { trustRoot } from "../../../src/protocol/config/root.ts";
import type { Statement } from "../../../src/protocol/config/statement.ts";
import {
  envelopeContentType,
  nonceSchema,
  openAnswer,
  paths,
  sealRegistration,
} from "../../../src/protocol/http.ts";
import {
  importPrivateKey,
  type NodeId,
  type PrivateJwk,
  type SigningKey,
} from "../../../src/protocol/keys.ts";
import { sealKeyChange } from "../../../src/protocol/rollover.ts";
import { FakeClock } from "../../lib/fake-clock.ts";

const vector = (name: string): unknown =>
  JSON.parse(readFileSync(join(import.meta.dirname, `../../vectors/${name}.json`), "utf8"));

const keysFile = vector("keys") as {
  readonly keys: readonly { readonly name: string; readonly jwk: PrivateJwk }[];
  readonly account_key: string;
};
const sessionFile = vector("session") as { readonly now: number; readonly root: Statement };
const delegations = vector("delegations") as { readonly cases: readonly { readonly statement: Statement }[] };

/** A key of the vectors. */
export function keyOf(name: string): SigningKey {
  const found = keysFile.keys.find((key) => key.name === name);
  if (!found) throw new Error(`no key ${name} in keys.json`);
  return importPrivateKey(found.jwk);
}

export const accountKey = Buffer.from(keysFile.account_key, "base64url") as AccountKey;
export const account = "acme";
export const network = "testnet";
export const baseUrl = "http://127.0.0.1:8480";

/** What a request was answered with: `code` is `valid`, or that of the refusal. */
export interface Told {
  readonly status: number;
  readonly code: string;
  /** Of a signed answer. */
  readonly kid?: string | undefined;
  readonly httpSeq?: number;
}

/** The HTTP side of nodes with the vectors' keys, on a store in memory. */
export class RegistrationWorld {
  readonly clock = new FakeClock(sessionFile.now);
  readonly store = new MemoryStore();
  readonly nodes = new Nodes();
  readonly granted: KnownNode[] = [];
  readonly app: FastifyInstance = fastify();
  readonly service = keyOf("service");

  private constructor(config: NetworkConfig) {
    const { clock, store, nodes, service } = this;
    const accounts = new Accounts([{ id: account, key: accountKey.toString("base64url") }]);
    const serviceKey = new ServiceKey(service);
    const [delegation] = delegations.cases;
    if (!delegation) throw new Error("delegations.json is empty");
    serviceKey.delegate(delegation.statement, trustRoot(sessionFile.root, network), clock.now());
    const rate = () => new RateLimit({ burst: 1_000, perSecond: 1_000 }, clock);
    const parts: RegistrationParts = {
      clock,
      log: silentLogger,
      config,
      nodes,
      accounts,
      store,
      serviceKey,
      nonces: new Nonces({ bytes: (count) => randomBytes(count).toString("base64url") }),
      rates: { ip: rate(), node: rate() },
      baseUrls: [baseUrl],
      granted: (node) => this.granted.push(node),
    };
    registrationRoutes(this.app, parts);
    const accountRequests = new AccountRequests(accounts, clock);
    const revoke = async (id: NodeId) => {
      nodes.revoke(this.node(id));
      await store.write([{ put: "revoke", nodeId: id }]);
    };
    revokeRoute(this.app, { nodes, store, accountRequests, revoke });
  }

  static async make(): Promise<RegistrationWorld> {
    const store = new MemoryStore();
    return new RegistrationWorld(new NetworkConfig(network, store, await store.load()));
  }

  node(id: NodeId): KnownNode {
    const node = this.nodes.get(id);
    if (!node) throw new Error(`no node ${id}`);
    return node;
  }

  /** A second service on what the store has: what a crash leaves. */
  async restarted(): Promise<Nodes> {
    const nodes = new Nodes();
    for (const row of (await this.store.load()).nodes) nodes.add(row, this.clock.now());
    return nodes;
  }

  async post(path: string, body: string): Promise<Told> {
    const headers = { "content-type": envelopeContentType };
    const answer = await this.app.inject({ method: "POST", url: path, headers, body });
    if (answer.statusCode === 400)
      return { status: 400, code: answer.json<{ error: { code: string } }>().error.code };
    const { error, kid, http_seq: httpSeq } = openAnswer(answer.body, this.service);
    return { status: answer.statusCode, code: error?.code ?? "valid", kid, httpSeq };
  }

  /** Registers node `first`, speaking with `key`. */
  async register(first: SigningKey, key: SigningKey = first, grant?: Grant): Promise<Told> {
    const { nonce } = nonceSchema.parse((await this.app.inject({ url: paths.nonce })).json());
    const nodeId = String(first.kid) as NodeId;
    const said = {
      binding: mintBinding(accountKey, network, account, nodeId),
      ...(grant && { grant }),
      agent_version: "0.1.0",
      time: this.clock.now(),
    };
    return this.post(paths.register, sealRegistration(said, key, `${baseUrl}${paths.register}`, nonce));
  }

  grant(first: SigningKey, key: SigningKey, generation: number): Grant {
    const nodeId = String(first.kid) as NodeId;
    return mintGrant(accountKey, { network, account, node_id: nodeId, kid: key.kid, generation });
  }

  change(first: SigningKey, from: SigningKey, to: SigningKey, seq: number): Promise<Told> {
    const nodeId = String(first.kid) as NodeId;
    const change = { nodeId, from, to, time: this.clock.now() };
    return this.post(paths.keyChange, sealKeyChange(change, `${baseUrl}${paths.keyChange}`, seq));
  }

  /** Revokes with the account's authorization; resolves to HTTP status and body. */
  async revoke(id: string, key = accountKey): Promise<{ status: number; body: unknown }> {
    const path = paths.revoke(id);
    const nonce = randomBytes(32).toString("base64url");
    const authorization = accountAuthorization(key, {
      account,
      method: "POST",
      path,
      time: this.clock.now(),
      nonce,
    });
    const answer = await this.app.inject({ method: "POST", url: path, headers: { authorization } });
    return { status: answer.statusCode, body: answer.json<unknown>() };
  }
}
