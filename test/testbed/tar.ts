import { createHash, type Hash } from "node:crypto";

/** One entry of a tar archive. Owner is root and time zero, so that equal content gives equal bytes. */
export type TarEntry =
  | { readonly path: string; readonly type: "folder"; readonly mode: number }
  | { readonly path: string; readonly type: "file"; readonly mode: number; readonly content: Uint8Array }
  | { readonly path: string; readonly type: "link"; readonly target: string };

const block = 512;

/** The archive's bytes, chunk by chunk, in POSIX ustar format (pax(1), "ustar Interchange Format"). */
export function* tarChunks(entries: Iterable<TarEntry>): Generator<Uint8Array> {
  for (const entry of entries) {
    yield header(entry);
    if (entry.type !== "file") continue;
    yield entry.content;
    const rest = entry.content.length % block;
    if (rest > 0) yield new Uint8Array(block - rest);
  }
  yield new Uint8Array(2 * block);
}

/** SHA-256 and length of an archive, without holding it. */
export function tarDigest(entries: Iterable<TarEntry>): { readonly hex: string; readonly size: number } {
  const hash: Hash = createHash("sha256");
  let size = 0;
  for (const chunk of tarChunks(entries)) {
    hash.update(chunk);
    size += chunk.length;
  }
  return { hex: hash.digest("hex"), size };
}

function header(entry: TarEntry): Uint8Array {
  const bytes = Buffer.alloc(block);
  const { name, prefix } = splitPath(entry.type === "folder" ? `${entry.path}/` : entry.path);
  const mode = entry.type === "link" ? 0o777 : entry.mode;
  const size = entry.type === "file" ? entry.content.length : 0;
  bytes.write(name, 0, 100, "utf8");
  bytes.write(octal(mode, 7), 100, "ascii");
  bytes.write(octal(0, 7), 108, "ascii");
  bytes.write(octal(0, 7), 116, "ascii");
  bytes.write(octal(size, 11), 124, "ascii");
  bytes.write(octal(0, 11), 136, "ascii");
  bytes.write(entry.type === "folder" ? "5" : entry.type === "link" ? "2" : "0", 156, "ascii");
  if (entry.type === "link") bytes.write(entry.target, 157, 100, "utf8");
  bytes.write("ustar\x0000", 257, "ascii");
  bytes.write(prefix, 345, 155, "utf8");
  // The checksum is taken with its own field read as blanks.
  bytes.fill(" ", 148, 156);
  let sum = 0;
  for (const byte of bytes) sum += byte;
  bytes.write(`${octal(sum, 6)}\0 `, 148, "ascii");
  return bytes;
}

function octal(value: number, digits: number): string {
  return value.toString(8).padStart(digits, "0");
}

/** ustar holds 100 bytes of name and 155 of prefix, parted at a slash. */
function splitPath(path: string): { name: string; prefix: string } {
  if (Buffer.byteLength(path) <= 100) return { name: path, prefix: "" };
  for (let cut = path.indexOf("/"); cut !== -1; cut = path.indexOf("/", cut + 1)) {
    const [prefix, name] = [path.slice(0, cut), path.slice(cut + 1)];
    if (name !== "" && Buffer.byteLength(name) <= 100 && Buffer.byteLength(prefix) <= 155) {
      return { name, prefix };
    }
  }
  throw new RangeError(`path is too long for a ustar archive: ${path}`);
}
