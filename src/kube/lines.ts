import type { Readable } from "node:stream";

/**
 * Cuts a stream of bytes into lines. A line is decoded once it is whole, so that a character which falls on the border of
 * two chunks survives. Throws when a line grows beyond `maxBytes`; what follows the last line end is a cut line, and dropped.
 */
export async function* lines(body: Readable, maxBytes: number): AsyncGenerator<string, void> {
  let parts: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    let rest: Buffer = chunk;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      parts.push(rest.subarray(0, end));
      rest = rest.subarray(end + 1);
      const line = parts.length === 1 ? parts[0] : Buffer.concat(parts);
      parts = [];
      size = 0;
      if (line && line.length > 0) yield line.toString("utf8");
    }
    if (rest.length === 0) continue;
    parts.push(rest);
    size += rest.length;
    if (size > maxBytes) throw new Error(`a line of the stream is longer than ${maxBytes} bytes`);
  }
}
