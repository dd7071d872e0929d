import type { Clock } from "../lib/clock.ts";
import type { Random } from "../lib/backoff.ts";
import type { Logger } from "../lib/logger.ts";

/**
 * Everything of the outside world that an agent touches. The real ones are in `edge/`; a simulation runs hundreds of
 * agents in one process with its own, under a clock that it moves by hand.
 */
export interface Ports {
  readonly clock: Clock;
  readonly random: Randomness;
  readonly transport: Transport;
  readonly http: Http;
  readonly files: Files;
  readonly host: Host;
  readonly log: Logger;
}

/** Randomness: numbers for jitter, bytes for nonces. */
export interface Randomness {
  readonly number: Random;
  /** `count` random bytes, base64url. */
  bytes(count: number): string;
}

/** Dials WebSocket sessions. */
export interface Transport {
  /** Never throws: what fails is told through `closed`. */
  dial(url: string, handlers: SocketHandlers): Socket;
}

/** Never called before `dial` has returned. In the order of events; `closed` exactly once, last. */
export interface SocketHandlers {
  opened(): void;
  /** A text message; a binary one is `undefined`. */
  message(text: string | undefined): void;
  /** `code` 1006 when the connection broke or never came to be; `reason` then says how. */
  closed(code: number, reason: string): void;
}

/** A dialled WebSocket. */
export interface Socket {
  send(text: string): void;
  /** Begins the closing handshake. */
  close(code: number, reason: string): void;
  /** Drops the connection at once, without a closing handshake. */
  terminate(): void;
  /** Bytes that `send` has taken and the network has not. */
  readonly buffered: number;
}

/** One HTTP request. */
export interface HttpRequest {
  readonly method: "GET" | "POST" | "PUT";
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
}

/** Head of an answer. */
export interface HttpHead {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
}

/** Never called before `request` has returned. In order: `head` once, `data` any number of times, then `end` or `failed` once. Nothing after `abort`. */
export interface HttpHandlers {
  head(head: HttpHead): void;
  data(bytes: Uint8Array): void;
  end(): void;
  failed(error: Error): void;
}

/** A request under way. */
export interface HttpExchange {
  /** Ends it, closing its connection; no handler is called any more. */
  abort(): void;
  /** Reads no more of the answer, so that its sender has to wait; a piece that is on its way may still come. */
  pause(): void;
  resume(): void;
}

/** HTTP client, for the service and for the engine. No time limits of its own: the caller aborts. */
export interface Http {
  request(request: HttpRequest, handlers: HttpHandlers): HttpExchange;
}

/** Files by absolute path. */
export interface Files {
  /**
   * The bytes of a file; undefined if there is none.
   *
   * @param most for a file that another container can write: bytes that it may have. What is larger, a link, a pipe or a
   *   device counts as none, so that nobody can have the agent read without end, or what is not theirs.
   * @throws on any other failure (rights, I/O).
   */
  read(path: string, most?: number): Promise<Buffer | undefined>;
  /**
   * Writes a file so that after a crash or a power cut it has the old content or the new: temporary file, fsync,
   * rename, fsync of the folder. Makes missing folders.
   */
  write(path: string, content: string | Uint8Array, mode?: number): Promise<void>;
  /** Names in a folder; empty if there is none. */
  list(path: string): Promise<readonly string[]>;
  /** Removes a file or a folder with all in it; nothing happens if there is none. */
  remove(path: string): Promise<void>;
  /** Calls `changed` some time after something in the folder changed; a hint, may miss changes. Returns the stop. */
  watch(path: string, changed: () => void): () => void;
}

/** What the agent asks of the machine. */
export interface Host {
  /** A TCP port of the loopback interface that nothing listens on. */
  freePort(): Promise<number>;
  readonly cpus: number;
  readonly memoryMib: number;
  /** Bytes of the filesystem on which the agent's own root lies; undefined where that cannot be told. */
  rootDisk?(): { readonly free: number; readonly total: number } | undefined;
}
