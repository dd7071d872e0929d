import { beforeEach, describe, expect, it } from "vitest";
import { Models } from "../../../src/agent/models/models.ts";
import type { Appending, ModelDisk, ModelWorld } from "../../../src/agent/models/world.ts";
import { type Weights, weightsDigest } from "../../../src/protocol/config/weights.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";
import { makeFile, type MadeFile, named } from "../fixture/weights.ts";

/** A disk in memory, whose locks can be held by somebody else. */
class MemoryDisk implements ModelDisk {
  readonly #ports: FakePorts;
  readonly locked = new Set<string>();
  readonly taken: string[] = [];
  #changes = 0;
  readonly #marks = new Map<string, number>();

  constructor(ports: FakePorts) {
    this.#ports = ports;
  }

  get #content(): Map<string, Buffer> {
    return this.#ports.files.content;
  }

  stat(path: string) {
    const size = this.#content.get(path)?.length;
    return Promise.resolve(size === undefined ? undefined : { size, mtimeMs: this.#marks.get(path) ?? 0 });
  }

  usage(path: string) {
    const sizes = [...this.#content].map(([name, bytes]) => (name.startsWith(`${path}/`) ? bytes.length : 0));
    return Promise.resolve(sizes.reduce((sum, size) => sum + size, 0));
  }

  free = () => Promise.resolve(2 ** 40);
  writable = () => Promise.resolve(true);

  async *read(path: string) {
    yield await Promise.resolve(this.#content.get(path) ?? Buffer.alloc(0));
  }

  append(path: string, from: number): Promise<Appending> {
    let bytes = (this.#content.get(path) ?? Buffer.alloc(0)).subarray(0, from);
    this.#content.set(path, bytes);
    return Promise.resolve({
      write: (more: Uint8Array) => {
        bytes = Buffer.concat([bytes, more]);
        this.#content.set(path, bytes);
        return Promise.resolve();
      },
      finish: () => Promise.resolve(),
      close: () => Promise.resolve(),
    });
  }

  move(from: string, to: string) {
    this.#content.set(to, this.#content.get(from) ?? Buffer.alloc(0));
    this.#content.delete(from);
    this.#marks.set(to, ++this.#changes);
    return Promise.resolve();
  }

  changedAt = () => Promise.resolve(0);
  touch = () => Promise.resolve();

  lock(path: string, how: string) {
    if (this.locked.has(path)) return Promise.resolve(undefined);
    this.taken.push(how);
    return Promise.resolve({ release: () => void this.taken.push("release") });
  }
}

let ports: FakePorts;
let disk: MemoryDisk;
let models: Models;
let changes: number;
/** Bodies that the test feeds, by URL. */
let bodies: Map<string, (bytes: Uint8Array | undefined) => void>;
let opened: string[];

beforeEach(() => {
  ports = fakePorts();
  disk = new MemoryDisk(ports);
  bodies = new Map();
  opened = [];
  changes = 0;
  const world: ModelWorld = {
    disk,
    fetch: {
      open(url, from, signal) {
        opened.push(url);
        const waiting: (Uint8Array | undefined | Error)[] = [];
        let wake = () => {};
        const give = (item: Uint8Array | undefined | Error) => {
          waiting.push(item);
          wake();
        };
        bodies.set(url, give);
        signal.addEventListener("abort", () => give(new Error("aborted")));
        async function* body() {
          for (;;) {
            while (waiting.length === 0) await new Promise<void>((resolve) => (wake = resolve));
            const item = waiting.shift();
            if (item === undefined) return;
            if (item instanceof Error) throw item;
            yield item;
          }
        }
        return Promise.resolve({ from, size: undefined, body: body(), close: () => {} });
      },
    },
  };
  models = new Models(
    ports,
    world,
    { modelsDir: "/models", modelsMaxBytes: undefined, stateDir: "/state" },
    () => {
      changes++;
    },
  );
});

const weightsOf = (model: string, file: MadeFile): Weights => ({
  model,
  digest: weightsDigest(named(file)),
  files: named(file),
  sources: [`http://${model}`],
  total: file.size,
});
/** Moves the clock, and lets all that has been set going come to rest. */
async function settle(ms = 0): Promise<void> {
  await ports.clock.advanceAsync(ms, 250);
  for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
}
const stateOf = (weights: Weights) => models.view(weights)?.life.at;

const [fileA, fileB] = [makeFile("w", 1000), makeFile("w", 500)];
const [a, b] = [weightsOf("a", fileA), weightsOf("b", fileB)];

describe("the weights that an agent wants", () => {
  it("are told of at once when their state changes, and every 10 s when only bytes do", async () => {
    models.want([a], []);
    await settle();
    const give = bodies.get("http://a/w");
    give?.(fileA.bytes.subarray(0, 10));
    await settle();
    expect(models.view(a)).toMatchObject({ life: { at: "downloading", bytes: 10 }, bytes: 0 });
    const told = changes;
    for (let at = 10; at < 910; at += 10) {
      give?.(fileA.bytes.subarray(at, at + 10));
      await settle(250);
    }
    // 90 pieces in 22.5 s.
    expect(changes - told).toBe(2);
    expect(models.view(a)?.bytes).toBeLessThan(910);
    give?.(fileA.bytes.subarray(910));
    give?.(undefined);
    await settle();
    expect(models.view(a)).toMatchObject({ life: { at: "verified" }, bytes: 1000 });
    expect(models.ready([a])).toBe(true);
    expect(models.folders([a])).toEqual({ a: `/models/sha256/${a.digest}` });
  });

  it("are looked for at once, however long others take, and fetched one after the other", async () => {
    models.want([a, b], []);
    await models.looked();
    await settle();
    expect(opened).toEqual(["http://a/w"]);
    expect([stateOf(a), stateOf(b)]).toEqual(["downloading", "pending"]);
    bodies.get("http://a/w")?.(fileA.bytes);
    await settle();
    bodies.get("http://a/w")?.(undefined);
    await settle();
    expect(opened).toEqual(["http://a/w", "http://b/w"]);
    expect(models.ready([a])).toBe(true);
    expect(models.ready([a, b])).toBe(false);
  });

  it("are let go when they are no longer wanted, in mid-download too", async () => {
    models.want([a], []);
    await settle();
    bodies.get("http://a/w")?.(fileA.bytes.subarray(0, 10));
    await settle();
    models.want([b], []);
    await settle();
    expect(opened).toEqual(["http://a/w", "http://b/w"]);
    expect(models.view(a)).toBeUndefined();
    expect(disk.taken).toEqual(["exclusive", "release", "exclusive"]);
    bodies.get("http://b/w")?.(fileB.bytes);
    bodies.get("http://b/w")?.(undefined);
    await settle();
    expect(models.ready([b])).toBe(true);
    models.want([], []);
    expect(disk.taken.slice(2)).toEqual(["exclusive", "release", "shared", "release"]);
  });

  it("are awaited while another agent fetches them, and taken when it is done", async () => {
    const lock = `/models/sha256/${a.digest}.lock`;
    disk.locked.add(lock);
    ports.files.content.set(`/models/sha256/${a.digest}.parts/x`, Buffer.alloc(300));
    models.want([a], []);
    await settle(10_000);
    expect(models.view(a)).toMatchObject({ life: { at: "pending" }, bytes: 300 });
    expect(opened).toEqual([]);
    disk.locked.clear();
    await settle(3_000);
    expect(opened).toEqual(["http://a/w"]);
  });

  it("are fetched again when somebody has removed them", async () => {
    models.want([a], []);
    await settle();
    bodies.get("http://a/w")?.(fileA.bytes);
    bodies.get("http://a/w")?.(undefined);
    await settle();
    ports.files.content.delete(`/models/sha256/${a.digest}/w`);
    await settle(61_000);
    expect(models.ready([a])).toBe(false);
    expect(opened).toHaveLength(2);
  });

  it("that failed are tried again, at once when there is another place", async () => {
    const nowhere = { ...a, sources: [] };
    models.want([nowhere], []);
    await settle();
    expect(models.problem([nowhere])).toMatch(/no source/);
    models.want([a], []);
    await settle();
    expect(opened).toEqual(["http://a/w"]);
    expect(models.problem([a])).toBeUndefined();
  });

  it("do not hold up who asks when their disk hangs", async () => {
    disk.writable = () => new Promise(() => {});
    models.want([a], []);
    let looked = false;
    void models.looked().then(() => (looked = true));
    await settle(9_000);
    expect(looked).toBe(false);
    await settle(2_000);
    expect(looked).toBe(true);
    expect(models.ready([a])).toBe(false);
  });

  it("cannot be had without a folder of models", async () => {
    const none = new Models(
      ports,
      undefined,
      { modelsDir: "/models", modelsMaxBytes: undefined, stateDir: "/s" },
      () => {},
    );
    none.want([a], []);
    await none.looked();
    expect(none.problem([a])).toMatch(/keeps no models/);
    none.stop();
  });
});
