import type { IncomingMessage } from "node:http";
import type { Readable } from "node:stream";
import type { FastifyRequest } from "fastify";
import type { Bytes } from "../../lib/byte-budget.ts";
import { CodedError } from "../../lib/errors.ts";

/** `too_large`: over the limit for one body. `busy`: over what all bodies together may take. `cut`: it did not come whole. */
export class BodyError extends CodedError<"too_large" | "busy" | "cut"> {}

/** A body, and the part of the budget that it has. */
export class HeldBody {
  readonly bytes: Buffer;
  readonly #share: Share;

  constructor(bytes: Buffer, share: Share) {
    this.bytes = bytes;
    this.#share = share;
  }

  /** The body is not needed any more: its bytes are others' to hold. May be called again. */
  release(): void {
    this.#share.release();
  }
}

/** What a body of unknown length takes of the budget at a time. */
const stepBytes = 64 * 1024;

/** Part of a budget, given back once. */
class Share {
  readonly #budget: Bytes;
  #taken = 0;
  #released = false;

  constructor(budget: Bytes) {
    this.#budget = budget;
  }

  /** Has `bytes` in all. @throws {BodyError} `busy` */
  upTo(bytes: number): void {
    const more = bytes - this.#taken;
    if (more <= 0) return;
    if (this.#released || !this.#budget.take(more))
      throw new BodyError("busy", "bodies on their way take all the memory that there is for them");
    this.#taken = bytes;
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#budget.give(this.#taken);
  }
}

/**
 * Collects a body into memory. Of one whose length is known the memory is taken before its first byte; one of unknown
 * length takes it as it grows.
 *
 * @param limits `length`: what `content-length` says, undefined = unknown; `most`: bytes that one body may have.
 * @throws {BodyError}
 */
export async function collectBody(
  stream: Readable,
  budget: Bytes,
  { length, most }: { readonly length: number | undefined; readonly most: number },
): Promise<HeldBody> {
  const share = new Share(budget);
  try {
    if (length !== undefined && length > most) throw tooLarge(most);
    share.upTo(length ?? 0);
    const bytes = length === undefined ? await grow(stream, share, most) : await fill(stream, length);
    return new HeldBody(bytes, share);
  } catch (error) {
    share.release();
    throw error instanceof BodyError ? error : new BodyError("cut", "the body was cut", { cause: error });
  }
}

const tooLarge = (most: number): BodyError =>
  new BodyError("too_large", `the body is larger than ${most} bytes`);

function fill(stream: Readable, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  let at = 0;
  // The HTTP parser sees to it that no more comes than the header says.
  const take = (piece: Buffer) => (at += piece.copy(bytes, at));
  return drain(stream, take).then(() => {
    if (at !== length) throw new BodyError("cut", "the body was cut");
    return bytes;
  });
}

/** Pieces are copied: thousands of tiny ones, each with what it was cut from, would take far more memory than was counted. */
function grow(stream: Readable, share: Share, most: number): Promise<Buffer> {
  let bytes = Buffer.alloc(0);
  let size = 0;
  const take = (piece: Buffer) => {
    const end = size + piece.length;
    if (end > most) throw tooLarge(most);
    if (end > bytes.length) {
      const room = Math.min(most, Math.max(2 * bytes.length, Math.ceil(end / stepBytes) * stepBytes));
      share.upTo(room);
      const grown = Buffer.allocUnsafe(room);
      bytes.copy(grown, 0, 0, size);
      bytes = grown;
    }
    piece.copy(bytes, size);
    size = end;
  };
  return drain(stream, take).then(() => bytes.subarray(0, size));
}

/** Gives every piece to `take`. If that throws, the rest flows on and is thrown away: a sender that is cut reads no answer. */
function drain(stream: Readable, take: (piece: Buffer) => unknown): Promise<void> {
  return new Promise((resolve, reject) => {
    const data = (piece: Buffer) => {
      try {
        take(piece);
      } catch (error) {
        stream.off("data", data).resume();
        reject(error);
      }
    };
    const cut = () => reject(new BodyError("cut", "the body was cut"));
    const ended = () => {
      // "close" follows each end: an error with its stack would be made for nobody.
      stream.off("close", cut);
      resolve();
    };
    stream.on("data", data).once("end", ended).once("close", cut).once("error", cut);
    if (stream.destroyed) cut();
  });
}

/** What a body says of its length; undefined = nothing. */
export function lengthOf({ headers }: Pick<FastifyRequest, "headers">): number | undefined {
  const length = headers["content-length"];
  return length === undefined ? undefined : Number(length);
}

const unbounded: Bytes = { take: () => true, give: () => {} };

/**
 * Reads bodies of strangers of at most `most` bytes. Fastify's own parsers keep every piece as it came: what comes in crumbs
 * takes a hundred times its size.
 */
export function smallBody(most: number) {
  return async (request: FastifyRequest, payload: IncomingMessage): Promise<Buffer> => {
    try {
      return (await collectBody(payload, unbounded, { length: lengthOf(request), most })).bytes;
    } catch (error) {
      if (!(error instanceof BodyError)) throw error;
      throw Object.assign(error, { statusCode: error.code === "too_large" ? 413 : 400 });
    }
  };
}
