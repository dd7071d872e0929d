/**
 * Opens many sessions and holds them; prints `open` when all are. Argument: JSON of a {@link SessionsAsked}.
 * A program of its own, so that its memory and CPU are not those of what it measures.
 */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { setTimeout as wait } from "node:timers/promises";
import { WebSocket } from "ws";
import { parseAccountKey } from "../../src/protocol/binding.ts";
import { parseStatement, trustRoot } from "../../src/protocol/config/root.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { ScriptedAgent } from "../io/fixture/agent.ts";

/** What is to be opened where. */
export type SessionsAsked = { readonly count: number; readonly url: string } & (
  | { readonly kind: "bare" }
  | {
      readonly kind: "service";
      readonly network: string;
      readonly rootFile: string;
      readonly account: string;
      readonly accountKey: string;
      readonly model: string;
      readonly config: ConfigDigest;
    }
);

async function openBare(url: string): Promise<unknown> {
  const socket = new WebSocket(url, { perMessageDeflate: false });
  await once(socket, "open");
  socket.send("x".repeat(500));
  await once(socket, "message");
  return socket;
}

/** Tries until there is something; what is refused or fails is tried again. */
async function patiently<T>(attempt: () => Promise<T | undefined>): Promise<T> {
  for (;;) {
    const got = await attempt().catch(() => undefined);
    if (got !== undefined) return got;
    await wait(500);
  }
}

function opener(asked: SessionsAsked): () => Promise<unknown> {
  if (asked.kind === "bare") return () => openBare(asked.url);
  const { url, network, account, model, config } = asked;
  const accountKey = parseAccountKey(asked.accountKey);
  if (!accountKey) throw new Error("not an account key");
  const root = trustRoot(parseStatement(readFileSync(asked.rootFile, "utf8"), "root"), network);
  return async () => {
    const agent = new ScriptedAgent({ url, root, account, accountKey, models: [model], config });
    // One address may register and dial only so often a second.
    const registered = async () => (await agent.register()).status === 200 || undefined;
    await patiently(registered);
    return patiently(() => agent.connect());
  };
}

const asked = JSON.parse(process.argv[2] ?? "") as SessionsAsked;
const open = opener(asked);
const held: unknown[] = [];
let left = asked.count;
const worker = async (): Promise<void> => {
  while (left-- > 0) held.push(await open());
};
await Promise.all(Array.from({ length: 16 }, worker));
console.log("open");
setInterval(() => held.length, 60_000);
