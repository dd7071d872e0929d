import { beforeEach, describe, expect, it } from "vitest";
import type { KeptResult } from "../../../src/agent/jobs/kept-result.ts";
import { Results, ResultsError } from "../../../src/agent/jobs/results.ts";
import { jobIdField } from "../../../src/protocol/fields.ts";
import { generateKey, importPrivateKey } from "../../../src/protocol/keys.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";
import { testIdentity, TestNetwork } from "../fixture/network.ts";

const network = new TestNetwork();
const identity = testIdentity(network);
const { key } = identity;
const next = importPrivateKey(generateKey());
const { digest } = network.config();
const dir = "/state/results";
const limits = { count: 3, bytes: 1_000, each: 500 };

const kept = (name: string, text = `output of ${name}`): KeptResult => {
  const job = jobIdField.parse(`job-${name}`);
  const usage = { prompt_tokens: 3, completion_tokens: 5 };
  return {
    ended: {
      job,
      attempt: 2,
      token: Buffer.alloc(16, 1).toString("base64url"),
      status: 200,
      usage,
      receipt: {
        network: network.name,
        job,
        attempt: 2,
        node_id: identity.nodeId,
        account: "acme",
        consumer: "someone",
        model: "m1",
        config_digest: digest,
        input_sha256: "1".repeat(64),
        output_sha256: "2".repeat(64),
        ...usage,
        duration_ms: 7,
        outcome: "completed",
        time: 1,
      },
    },
    output: Buffer.from(text),
  };
};
const names = (results: readonly KeptResult[]) => results.map(({ ended }) => ended.job).toSorted();

let ports: FakePorts;
let changes: number;
const make = (): Results => new Results(ports, dir, limits, () => changes++);
const opened = async (...holders: (typeof key)[]): Promise<Results> => {
  const results = make();
  await results.open(holders.length > 0 ? holders : [key]);
  return results;
};

beforeEach(() => {
  ports = fakePorts();
  changes = 0;
});

describe("results of durable jobs", () => {
  it("are there for the next process, byte for byte, until they are forgotten", async () => {
    const results = await opened();
    const output = "línea\n{}\n\n".repeat(20);
    await results.keep(kept("00000001", output));
    await results.keep(kept("00000002"));
    const again = await make().open([key]);
    expect(names(again)).toEqual(["job-00000001", "job-00000002"]);
    expect(again[0]?.ended).toEqual(kept("00000001").ended);
    expect(Buffer.from(again[0]?.output ?? []).toString()).toBe(output);
    results.forget(kept("00000001").ended);
    expect(names(await make().open([key]))).toEqual(["job-00000002"]);
  });

  it("are nothing that the disk tells: neither text nor key stand in any file", async () => {
    await (await opened()).keep(kept("00000001", "a secret answer"));
    const disk = Buffer.concat([...ports.files.content.values()]).toString("latin1");
    expect(disk).not.toContain("secret");
    expect(disk).not.toContain("someone");
    expect(await make().open([next])).toEqual([]);
  });

  it("are readable with the next key once it is admitted, and then with that one alone", async () => {
    const results = await opened();
    await results.keep(kept("00000001"));
    await results.admit([key, next]);
    await results.keep(kept("00000002"));
    // The rollover is over: the old key is gone, and opens nothing any more.
    expect(names(await make().open([next]))).toHaveLength(2);
    expect(await make().open([key])).toEqual([]);
  });

  it("are readable after a year of rollovers in one process", async () => {
    const results = await opened();
    await results.keep(kept("00000001"));
    let current = key;
    for (let rollover = 0; rollover < 40; rollover++) {
      const following = importPrivateKey(generateKey());
      await results.admit([current, following]);
      current = following;
    }
    expect(names(await make().open([current]))).toEqual(["job-00000001"]);
  });

  it("are not taken for readable with a key that the disk has refused", async () => {
    const results = await opened();
    await results.keep(kept("00000001"));
    ports.files.failing = true;
    await expect(results.admit([key, next])).rejects.toThrow(ResultsError);
    ports.files.failing = false;
    await results.admit([key, next]);
    expect(names(await make().open([next]))).toEqual(["job-00000001"]);
  });

  it("of another identity are put aside, and new ones are kept", async () => {
    await (await opened()).keep(kept("00000001"));
    const results = await opened(next);
    expect(results.size).toBe(0);
    expect(await ports.files.list(`${dir}/aside`)).toEqual(["key", "job-00000001.2"]);
    await results.keep(kept("00000002"));
    expect(names(await make().open([next]))).toEqual(["job-00000002"]);
  });

  it("that are damaged, short, swapped or of another name are put aside; the others are told", async () => {
    const results = await opened();
    await results.keep(kept("00000001"));
    await results.keep(kept("00000002"));
    await results.keep(kept("00000003"));
    const { content } = ports.files;
    const sound = content.get(`${dir}/job-00000001.2`) ?? Buffer.alloc(0);
    const damaged = Buffer.from(sound);
    damaged[40] = (damaged[40] ?? 0) ^ 1;
    content.set(`${dir}/job-00000001.2`, damaged);
    content.set(`${dir}/job-00000002.2`, sound);
    content.set(`${dir}/job-00000004.1`, Buffer.alloc(3));
    content.set(`${dir}/.job-00000005.1.new`, Buffer.alloc(3));
    const again = make();
    expect(names(await again.open([key]))).toEqual(["job-00000003"]);
    expect(again.problem).toBeUndefined();
    expect((await ports.files.list(`${dir}/aside`)).toSorted()).toEqual([
      "job-00000001.2",
      "job-00000002.2",
      "job-00000004.1",
    ]);
    expect(content.has(`${dir}/.job-00000005.1.new`)).toBe(false);
  });

  it("that cannot be read stay where they are, and the others are told", async () => {
    const results = await opened();
    await results.keep(kept("00000001"));
    await results.keep(kept("00000002"));
    ports.files.unreadable = `${dir}/job-00000001.2`;
    expect(names(await make().open([key]))).toEqual(["job-00000002"]);
    ports.files.unreadable = undefined;
    expect(await make().open([key])).toHaveLength(2);
  });

  it("are as many as the limits say: count, and bytes", async () => {
    const results = await opened();
    expect(results.refusal(2)).toBeUndefined();
    expect(results.refusal(3)).toMatch(/^0 results wait .* 3 jobs run: the node keeps 3$/);
    await results.keep(kept("00000001", "x".repeat(501)));
    expect(results.refusal(0)).toMatch(/^501 bytes of results wait/);
    await expect(results.keep(kept("00000002", "x".repeat(500)))).rejects.toThrow(ResultsError);
    results.forget(kept("00000001").ended);
    expect(results.refusal(0)).toBeUndefined();
    await results.keep(kept("00000002", "x".repeat(500)));
  });
});

describe("a full disk", () => {
  it("refuses with the reason, keeps what it has, and is tried again", async () => {
    const results = await opened();
    await results.keep(kept("00000001"));
    ports.files.failing = true;
    await expect(results.keep(kept("00000002"))).rejects.toThrow(/ENOSPC/);
    expect(results.problem).toMatch(/^results cannot be kept on disk: ENOSPC/);
    expect(results.refusal(0)).toBe(results.problem);
    expect(changes).toBe(1);
    ports.clock.advance(10_000);
    await settled();
    expect(results.problem).toBeDefined();
    ports.files.failing = false;
    ports.clock.advance(10_000);
    await settled();
    expect(results.problem).toBeUndefined();
    expect(changes).toBeGreaterThan(1);
    await results.keep(kept("00000002"));
    expect(await make().open([key])).toHaveLength(2);
  });

  it("from the beginning makes no key, and so none that is lost", async () => {
    ports.files.failing = true;
    const results = await opened();
    expect(results.refusal(0)).toMatch(/ENOSPC/);
    await expect(results.keep(kept("00000001"))).rejects.toThrow(/ENOSPC/);
    ports.files.failing = false;
    ports.clock.advance(10_000);
    await settled();
    await results.keep(kept("00000001"));
    expect(await make().open([key])).toHaveLength(1);
  });
});

/** Lets everything that waits for a promise of memory go on. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await Promise.resolve();
}
