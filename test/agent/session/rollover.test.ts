import { beforeEach, describe, expect, it } from "vitest";
import { NodeKeys } from "../../../src/agent/node-keys.ts";
import { readIdentity } from "../../../src/agent/identity.ts";
import { KeyRollover } from "../../../src/agent/session/rollover.ts";
import { silentLogger } from "../../../src/lib/logger.ts";
import {
  generateKey,
  importPrivateKey,
  type PrivateJwk,
  type SigningKey,
} from "../../../src/protocol/keys.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { fakeRandom, MemoryFiles } from "../fixture/fakes.ts";
import { testIdentity, TestNetwork } from "../fixture/network.ts";

/** The loop alone: a folder in memory, and a service that says what a test wants. */
const network = new TestNetwork();
const identity = testIdentity(network);
const nextJwk = generateKey();
const next = importPrivateKey(nextJwk);
const { key: first } = identity;
const service = importPrivateKey(generateKey());

let files: MemoryFiles;
let clock: FakeClock;
let keys: NodeKeys;
let open: boolean;
/** What happened, in order. */
let done: string[];
/** How the service answers; undefined = it takes the change. */
let refusal: Error | undefined;
let rollover: KeyRollover;

const put = (name: string, jwk: PrivateJwk) => files.write(`/id/${name}`, JSON.stringify(jwk));
const nameOf = ({ kid }: SigningKey) => (kid === next.kid ? "next" : kid === first.kid ? "first" : "another");

beforeEach(async () => {
  files = new MemoryFiles();
  clock = new FakeClock();
  await put("key.jwk", identity.jwk);
  await files.write("/id/binding.json", JSON.stringify(identity.binding));
  await files.write("/id/root.json", JSON.stringify(network.rootStatement));
  ({ keys } = await readIdentity(files, "/id", network.name));
  open = true;
  done = [];
  refusal = undefined;
  const log = silentLogger;
  const http = { request: () => ({ abort: () => {}, pause: () => {}, resume: () => {} }) };
  const host = { cpus: 1, memoryMib: 1, freePort: () => Promise.resolve(1) };
  const transport = {
    dial: () => {
      throw new Error("not here");
    },
  };
  rollover = new KeyRollover(
    { files, clock, random: fakeRandom(), log, http, host, transport },
    {
      keys,
      dir: "/id",
      peer: () => (open ? { endpoint: "http://io.example", key: service } : undefined),
      admit: async (key) => void done.push(`admit ${nameOf(key)}`),
      change: async (_endpoint, _key, to) => {
        done.push(`ask for ${nameOf(to)}`);
        if (refusal) throw refusal;
      },
      changed: () => void done.push(`sign with ${nameOf(keys.current)}`),
    },
  );
});

const settle = () => new Promise((resolve) => setImmediate(resolve));
async function poke(): Promise<void> {
  rollover.poke();
  await settle();
}

describe("the rollover", () => {
  it("does nothing while there is no next key", async () => {
    await poke();
    expect(done).toEqual([]);
  });

  it("seals for the next key before it asks, and signs with it when it is answered", async () => {
    await put("next.jwk", nextJwk);
    await poke();
    expect(done).toEqual(["admit next", "ask for next", "sign with next"]);
    await put("key.jwk", nextJwk);
    await files.remove("/id/next.jwk");
    await poke();
    expect(done).toHaveLength(3);
    expect(keys.current.kid).toBe(next.kid);
  });

  it("waits for a session", async () => {
    open = false;
    await put("next.jwk", nextJwk);
    await poke();
    expect(done).toEqual([]);
    open = true;
    await poke();
    expect(keys.current.kid).toBe(next.kid);
  });

  it("asks again with the back-off until it is answered, and meanwhile keeps the old key", async () => {
    await put("next.jwk", nextJwk);
    refusal = new Error("HTTP 503");
    await poke();
    expect([done.length, keys.current.kid]).toEqual([2, first.kid]);
    await poke();
    expect(done).toHaveLength(2);
    refusal = undefined;
    clock.advance(1_000);
    await settle();
    expect(done.slice(2)).toEqual(["admit next", "ask for next", "sign with next"]);
  });

  it("keeps what it has while the folder is half changed, and follows when it is whole", async () => {
    await files.write("/id/next.jwk", "{");
    await poke();
    expect([done, keys.current.kid]).toEqual([[], first.kid]);
    await put("next.jwk", nextJwk);
    rollover.start();
    clock.advance(30_000);
    await settle();
    expect(keys.current.kid).toBe(next.kid);
    rollover.stop();
  });

  it("takes up a key that the account has granted in the place of the old one, and no other", async () => {
    const granted = generateKey();
    await put("key.jwk", granted);
    await poke();
    expect([done, keys.current.kid]).toEqual([[], first.kid]);
    const { network: name, account, node_id } = identity.binding;
    const grant = { network: name, account, node_id, kid: importPrivateKey(granted).kid, generation: 1 };
    await files.write("/id/grant.json", JSON.stringify({ ...grant, mac: identity.binding.mac }));
    await poke();
    expect(done).toEqual(["admit another", "sign with another"]);
  });
});
