import { createHash } from "node:crypto";
import type { Timer } from "../../lib/clock.ts";
import { CodedError } from "../../lib/errors.ts";
import type { Payload } from "../../protocol/messages.ts";
import {
  envelopeContentType,
  envelopeHeader,
  type HttpAnswer,
  jobInputTyp,
  jobOutputTyp,
  paths,
} from "../../protocol/http.ts";
import type { VerifyKey } from "../../protocol/keys.ts";
import type { HttpHead, HttpRequest, Ports } from "../ports.ts";
import type { NodeHttp } from "../session/http-node.ts";

/** A transfer came to nothing. `mismatch`: the bytes are not those that were announced. `stale`: the attempt is not this node's. */
export class TransferError extends CodedError<"mismatch" | "stale" | "busy" | "unavailable"> {
  /** When to try again, ms; only with `busy`. */
  readonly retryMs: number | undefined;

  constructor(code: TransferError["code"], message: string, retryMs?: number) {
    super(code, message);
    this.retryMs = retryMs;
  }
}

export type Lease = Pick<Payload<"offer">, "job" | "attempt" | "token">;
type Input = NonNullable<Payload<"offer">["input"]>;

/** Bodies too large for a frame, between the service and a job. Aborted by the signal, which rejects with its reason. */
export interface Transfers {
  /** Fetches a job's input; what comes has the size and hash that were offered. @throws {TransferError} */
  fetch(lease: Lease, input: Input, signal: AbortSignal): Promise<Uint8Array>;
  /** Brings a job's whole output. @throws {TransferError} */
  upload(lease: Lease, output: Uint8Array, sha256: string, signal: AbortSignal): Promise<void>;
}

/** Where the service is, and the key with which it signs. */
export interface ServicePeer {
  readonly endpoint: string;
  readonly key: VerifyKey;
}

/** Longest silence in a transfer, and longest transfer, ms. */
const stallMs = 10_000;
const transferMs = 5 * 60_000;
/** How often requests of this node may cross one another on their way, before it is taken for a fault. */
const maxCrossings = 8;
/** Longest wait that the service may ask for, ms. */
const maxRetryMs = 60_000;
/** Most bytes of a refusal. */
const maxRefusalBytes = 64 * 1024;

/** Transfers by HTTP, with the envelope of `http-node.ts`. */
export class HttpTransfers implements Transfers {
  readonly #ports: Pick<Ports, "http" | "clock">;
  readonly #node: NodeHttp;
  readonly #peer: () => ServicePeer | undefined;

  constructor(ports: Pick<Ports, "http" | "clock">, node: NodeHttp, peer: () => ServicePeer | undefined) {
    this.#ports = ports;
    this.#node = node;
    this.#peer = peer;
  }

  async fetch(lease: Lease, input: Input, signal: AbortSignal): Promise<Uint8Array> {
    const take = new InputTaker(input);
    await this.#crossing(async (peer) => {
      const url = `${peer.endpoint.replace(/\/+$/, "")}${paths.jobInput(lease.job)}`;
      const body = this.#node.seal(jobInputTyp, { ...lease }, url);
      const headers = { "content-type": envelopeContentType };
      const { head, rest } = await this.#send({ method: "POST", url, headers, body }, signal, stallMs, take);
      if (head.status !== 200) this.#refused(peer, url, head, rest);
    });
    return take.bytes();
  }

  async upload(lease: Lease, output: Uint8Array, sha256: string, signal: AbortSignal): Promise<void> {
    await this.#crossing(async (peer) => {
      const url = `${peer.endpoint.replace(/\/+$/, "")}${paths.jobOutput(lease.job)}`;
      const said = { ...lease, sha256, size: output.length };
      const headers = {
        "content-type": "application/octet-stream",
        [envelopeHeader]: this.#node.seal(jobOutputTyp, said, url),
      };
      // How fast the bytes leave is not seen here: the service cuts an upload that stalls.
      const request = { method: "PUT" as const, url, headers, body: output };
      const { head, rest } = await this.#send(request, signal, transferMs);
      this.#refused(peer, url, head, rest);
    });
  }

  /** Does it again when a later request of this node has overtaken this one. */
  async #crossing(act: (peer: ServicePeer) => Promise<void>): Promise<void> {
    for (let crossings = 0; ; crossings++) {
      const peer = this.#peer();
      if (!peer) throw new TransferError("unavailable", "no session with the service");
      try {
        return await act(peer);
      } catch (thrown) {
        if (!(thrown instanceof Crossed)) throw thrown;
        if (crossings >= maxCrossings)
          throw new TransferError("unavailable", "the service has refused every seq of this node");
      }
    }
  }

  /** Reads a signed answer; returns if it is none of a refusal. @throws {TransferError} */
  #refused(peer: ServicePeer, url: string, head: HttpHead, rest: Buffer): void {
    const asked = 1000 * Number(head.headers["retry-after"] ?? Number.NaN);
    const retryMs = asked > 0 ? Math.min(asked, maxRetryMs) : undefined;
    let answer: HttpAnswer;
    try {
      answer = this.#node.hear(url, head.status, rest, peer.key);
    } catch (cause) {
      const busy = head.status === 429 || head.status === 503;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new TransferError(busy ? "busy" : "unavailable", why, busy ? retryMs : undefined);
    }
    if (!answer.error) {
      if (head.status === 200) return;
      throw new TransferError("unavailable", `${url} answered HTTP ${head.status}`);
    }
    const { code, message } = answer.error;
    if (code === "sequence") throw new Crossed();
    const named = `${url} refused: ${code}: ${message}`;
    if (code === "E_LEASE_STALE") throw new TransferError("stale", named);
    if (code === "E_BUSY") throw new TransferError("busy", named, retryMs);
    throw new TransferError(code === "digest_mismatch" ? "mismatch" : "unavailable", named);
  }

  /** One exchange; `take` gets the body of a 200, `rest` that of any other answer, and of a 200 without `take`. */
  #send(
    request: HttpRequest,
    signal: AbortSignal,
    silenceMs: number,
    take?: InputTaker,
  ): Promise<{ readonly head: HttpHead; readonly rest: Buffer }> {
    const { http, clock } = this.#ports;
    return new Promise((resolve, reject) => {
      let head: HttpHead | undefined;
      let silence: Timer | undefined;
      const rest: Uint8Array[] = [];
      let restBytes = 0;
      const over = () => {
        silence?.cancel();
        whole.cancel();
        signal.removeEventListener("abort", aborted);
      };
      const give = (error: unknown) => {
        over();
        exchange.abort();
        reject(error);
      };
      const tooSlow = (ms: number) => () =>
        give(new TransferError("unavailable", `${request.url}: no end within ${ms} ms`));
      const alive = () => {
        silence?.cancel();
        silence = clock.setTimer(tooSlow(silenceMs), silenceMs);
      };
      const aborted = () => give(signal.reason);
      const whole = clock.setTimer(tooSlow(transferMs), transferMs);
      alive();
      signal.addEventListener("abort", aborted);
      const exchange = http.request(request, {
        head: (answer) => (head = answer),
        data(bytes) {
          alive();
          try {
            if (take && head?.status === 200) return take.take(bytes);
          } catch (thrown) {
            return give(thrown);
          }
          restBytes += bytes.length;
          if (restBytes > maxRefusalBytes)
            give(new TransferError("unavailable", `${request.url}: the answer is too large`));
          else rest.push(bytes);
        },
        end() {
          over();
          if (head) resolve({ head, rest: Buffer.concat(rest) });
          else reject(new TransferError("unavailable", `${request.url}: ended without an answer`));
        },
        failed(error) {
          over();
          reject(new TransferError("unavailable", `${request.url}: ${error.message}`));
        },
      });
      if (signal.aborted) aborted();
    });
  }
}

/** Two requests of this node have crossed: the later one's seq was seen first. */
class Crossed extends Error {}

/** Takes an input as it comes, into the room that its offer named. */
class InputTaker {
  readonly #input: Input;
  readonly #bytes: Buffer;
  readonly #hash = createHash("sha256");
  #size = 0;

  constructor(input: Input) {
    this.#input = input;
    this.#bytes = Buffer.allocUnsafe(input.size);
  }

  take(more: Uint8Array): void {
    if (this.#size + more.length > this.#bytes.length)
      throw new TransferError("mismatch", `the input is larger than the ${this.#bytes.length} bytes offered`);
    this.#bytes.set(more, this.#size);
    this.#size += more.length;
    this.#hash.update(more);
  }

  bytes(): Uint8Array {
    if (this.#size !== this.#bytes.length || this.#hash.digest("hex") !== this.#input.sha256)
      throw new TransferError("mismatch", "size or hash of the input are not those that were offered");
    return this.#bytes;
  }
}
