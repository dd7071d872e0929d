import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { diskFiles } from "../../../src/agent/edge/files.ts";
import { modelDisk } from "../../../src/agent/edge/model-disk.ts";
import { busy, type CacheListener, ModelCache } from "../../../src/agent/models/cache.ts";
import { layoutOf } from "../../../src/agent/models/layout.ts";
import { lackOf } from "../../../src/agent/models/room.ts";
import type { ModelDisk, ModelFetch, ModelWorld } from "../../../src/agent/models/world.ts";
import { systemClock } from "../../../src/lib/clock.ts";
import { silentLogger } from "../../../src/lib/logger.ts";
import { type Weights, weightsDigest } from "../../../src/protocol/config/weights.ts";
import { type MadeFile, makeFile, named } from "../fixture/weights.ts";

let dir: string;
/** What a place has, by URL; a function makes the answer. */
let places: Map<
  string,
  Buffer | ((from: number) => { from: number; size?: number; bytes: Buffer; cut?: boolean })
>;
let asked: { url: string; from: number }[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "models-"));
  places = new Map();
  asked = [];
});
afterEach(() => rmSync(dir, { recursive: true }));

const fetch: ModelFetch = {
  open(url, from) {
    asked.push({ url, from });
    const place = places.get(url);
    if (!place) return Promise.reject(new Error(`${url} answered HTTP 404`));
    const answer =
      typeof place === "function" ? place(from) : { from, size: place.length, bytes: place.subarray(from) };
    async function* body() {
      yield await Promise.resolve(answer.bytes);
      if (answer.cut) throw new Error("cut");
    }
    return Promise.resolve({ from: answer.from, size: answer.size, body: body(), close: () => {} });
  },
};

const root = () => join(dir, "models");
const mib = 1024 * 1024;

function weightsOf(files: readonly MadeFile[], sources = ["http://a"]): Weights {
  const total = files.reduce((sum, { size }) => sum + size, 0);
  return { model: "org/m", digest: weightsDigest(named(...files)), files: named(...files), sources, total };
}

function cacheWith(over: { most?: number; disk?: Partial<ModelDisk> } = {}): ModelCache {
  const world: ModelWorld = { disk: { ...modelDisk, ...over.disk }, fetch };
  return new ModelCache({ files: diskFiles, log: silentLogger, clock: systemClock }, world, {
    modelsDir: root(),
    modelsMaxBytes: over.most,
    stateDir: join(dir, "state"),
  });
}

const deaf = { verifying: () => {}, downloading: () => {} };
const never = new AbortController().signal;
const complete = (cache: ModelCache, weights: Weights, listener: CacheListener = deaf) =>
  cache.complete(weights, new Set(), [], listener, never);
const put = (...files: readonly MadeFile[]) => {
  for (const { path, bytes } of files) places.set(`http://a/${path}`, bytes);
};
const fault = async (act: Promise<unknown>) => {
  try {
    await act;
  } catch (thrown) {
    if (thrown instanceof Error && "code" in thrown) return `${String(thrown.code)}: ${thrown.message}`;
  }
  return "none";
};

/** Weights that are complete, with the time of their last use. */
async function kept(size: number, usedMinutesAgo: number): Promise<Weights> {
  const file = makeFile("w", size);
  put(file);
  const weights = weightsOf([file]);
  await complete(cacheWith(), weights);
  setUsed(weights, usedMinutesAgo);
  return weights;
}
function setUsed({ digest }: Weights, minutesAgo: number): void {
  const at = Date.now() / 1000 - minutesAgo * 60;
  utimesSync(layoutOf(root(), digest).lock, at, at);
}
const isThere = ({ digest }: Weights) => existsSync(layoutOf(root(), digest).files);

describe("weights in a folder", () => {
  it("are held once they are whole, and by the marker alone from then on", async () => {
    const files = [makeFile("a", 1000), makeFile("b/c", 2000)];
    put(...files);
    const weights = weightsOf(files);
    expect(await cacheWith().hold(weights)).toBeUndefined();
    const heard: number[] = [];
    await complete(cacheWith(), weights, { ...deaf, downloading: (bytes) => heard.push(bytes) });
    expect(heard).toEqual([0, 1000, 1000, 3000]);
    const reading: ModelDisk["read"] = () => {
      throw new Error("nothing is hashed again");
    };
    const held = await cacheWith({ disk: { read: reading } }).hold(weights);
    expect(held?.folder).toBe(layoutOf(root(), weights.digest).files);
    held?.release();
    expect(statSync(join(held?.folder ?? "", "b/c")).mode & 0o777).toBe(0o644);
  });

  it("are hashed again when a file looks different, and fetched again when it is", async () => {
    const files = [makeFile("a", 1000), makeFile("b", 1000)];
    put(...files);
    const weights = weightsOf(files);
    await complete(cacheWith(), weights);
    const { files: folder } = layoutOf(root(), weights.digest);
    utimesSync(join(folder, "a"), 1, 1);
    writeFileSync(join(folder, "b"), Buffer.alloc(1000));
    asked = [];
    expect(await cacheWith().hold(weights)).toBeUndefined();
    await complete(cacheWith(), weights);
    expect(asked.map(({ url }) => url)).toEqual(["http://a/b"]);
    expect(readFileSync(join(folder, "b"))).toEqual(files[1]?.bytes);
  });

  it("that somebody replaced by a link are not taken", async () => {
    const file = makeFile("a", 1000);
    put(file);
    const weights = weightsOf([file]);
    await complete(cacheWith(), weights);
    const path = join(layoutOf(root(), weights.digest).files, "a");
    rmSync(path);
    writeFileSync(join(dir, "same"), file.bytes);
    symlinkSync(join(dir, "same"), path);
    expect(await cacheWith().hold(weights)).toBeUndefined();
    await complete(cacheWith(), weights);
    expect(statSync(path).isFile()).toBe(true);
  });

  it("go on with a part, and begin anew with a part of something else", async () => {
    const file = makeFile("a", 3000);
    put(file);
    const weights = weightsOf([file]);
    const { parts } = layoutOf(root(), weights.digest);
    const leave = (bytes: Buffer) => {
      mkdirSync(parts, { recursive: true });
      writeFileSync(join(parts, file.sha256), bytes);
    };
    leave(file.bytes.subarray(0, 1000));
    await complete(cacheWith(), weights);
    expect(asked).toEqual([{ url: "http://a/a", from: 1000 }]);

    rmSync(root(), { recursive: true });
    asked = [];
    leave(Buffer.alloc(1000));
    await complete(cacheWith(), weights);
    expect(asked.map(({ from }) => from)).toEqual([1000, 0]);

    for (const whole of [file.bytes, Buffer.alloc(3000), Buffer.alloc(9000)]) {
      rmSync(root(), { recursive: true });
      asked = [];
      leave(whole);
      await complete(cacheWith(), weights);
      expect(asked).toEqual(whole === file.bytes ? [] : [{ url: "http://a/a", from: 0 }]);
      expect(existsSync(parts)).toBe(false);
    }
  });

  it("are taken from the next place when one has less, more, others, or none", async () => {
    const file = makeFile("a", 3000);
    places.set("http://short/a", () => ({ from: 0, bytes: file.bytes.subarray(0, 500) }));
    places.set("http://cut/a", () => ({ from: 500, bytes: file.bytes.subarray(500, 700), cut: true }));
    places.set("http://long/a", () => ({ from: 0, bytes: Buffer.alloc(3001) }));
    places.set("http://other/a", () => ({ from: 0, bytes: Buffer.alloc(3000) }));
    places.set("http://says/a", () => ({ from: 0, size: 9, bytes: Buffer.alloc(9) }));
    places.set("http://right/a", file.bytes);
    const bad = ["short", "cut", "long", "other", "says", "none"].map((name) => `http://${name}`);
    await complete(cacheWith(), weightsOf([file], [...bad, "http://right"]));
    const { digest } = weightsOf([file]);
    expect(readFileSync(join(layoutOf(root(), digest).files, "a"))).toEqual(file.bytes);

    rmSync(root(), { recursive: true });
    expect(await fault(complete(cacheWith(), weightsOf([file], bad)))).toMatch(
      /^unavailable: model org\/m: file a: /,
    );
    const wrong = ["http://long", "http://other", "http://says"];
    expect(await fault(complete(cacheWith(), weightsOf([file], wrong)))).toMatch(
      /^wrong: model org\/m: file a is not what the network signed .*longer.*has sha256.*has 9 bytes/,
    );
    expect(await fault(complete(cacheWith(), weightsOf([file], [])))).toMatch(/^disk: .*no source/);
    expect(isThere(weightsOf([file]))).toBe(false);
  });

  it("are written by one at a time, and not while somebody uses them", async () => {
    const file = makeFile("a", 10);
    put(file);
    const weights = weightsOf([file]);
    const { lock } = layoutOf(root(), weights.digest);
    const writer = await modelDisk.lock(lock, "exclusive");
    expect(await complete(cacheWith(), weights)).toBe(busy);
    writer?.release();
    expect(await complete(cacheWith(), weights)).toBeUndefined();
    const [one, two] = [await cacheWith().hold(weights), await cacheWith().hold(weights)];
    expect(await modelDisk.lock(lock, "exclusive")).toBeUndefined();
    one?.release();
    expect(await complete(cacheWith(), weights)).toBe(busy);
    two?.release();
    two?.release();
    expect(await complete(cacheWith(), weights)).toBeUndefined();
  });

  it.each([
    ["a link", (lock: string) => symlinkSync("/etc/passwd", lock)],
    ["a database of somebody else", (lock: string) => writeFileSync(lock, "SQLite format 3")],
  ])("are not taken by a lock that is %s", async (_what, plant) => {
    const file = makeFile("a", 10);
    put(file);
    const weights = weightsOf([file]);
    const { lock } = layoutOf(root(), weights.digest);
    mkdirSync(dirname(lock), { recursive: true });
    plant(lock);
    expect(await fault(complete(cacheWith(), weights))).toMatch(
      /^disk: .*\.lock cannot be locked \(it is not the empty file that agents make of it: remove it\)/,
    );
  });

  it("that others have put into a folder that cannot be written are hashed once", async () => {
    const files = [makeFile("a", 1000), makeFile("b", 1000)];
    const weights = weightsOf(files);
    const readOnly = { disk: { writable: () => Promise.resolve(false) } };
    expect(await fault(complete(cacheWith(readOnly), weights))).toMatch(/^disk: .*not there.*cannot write/);
    const lay = (folder: string) => {
      for (const { path, bytes } of files) {
        mkdirSync(dirname(join(folder, path)), { recursive: true });
        writeFileSync(join(folder, path), bytes);
      }
    };
    lay(join(root(), "org/m"));
    expect(await cacheWith(readOnly).hold(weights)).toBeUndefined();
    await complete(cacheWith(readOnly), weights);
    expect((await cacheWith(readOnly).hold(weights))?.folder).toBe(join(root(), "org/m"));
    expect(existsSync(join(root(), "sha256"))).toBe(false);

    writeFileSync(join(root(), "org/m/b"), "changed");
    expect(await cacheWith(readOnly).hold(weights)).toBeUndefined();
    expect(await fault(complete(cacheWith(readOnly), weights))).toMatch(
      /^wrong: .*org\/m\/b is not what the network signed/,
    );
    lay(root());
    await complete(cacheWith(readOnly), weights);
    expect((await cacheWith(readOnly).hold(weights))?.folder).toBe(root());
    expect(asked).toEqual([]);
  });

  it("name the folder and the fix when the disk is full", async () => {
    const file = makeFile("a", 10);
    put(file);
    const append: ModelDisk["append"] = () =>
      Promise.reject(Object.assign(new Error("no space left on device"), { code: "ENOSPC" }));
    expect(await fault(complete(cacheWith({ disk: { append } }), weightsOf([file])))).toMatch(
      /^room: .*is full: free space/,
    );
    const lock: ModelDisk["lock"] = () => Promise.reject(new Error("disk I/O error"));
    expect(await fault(complete(cacheWith({ disk: { lock } }), weightsOf([file])))).toMatch(
      /^disk: .*POSIX locks/,
    );
  });
});

describe("room for weights", () => {
  it("is made by removing what nobody uses, the longest unused first, and no more than it takes", async () => {
    const [oldest, older, old] = [await kept(mib, 90), await kept(mib, 60), await kept(mib, 30)];
    const file = makeFile("new", 2 * mib);
    put(file);
    await complete(cacheWith({ most: 4 * mib }), weightsOf([file]));
    expect([oldest, older, old].map(isThere)).toEqual([false, true, true]);
  });

  it("is not made by what somebody uses, has just used, or is still wanted", async () => {
    const [used, recent, wanted, free] = [
      await kept(mib, 90),
      await kept(mib, 80),
      await kept(mib, 70),
      await kept(mib, 10),
    ];
    const held = await cacheWith().hold(used);
    setUsed(used, 90);
    (await cacheWith().hold(recent))?.release();
    const file = makeFile("new", mib);
    put(file);
    const cache = cacheWith({ most: 4 * mib });
    await cache.complete(weightsOf([file]), new Set([wanted.digest]), [], deaf, never);
    expect([used, recent, wanted, free].map(isThere)).toEqual([true, true, true, false]);
    held?.release();
  });

  it("is made at once by what this agent itself has let go", async () => {
    const cache = cacheWith({ most: 2 * mib });
    const mine = await kept(mib, 90);
    (await cache.hold(mine))?.release();
    const file = makeFile("new", 2 * mib);
    put(file);
    await complete(cache, weightsOf([file]));
    expect(isThere(mine)).toBe(false);
  });

  it("is not made in vain: what does not fit anyway costs nobody anything", async () => {
    const unused = await kept(mib, 90);
    const file = makeFile("new", 4 * mib);
    put(file);
    asked = [];
    expect(await fault(complete(cacheWith({ most: 3 * mib }), weightsOf([file])))).toMatch(
      new RegExp(`^room: model org/m needs ${4 * mib} more bytes in .*raise --models-max-bytes`),
    );
    expect(isThere(unused)).toBe(true);
    expect(asked).toEqual([]);
  });

  it("that cannot be made leaves no lock behind: others may use, and remove, what is there", async () => {
    const unused = [await kept(mib, 90), await kept(mib, 80), await kept(mib, 70)];
    const file = makeFile("new", 3 * mib);
    put(file);
    let usages = 0;
    const usage = (path: string) =>
      ++usages > 6 ? Promise.reject(new Error("EIO: i/o error")) : modelDisk.usage(path);
    const files = { ...diskFiles, remove: () => Promise.reject(new Error("EACCES: permission denied")) };
    for (const cache of [
      cacheWith({ most: 3 * mib, disk: { usage } }),
      new ModelCache(
        { files, log: silentLogger, clock: systemClock },
        { disk: modelDisk, fetch },
        { modelsDir: root(), modelsMaxBytes: 3 * mib, stateDir: join(dir, "state") },
      ),
    ]) {
      await expect(complete(cache, weightsOf([file]))).rejects.toThrow(/EIO|EACCES/);
      for (const { digest } of unused) {
        const lock = await modelDisk.lock(layoutOf(root(), digest).lock, "exclusive");
        expect(lock).toBeDefined();
        lock?.release();
      }
    }
  });

  it("is not sought in what a link leads to", async () => {
    const elsewhere = join(dir, "elsewhere");
    mkdirSync(elsewhere);
    writeFileSync(join(elsewhere, "big"), Buffer.alloc(3 * mib));
    const file = makeFile("new", mib);
    put(file);
    const weights = weightsOf([file]);
    const planted = layoutOf(root(), "a".repeat(64)).files;
    mkdirSync(dirname(planted), { recursive: true });
    symlinkSync(elsewhere, planted);
    expect(await modelDisk.usage(planted)).toBe(0);
    await complete(cacheWith({ most: 2 * mib }), weights);
    expect([isThere(weights), existsSync(join(elsewhere, "big"))]).toEqual([true, true]);
  });

  it("counts what is there already of the same weights", async () => {
    const file = makeFile("new", 3 * mib);
    put(file);
    const weights = weightsOf([file]);
    const { parts } = layoutOf(root(), weights.digest);
    mkdirSync(parts, { recursive: true });
    writeFileSync(join(parts, file.sha256), file.bytes.subarray(0, 2 * mib));
    await complete(cacheWith({ most: 3 * mib }), weights);
    expect(isThere(weights)).toBe(true);
  });

  it.each([
    [{ used: 0, free: 1000 * mib, most: undefined }, 10 * mib, -926 * mib],
    [{ used: 0, free: 70 * mib, most: undefined }, 10 * mib, 4 * mib],
    [{ used: 95, free: 1000 * mib, most: 100 }, 10, 5],
    [{ used: 100, free: 1000 * mib, most: 100 }, 0, 0],
  ])("of %j for %d bytes lacks %d", (disk, need, lack) => {
    expect(lackOf(need, disk)).toBe(lack);
  });
});
