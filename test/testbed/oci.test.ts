import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type ImageSource, writeOciArchive } from "./oci.ts";
import { tarChunks, type TarEntry } from "./tar.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "oci-test-"));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

function archive(entries: readonly TarEntry[]): string {
  const path = join(folder, "a.tar");
  writeFileSync(path, Buffer.concat([...tarChunks(entries)]));
  return path;
}

const content = (text: string) => Buffer.from(text);

describe("tar", () => {
  test("is read by the system's tar, with modes and links", () => {
    const path = archive([
      { path: "folder", type: "folder", mode: 0o1777 },
      { path: "folder/run", type: "file", mode: 0o755, content: content("x".repeat(513)) },
      { path: "folder/empty", type: "file", mode: 0o640, content: content("") },
      { path: "link", type: "link", target: "folder/run" },
    ]);
    const listing = execFileSync("tar", ["tvf", path], { encoding: "utf8" }).trim().split("\n");
    expect(listing.map((line) => line.split(/\s+/).toSpliced(3, 2).join(" "))).toEqual([
      "drwxrwxrwt 0/0 0 folder/",
      "-rwxr-xr-x 0/0 513 folder/run",
      "-rw-r----- 0/0 0 folder/empty",
      "lrwxrwxrwx 0/0 0 link -> folder/run",
    ]);
    expect(execFileSync("tar", ["xOf", path, "folder/run"], { encoding: "utf8" })).toBe("x".repeat(513));
  });

  test("holds a path of more than 100 characters, and refuses one that no ustar header holds", () => {
    const long = `${"folder/".repeat(20)}file`;
    const path = archive([{ path: long, type: "file", mode: 0o644, content: content("") }]);
    expect(execFileSync("tar", ["tf", path], { encoding: "utf8" }).trim()).toBe(long);
    const file = (name: string): TarEntry => ({
      path: name,
      type: "file",
      mode: 0o644,
      content: content(""),
    });
    expect(() => archive([file("x".repeat(101))])).toThrow(RangeError);
    expect(() => archive([file(`${"folder/".repeat(40)}file`)])).toThrow(RangeError);
  });
});

describe("OCI archive", () => {
  const image = (tag: string, text: string): ImageSource => ({
    reference: `registry.test:5000/room/engine:${tag}`,
    entrypoint: ["/bin/sh", "/run.sh"],
    env: { MODE: "test" },
    files: { "/run.sh": { content: text, mode: 0o755 } },
  });
  const base = { "/bin/sh": "/bin/sh" };

  test("every blob is what its name says, and the index leads to the files by tag and by digest", () => {
    const path = join(folder, "images.tar");
    const [written] = writeOciArchive(path, [image("v1", "exit 0\n")], base);
    execFileSync("tar", ["xf", path, "-C", folder]);
    const blob = (digest: string) => {
      const bytes = readFileSync(join(folder, "blobs", ...digest.split(":")));
      expect(`sha256:${createHash("sha256").update(bytes).digest("hex")}`).toBe(digest);
      return bytes;
    };
    const index = JSON.parse(readFileSync(join(folder, "index.json"), "utf8"));
    expect(
      index.manifests.map((each: { annotations: object }) => Object.values(each.annotations)[0]),
    ).toEqual(["registry.test:5000/room/engine:v1", written?.pinned]);
    expect(written?.pinned).toBe(`registry.test:5000/room/engine@${written?.digest}`);
    const manifest = JSON.parse(blob(written?.digest ?? "").toString());
    const config = JSON.parse(blob(manifest.config.digest).toString());
    expect(config.config).toMatchObject({
      Entrypoint: ["/bin/sh", "/run.sh"],
      Env: ["PATH=/usr/local/bin:/usr/bin:/bin", "MODE=test"],
    });
    const digests = manifest.layers.map((layer: { digest: string }) => layer.digest);
    expect(config.rootfs.diff_ids).toEqual(digests);
    for (const digest of digests) blob(digest);
    const [baseLayer, ownLayer] = digests.map((digest: string) =>
      join(folder, "blobs", ...digest.split(":")),
    );
    expect(execFileSync("tar", ["xOf", ownLayer, "run.sh"], { encoding: "utf8" })).toBe("exit 0\n");
    const names = execFileSync("tar", ["tf", baseLayer], { encoding: "utf8" }).split("\n");
    expect(names).toContain("bin/sh");
    expect(names.filter((name) => /libc\.so|ld-(linux|musl)/.test(name)).length).toBeGreaterThan(0);
  });

  test("the same input gives the same digest, another file another one, and the base layer is stored once", () => {
    const write = (name: string, images: readonly ImageSource[]) =>
      writeOciArchive(join(folder, name), images, base).map(({ digest }) => digest);
    const [first] = write("a.tar", [image("v1", "exit 0\n")]);
    const both = write("b.tar", [image("v1", "exit 0\n"), image("v2", "exit 1\n")]);
    expect(both[0]).toBe(first);
    expect(both[1]).not.toBe(first);
    const blobs = execFileSync("tar", ["tf", join(folder, "b.tar")], { encoding: "utf8" }).match(/blobs\//g);
    // One base layer, and for each image a layer, a config and a manifest.
    expect(blobs).toHaveLength(7);
  });
});
