import { createHash, timingSafeEqual } from "node:crypto";

/** API keys as the service knows them: SHA-256 in hex → consumer. */
export class ApiKeys {
  readonly #consumers = new Map<string, { readonly hash: Buffer; readonly consumer: string }>();

  add(sha256: string, consumer: string): void {
    this.#consumers.set(sha256, { hash: Buffer.from(sha256, "hex"), consumer });
  }

  /** The consumer whose key an `authorization` header carries; undefined = none, or a key that is not known. */
  consumerOf(authorization: string | undefined): string | undefined {
    const key =
      authorization === undefined ? undefined : /^Bearer +([\x21-\x7e]{8,256})$/i.exec(authorization)?.[1];
    if (key === undefined) return undefined;
    const hash = createHash("sha256").update(key).digest();
    const known = this.#consumers.get(hash.toString("hex"));
    return known && timingSafeEqual(known.hash, hash) ? known.consumer : undefined;
  }
}
