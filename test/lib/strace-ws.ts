import { type Call, writtenBy } from "./strace.ts";

/** A WebSocket message as it was written to a socket. */
export interface SentFrame {
  /** Kind (`typ` of the JWS, without the protocol's prefix) and payload, unverified; "" = not a JWS. */
  readonly kind: string;
  readonly payload: Readonly<Record<string, unknown>>;
  /** The call that wrote its first byte. */
  readonly write: Call;
}

interface Piece {
  readonly from: number;
  readonly write: Call;
}

/** The text messages (RFC 6455, masked or not, in one frame each) that the traced process has sent, in order, over all its WebSockets. */
export function sentFrames(calls: readonly Call[]): readonly SentFrame[] {
  const streams = new Map<string, { bytes: Buffer[]; length: number; pieces: Piece[] }>();
  for (const one of calls) {
    if (!one.file.startsWith("TCP")) continue;
    const data = writtenBy(one);
    if (data.length === 0) continue;
    const stream = streams.get(one.file) ?? { bytes: [], length: 0, pieces: [] };
    streams.set(one.file, stream);
    stream.pieces.push({ from: stream.length, write: one });
    stream.bytes.push(data);
    stream.length += data.length;
  }
  const frames: SentFrame[] = [];
  for (const { bytes, pieces } of streams.values()) frames.push(...framesIn(Buffer.concat(bytes), pieces));
  return frames.sort((a, b) => a.write.begun - b.write.begun);
}

function framesIn(stream: Buffer, pieces: readonly Piece[]): SentFrame[] {
  const head = stream.indexOf("\r\n\r\n");
  const opening = stream.subarray(0, Math.max(0, head)).toString("latin1");
  if (!/^(GET .*upgrade: websocket|HTTP\/1\.1 101 )/is.test(opening)) return [];
  const frames: SentFrame[] = [];
  for (let at = head + 4; at + 2 <= stream.length; ) {
    const opcode = stream.readUInt8(at) & 0x0f;
    const second = stream.readUInt8(at + 1);
    let length = second & 0x7f;
    let body = at + 2;
    if (length === 126) {
      if (body + 2 > stream.length) break;
      length = stream.readUInt16BE(body);
      body += 2;
    } else if (length === 127) {
      if (body + 8 > stream.length) break;
      length = Number(stream.readBigUInt64BE(body));
      body += 8;
    }
    const mask = second & 0x80 ? stream.subarray(body, body + 4) : undefined;
    if (mask) body += 4;
    if (body + length > stream.length) break;
    const write = pieces.findLast(({ from }) => from <= at)?.write;
    if (opcode === 1 && write) {
      const text = Buffer.from(stream.subarray(body, body + length));
      if (mask)
        for (let byte = 0; byte < length; byte++) text[byte] = (text[byte] ?? 0) ^ (mask[byte % 4] ?? 0);
      frames.push({ ...messageOf(text.toString("latin1")), write });
    }
    at = body + length;
  }
  return frames;
}

/** Kind and payload of a compact JWS, unverified. */
export function messageOf(jws: string): Pick<SentFrame, "kind" | "payload"> {
  const [header = "", payload = ""] = jws.split(".");
  const typ = recordOf(header)["typ"];
  return { kind: typeof typ === "string" ? typ.replace(/^rn1\./, "") : "", payload: recordOf(payload) };
}

function recordOf(base64url: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(Buffer.from(base64url, "base64url").toString("utf8"));
    return typeof value === "object" && value !== null ? { ...value } : {};
  } catch {
    return {};
  }
}
