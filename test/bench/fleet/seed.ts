import { randomUUID } from "node:crypto";
import { request } from "undici";
import type { KubeObject } from "../../../src/kube/object.ts";
import { pods, type Secret, secrets } from "../../../src/kube/resources.ts";
import { nodes } from "../../../src/operator/context.ts";
import { encoded, entries } from "../../../src/operator/node/identity-secret.ts";
import { podInputsHash } from "../../../src/operator/node/inputs.ts";
import { mintBinding, parseAccountKey } from "../../../src/protocol/binding.ts";
import { generateKey, importPrivateKey } from "../../../src/protocol/keys.ts";
import { account, type FleetStand, namespace } from "./stand.ts";

/** Of the addresses of seeded pods in 127/8: runs side by side on one machine hardly ever meet. */
const octet = 120 + Math.floor(Math.random() * 80);

/** Nodes that are put into etcd at once. */
const parallel = 8;

/**
 * Makes nodes `chat-<from>` up to `chat-<to − 1>` of pool `chat` as copies of `chat-0`, which serves: node, pod and Secret, each with a
 * key of its own, straight into etcd as the API server would have stored them: how long it takes to make them by way of the API server is
 * what `fleet-create` finds out.
 */
export async function seedNodes(stand: FleetStand, from: number, to: number): Promise<void> {
  const { client, bed } = stand;
  const accountKey = parseAccountKey(stand.accountKey);
  if (!accountKey) throw new Error("the stand has no account key");
  const name = "chat-0";
  const [node, pod, secret] = await Promise.all([
    client.get(nodes, { namespace, name }),
    client.get(pods, { namespace, name }),
    client.get<Secret>(secrets, { namespace, name: `${name}-identity` }),
  ]);
  const host = pod.spec?.nodeName ?? "";
  const address = pod.status?.podIP ?? "";
  const nodeId = node.status?.nodeId ?? "";
  const copyOf = (at: number) => {
    const jwk = generateKey();
    const { kid } = importPrivateKey(jwk);
    // The first key names the node.
    const id = String(kid) as Parameters<typeof mintBinding>[3];
    const binding = mintBinding(accountKey, "testnet", account, id);
    const own = encoded({ [entries.key]: JSON.stringify(jwk), [entries.binding]: JSON.stringify(binding) });
    const itself = { ...node, metadata: { ...node.metadata, name: `chat-${at}` } };
    const replaced: readonly (readonly [string, string])[] = [
      [name, `chat-${at}`],
      [node.metadata.uid, randomUUID()],
      [pod.metadata.uid, randomUUID()],
      [secret.metadata.uid, randomUUID()],
      [nodeId, String(id)],
      [podInputsHash(node, stand.shared), podInputsHash(itself, stand.shared)],
      [host, `host-${String(Math.floor(at / 8)).padStart(5, "0")}`],
      [address, `127.${octet}.${Math.floor(at / 250) % 250}.${1 + (at % 250)}`],
    ];
    const copy = (object: KubeObject): string => {
      const { resourceVersion: _version, ...metadata } = object.metadata;
      return replaced.reduce(
        (text, [before, after]) => (before === "" ? text : text.replaceAll(before, after)),
        JSON.stringify({ ...object, metadata }),
      );
    };
    return [
      [`resultity.com/resultitynodes/${namespace}/chat-${at}`, copy(node)],
      [`pods/${namespace}/chat-${at}`, copy(pod)],
      [`secrets/${namespace}/chat-${at}-identity`, copy(withData(secret, own))],
    ] as const;
  };
  let next = from;
  await Promise.all(
    Array.from({ length: parallel }, async () => {
      for (let at = next++; at < to; at = next++) await put(bed.etcd, copyOf(at));
    }),
  );
}

const withData = (secret: Secret, own: Record<string, string>): Secret => ({
  ...secret,
  data: { ...secret.data, ...own },
});

/** In one transaction, which is one revision: so of each kind there is one object only, as the API server has it. */
async function put(etcd: string, objects: readonly (readonly [string, string])[]): Promise<void> {
  const base64 = (text: string) => Buffer.from(text).toString("base64");
  const success = objects.map(([key, value]) => ({
    requestPut: { key: base64(`/registry/${key}`), value: base64(value) },
  }));
  const answer = await request(`${etcd}/v3/kv/txn`, { method: "POST", body: JSON.stringify({ success }) });
  const said = await answer.body.text();
  if (answer.statusCode !== 200) throw new Error(`etcd answers ${answer.statusCode}: ${said.slice(0, 300)}`);
}
