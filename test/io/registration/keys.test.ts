import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { receiptKeys } from "../../../src/io/nodes.ts";
import type { Change } from "../../../src/io/store/port.ts";
import type { AccountKey } from "../../../src/protocol/binding.ts";
import { paths } from "../../../src/protocol/http.ts";
import { generateKey, importPrivateKey, type NodeId } from "../../../src/protocol/keys.ts";
import { keyOf, RegistrationWorld } from "./world.ts";

const [first, second, other] = [keyOf("node"), keyOf("next"), keyOf("other-node")];
const fresh = () => importPrivateKey(generateKey());
const nodeId = String(first.kid) as NodeId;

let world: RegistrationWorld;
beforeEach(async () => {
  world = await RegistrationWorld.make();
  await world.register(first);
  await world.register(other);
});

/** A disk that takes its time over changes of one kind. */
function held(kind: Change["put"]): { written: () => void } {
  const disk = { written: () => {} };
  const write = world.store.write.bind(world.store);
  world.store.write = async (changes) => {
    if (changes.some(({ put }) => put === kind))
      await new Promise<void>((resolve) => (disk.written = resolve));
    await write(changes);
  };
  return disk;
}

describe("a key change", () => {
  const { steps } = JSON.parse(
    readFileSync(join(import.meta.dirname, "../../vectors/rollover.json"), "utf8"),
  ) as {
    readonly steps: readonly {
      readonly name: string;
      readonly verdict: string;
      readonly body: string;
      readonly kid: string;
      readonly http_seq: number;
    }[];
  };

  it("is taken and refused, one after another, as the vectors say", async () => {
    world.node(nodeId).httpSeq = 2;
    for (const { name, verdict, body, kid, http_seq } of steps) {
      const told = await world.post(paths.keyChange, body);
      expect(told.code, name).toBe(verdict);
      if (verdict === "valid") expect(told, name).toMatchObject({ status: 200, kid, httpSeq: http_seq });
      expect(world.node(nodeId), name).toMatchObject({ httpSeq: http_seq, key: { kid } });
      const kept = (await world.restarted()).get(nodeId);
      expect(kept?.key.kid, name).toBe(kid);
    }
  });

  it("leaves the receipts of the key before good, and its requests void", async () => {
    await world.change(first, first, second, 1);
    const node = world.node(nodeId);
    expect(receiptKeys(node).map(({ kid }) => kid)).toEqual([second.kid, first.kid]);
    expect([world.nodes.byKey(first.kid), world.nodes.byKey(second.kid)]).toEqual([undefined, node]);
    expect((await world.register(first)).code).toBe("unknown_key");
  });

  it("is one at a time: the second, while the first is being written, is told to ask again", async () => {
    const disk = held("node-key");
    const one = world.change(first, first, second, 1);
    await expect.poll(() => world.node(nodeId).changingKey).toBe(true);
    expect((await world.change(first, first, fresh(), 2)).code).toBe("sequence");
    disk.written();
    expect((await one).code).toBe("valid");
  });

  it("is refused to a node that has had a thousand keys, until its account grants it one", async () => {
    const node = world.node(nodeId);
    node.former = Array.from({ length: 1024 }, () => ({ key: fresh(), generation: 0 }));
    expect((await world.change(first, first, second, 1)).code).toBe("not_allowed");
    expect(node.key.kid).toBe(first.kid);
    expect((await world.register(first, second, world.grant(first, second, 1))).code).toBe("valid");
    expect((await world.change(first, second, fresh(), 2)).code).toBe("valid");
  });

  it("cannot take the node's numbers from it: a seq far above the last is refused", async () => {
    const told = await world.change(first, first, second, Number.MAX_SAFE_INTEGER);
    expect(told).toMatchObject({ code: "sequence", httpSeq: 0 });
    expect((await world.change(first, first, second, 2 ** 20)).code).toBe("valid");
  });

  it("is told to nobody before it is on the disk", async () => {
    const disk = held("node-key");
    const told: string[] = [];
    world.nodes.watch((node) => told.push(node.key.kid));
    const answer = world.change(first, first, second, 1);
    await expect.poll(() => world.node(nodeId).changingKey).toBe(true);
    expect([world.node(nodeId).key.kid, told]).toEqual([first.kid, []]);
    disk.written();
    expect((await answer).code).toBe("valid");
    expect(told).toEqual([second.kid]);
  });

  it("of a banned node is refused", async () => {
    world.node(nodeId).banned = "because";
    expect((await world.change(first, first, second, 1)).code).toBe("not_allowed");
  });
});

describe("revocation", () => {
  it("makes the key void, also after a restart, and says which generation there is", async () => {
    expect(await world.revoke(nodeId)).toEqual({ status: 200, body: { node_id: nodeId, generation: 0 } });
    expect(world.nodes.byKey(first.kid)).toBeUndefined();
    expect((await world.restarted()).byKey(first.kid)).toBeUndefined();
    expect((await world.register(first)).code).toBe("unknown_key");
    expect((await world.change(first, first, second, 1)).code).toBe("unknown_key");
    expect((await world.revoke(nodeId)).status).toBe(200);
  });

  it("is refused to anyone but the node's account", async () => {
    const stranger = Buffer.alloc(32, 1) as AccountKey;
    expect((await world.revoke(nodeId, stranger)).status).toBe(401);
    expect((await world.revoke(fresh().kid)).status).toBe(404);
    expect((await world.revoke("..")).status).toBe(404);
    expect(world.nodes.byKey(first.kid)).toBeDefined();
  });

  it("overtakes a change that is being written", async () => {
    const disk = held("node-key");
    const change = world.change(first, first, second, 1);
    await expect.poll(() => world.node(nodeId).changingKey).toBe(true);
    await world.revoke(nodeId);
    disk.written();
    await change;
    expect([world.nodes.byKey(first.kid), world.nodes.byKey(second.kid)]).toEqual([undefined, undefined]);
  });
});

describe("a grant", () => {
  it("that is being written when the account revokes again lifts nothing", async () => {
    await world.revoke(nodeId);
    const disk = held("node-key");
    const granted = world.register(first, second, world.grant(first, second, 1));
    await expect.poll(() => world.node(nodeId).changingKey).toBe(true);
    await world.revoke(nodeId);
    disk.written();
    await granted;
    expect(world.nodes.byKey(second.kid)).toBeUndefined();
  });

  it("gives a revoked node another key, and its receipts before no longer count", async () => {
    await world.revoke(nodeId);
    const told = await world.register(first, second, world.grant(first, second, 1));
    expect(told).toMatchObject({ status: 200, kid: second.kid });
    const node = world.node(nodeId);
    expect(world.granted).toEqual([node]);
    expect(receiptKeys(node).map(({ kid }) => kid)).toEqual([second.kid]);
    const kept = (await world.restarted()).byKey(second.kid);
    expect(kept).toMatchObject({ nodeId, generation: 1, revocation: 0 });
    // Once more: the answer was lost.
    expect((await world.register(first, second, world.grant(first, second, 1))).status).toBe(200);
    expect(world.granted).toHaveLength(1);
  });

  it("of the same generation, or an older one, is refused", async () => {
    await world.register(first, second, world.grant(first, second, 2));
    const third = fresh();
    for (const generation of [1, 2])
      expect((await world.register(first, third, world.grant(first, third, generation))).code).toBe(
        "rollback",
      );
    await world.revoke(nodeId);
    expect((await world.register(first, second, world.grant(first, second, 2))).code).toBe("rollback");
    expect((await world.register(first, second, world.grant(first, second, 3))).code).toBe("valid");
  });

  it("does not bring a key back that was rolled over since", async () => {
    await world.register(first, second, world.grant(first, second, 1));
    const third = fresh();
    expect((await world.change(first, second, third, 1)).code).toBe("valid");
    expect((await world.register(first, second, world.grant(first, second, 1))).code).toBe("rollback");
    expect(world.node(nodeId)).toMatchObject({ key: { kid: third.kid }, generation: 1 });
  });

  it("registers a node that the service does not know", async () => {
    const [id, key] = [fresh(), fresh()];
    expect(await world.register(id, key, world.grant(id, key, 4))).toMatchObject({
      status: 200,
      kid: key.kid,
    });
    expect(world.node(String(id.kid) as NodeId)).toMatchObject({ generation: 4, key: { kid: key.kid } });
  });

  it("never gives a node the key of another", async () => {
    await world.change(first, first, second, 1);
    for (const taken of [first, second])
      expect((await world.register(other, taken, world.grant(other, taken, 1))).code).toBe("wrong_node");
    const unknown = fresh();
    expect((await world.register(unknown, first, world.grant(unknown, first, 1))).code).toBe("wrong_node");
  });

  it("that the account has not minted is refused", async () => {
    const grant = { ...world.grant(first, second, 1), generation: 7 };
    expect((await world.register(first, second, grant)).code).toBe("binding");
  });
});
