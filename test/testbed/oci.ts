/**
 * Images without a registry or a container engine: an OCI layout written as one tar, which `ctr images import`
 * takes. The base layer is made from this machine: Node, a POSIX shell and `sleep`, each with the shared libraries
 * that the dynamic linker says it needs. The same input gives the same digests.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { posix } from "node:path";
import { TestbedError } from "./errors.ts";
import { tarChunks, tarDigest, type TarEntry } from "./tar.ts";

/** A file of an image: from this machine, or given. */
export type ImageFile = { readonly mode?: number } & (
  | { readonly source: string }
  | { readonly content: string | Uint8Array }
);

/** One image to write. */
export interface ImageSource {
  /** Repository and tag, as `registry.example/engine:v1`. */
  readonly reference: string;
  readonly entrypoint: readonly string[];
  readonly cmd?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly workingDir?: string;
  /** Files of its own layer, by absolute path in the image. */
  readonly files?: Readonly<Record<string, ImageFile>>;
}

/** An image that was written. */
export interface WrittenImage {
  /** As given: repository and tag. */
  readonly reference: string;
  /** `<repository>@sha256:<hex of the manifest>`: what a pod's `image` should say. */
  readonly pinned: string;
  /** `sha256:<hex of the manifest>`. */
  readonly digest: string;
}

/** Where the base layer has Node. */
export const nodeInImage = "/usr/local/bin/node";

/** Programs of the base layer: path in the image → program on this machine. */
export type BasePrograms = Readonly<Record<string, string>>;

/** Node as it runs this process, `sh` and `sleep`. */
export function defaultBase(): BasePrograms {
  return { [nodeInImage]: process.execPath, "/bin/sh": "/bin/sh", "/bin/sleep": "/bin/sleep" };
}

interface Blob {
  readonly hex: string;
  readonly size: number;
  chunks(): Iterable<Uint8Array>;
}

/**
 * Writes `images` into one OCI layout archive at `path`. Each is named in it twice, by tag and by digest, so that
 * containerd finds it under both.
 *
 * @throws TestbedError `ToolMissing` when a program of the base layer is not on this machine
 */
export function writeOciArchive(
  path: string,
  images: readonly ImageSource[],
  base: BasePrograms = defaultBase(),
): WrittenImage[] {
  const blobs = new Map<string, Blob>();
  const put = (blob: Blob): Blob => {
    blobs.set(blob.hex, blob);
    return blob;
  };
  const baseLayer = put(layerOf(baseFiles(base)));
  const written: WrittenImage[] = [];
  const index: object[] = [];
  for (const image of images) {
    const layers = [baseLayer];
    if (image.files) layers.push(put(layerOf(new Map(Object.entries(image.files)))));
    const config = put(jsonBlob(configOf(image, layers)));
    const manifest = put(jsonBlob(manifestOf(config, layers)));
    const digest = `sha256:${manifest.hex}`;
    const pinned = `${image.reference.replace(/:[^:/]*$/, "")}@${digest}`;
    written.push({ reference: image.reference, pinned, digest });
    for (const name of [image.reference, pinned]) {
      index.push({
        ...descriptor("application/vnd.oci.image.manifest.v1+json", manifest),
        annotations: { "io.containerd.image.name": name },
      });
    }
  }
  const entries = layoutEntries(blobs, index);
  const file = openSync(path, "w", 0o600);
  try {
    for (const chunk of tarChunks(entries)) {
      for (let done = 0; done < chunk.length; ) done += writeSync(file, chunk, done);
    }
  } finally {
    closeSync(file);
  }
  return written;
}

function* layoutEntries(blobs: ReadonlyMap<string, Blob>, index: readonly object[]): Generator<TarEntry> {
  const text = (path: string, value: object): TarEntry => ({
    path,
    type: "file",
    mode: 0o644,
    content: Buffer.from(JSON.stringify(value)),
  });
  yield text("oci-layout", { imageLayoutVersion: "1.0.0" });
  yield text("index.json", {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: index,
  });
  for (const [hex, blob] of blobs) {
    const content = Buffer.concat([...blob.chunks()]);
    yield { path: `blobs/sha256/${hex}`, type: "file", mode: 0o644, content };
  }
}

function configOf(image: ImageSource, layers: readonly Blob[]): object {
  const env = { PATH: "/usr/local/bin:/usr/bin:/bin", ...image.env };
  return {
    architecture: process.arch === "x64" ? "amd64" : process.arch,
    os: "linux",
    config: {
      Env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
      Entrypoint: image.entrypoint,
      ...(image.cmd ? { Cmd: image.cmd } : {}),
      WorkingDir: image.workingDir ?? "/",
    },
    rootfs: { type: "layers", diff_ids: layers.map((layer) => `sha256:${layer.hex}`) },
  };
}

function manifestOf(config: Blob, layers: readonly Blob[]): object {
  return {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: descriptor("application/vnd.oci.image.config.v1+json", config),
    layers: layers.map((layer) => descriptor("application/vnd.oci.image.layer.v1.tar", layer)),
  };
}

function descriptor(mediaType: string, blob: Blob): object {
  return { mediaType, digest: `sha256:${blob.hex}`, size: blob.size };
}

function jsonBlob(value: object): Blob {
  const bytes = Buffer.from(JSON.stringify(value));
  return { hex: createHash("sha256").update(bytes).digest("hex"), size: bytes.length, chunks: () => [bytes] };
}

/** A layer with the given files, and a folder entry for each folder above them. */
function layerOf(files: ReadonlyMap<string, ImageFile>): Blob {
  const entries: TarEntry[] = [];
  const folders = new Set<string>();
  for (const [path, file] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
    addFolders(posix.dirname(path), folders, entries);
    const content = "source" in file ? readFileSync(file.source) : Buffer.from(file.content);
    entries.push({ path: path.slice(1), type: "file", mode: file.mode ?? 0o644, content });
  }
  return { ...tarDigest(entries), chunks: () => tarChunks(entries) };
}

function addFolders(folder: string, known: Set<string>, entries: TarEntry[]): void {
  if (folder === "/" || known.has(folder)) return;
  addFolders(posix.dirname(folder), known, entries);
  known.add(folder);
  entries.push({ path: folder.slice(1), type: "folder", mode: folder === "/tmp" ? 0o1777 : 0o755 });
}

/** The base layer: the programs, their libraries where the linker looks for them, and the few files libc reads. */
function baseFiles(programs: BasePrograms): Map<string, ImageFile> {
  const files = new Map<string, ImageFile>([
    ["/etc/passwd", { content: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n" }],
    ["/etc/group", { content: "root:x:0:\nnogroup:x:65534:\n" }],
    ["/etc/nsswitch.conf", { content: "hosts: files dns\n" }],
    ["/tmp/.keep", { content: "" }],
  ]);
  for (const [path, program] of Object.entries(programs)) {
    files.set(path, { source: program, mode: 0o755 });
    for (const library of librariesOf(program)) files.set(library, { source: library, mode: 0o755 });
  }
  return files;
}

/** Absolute paths of the shared libraries of `program`, its loader included; none for a static one. */
function librariesOf(program: string): string[] {
  let out: string;
  try {
    out = execFileSync("ldd", [program], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  } catch (cause) {
    const why = cause instanceof Error && "stderr" in cause ? String(cause.stderr) : "";
    if (why.includes("not a dynamic executable")) return [];
    throw new TestbedError("ToolMissing", `ldd ${program} failed: cannot tell what the image needs`, {
      cause,
    });
  }
  return [...out.matchAll(/(?:=>\s+|^\s+)(\/\S+)\s+\(0x/gm)].flatMap(([, library]) =>
    library === undefined ? [] : [library],
  );
}
