import { expect, it } from "vitest";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import { readLoads } from "../../../src/operator/pool/loads.ts";
import { generateKey, importPrivateKey } from "../../../src/protocol/keys.ts";
import { type AgentStatus, sealStatus } from "../../../src/protocol/status.ts";
import { nodeOf } from "../node/world.ts";

const names = ["idle", "busy", "silent", "forged", "new"] as const;
type Name = (typeof names)[number];

it("knows how busy those are who say so with their own key, and nothing of the others", async () => {
  const keys = new Map(names.map((name) => [name as string, generateKey()]));
  const stranger = importPrivateKey(generateKey());
  const ipOf = (name: Name) => (name === "new" ? undefined : `10.0.0.${names.indexOf(name)}`);
  const client = {
    find: async (_resource: unknown, { name }: { name: string }) => {
      const data = JSON.stringify(keys.get(name.replace("-identity", "")));
      return { metadata: { name }, data: { "key.jwk": Buffer.from(data).toString("base64") } };
    },
  };
  const pods = new Map(names.map((name) => [`inference/${name}`, { status: { podIP: ipOf(name) } }]));
  const asked: string[] = [];
  const answer = async (ip: string, nonce: string): Promise<string> => {
    asked.push(ip);
    const name = names[Number(ip.split(".")[3])] ?? "new";
    if (name === "silent") throw new Error("timeout");
    const jwk = keys.get(name);
    if (!jwk) throw new Error(`no key of ${name}`);
    const key = importPrivateKey(jwk);
    return sealStatus(statusOf(nonce, key.kid, name === "busy" ? 3 : 0), name === "forged" ? stranger : key);
  };
  const nodes: readonly ResultityNode[] = names.map((name) => nodeOf({}, name));
  const context = { client, caches: { pods: { store: pods } } } as never;
  const loads = await readLoads(context, nodes, new AbortController().signal, answer);
  expect(Object.fromEntries(loads)).toEqual({ idle: 0, busy: 3 });
  expect(asked).toHaveLength(4);
});

function statusOf(nonce: string, kid: string, active: number): AgentStatus {
  return {
    nonce,
    time: 0,
    node_id: kid as AgentStatus["node_id"],
    instance: "A".repeat(22),
    desired_revision: 1,
    report: {
      agent_version: "0.1.0",
      engine: { type: "openai", version: "1.0", image: null, health: "healthy" },
      hardware: { cpus: 1, memory_mib: 1, gpus: [] },
      config: { applied: null, target: null, staged: null, release_sequence: 1 },
      models: { installed: [], active: [] },
      load: { slots: 4, active, accepting: true },
      subclouds: [],
    },
    config_error: null,
    drain: { state: "serving", jobs: active, since: null },
    session: { connected: true, since: null, epoch: 1, last_error: null },
  };
}
