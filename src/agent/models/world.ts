/** What keeping models asks of the machine. The real one is in `edge/`. */
export interface ModelWorld {
  readonly disk: ModelDisk;
  readonly fetch: ModelFetch;
}

/** Large files and locks. Paths are absolute. */
export interface ModelDisk {
  /** Size and time of change of a plain file; undefined for anything else and for nothing. */
  stat(path: string): Promise<FileMark | undefined>;
  /** Bytes of all plain files below a folder; 0 if there is none. */
  usage(path: string): Promise<number>;
  /** Bytes that may still be written below a folder. */
  free(path: string): Promise<number>;
  /** True when a folder is there, or could be made, and takes files. */
  writable(path: string): Promise<boolean>;
  /** The file's bytes in pieces. */
  read(path: string): AsyncIterable<Uint8Array>;
  /** Opens a file to go on with it after its first `from` bytes; what is beyond them is cut off. Makes missing folders. */
  append(path: string, from: number): Promise<Appending>;
  /** Moves a file; after a power cut it is at the one place or the other. Makes missing folders. */
  move(from: string, to: string): Promise<void>;
  /** Wall time of a path's last change, by its file system; undefined if there is none. */
  changedAt(path: string): Promise<number | undefined>;
  /** Sets a path's time of change to now. */
  touch(path: string): Promise<void>;
  /**
   * Takes a lock that the system gives up when this process ends, however it ends; undefined while somebody has one that
   * excludes it. Makes the file.
   *
   * @throws Error where the folder has no such locks.
   */
  lock(path: string, how: "shared" | "exclusive"): Promise<Lock | undefined>;
}

/** What tells that a file has not been written since it was verified. */
export interface FileMark {
  readonly size: number;
  /** Time of its last change, ms with fractions. */
  readonly mtimeMs: number;
}

/** A file that grows. */
export interface Appending {
  /** Resolves once the system has taken the bytes: who waits for it reads no faster than the disk writes. */
  write(bytes: Uint8Array): Promise<void>;
  /** Makes durable what has been written, and closes. */
  finish(): Promise<void>;
  /** Closes. What has been written may stay. */
  close(): Promise<void>;
}

/** A lock that is held. */
export interface Lock {
  release(): void;
}

/** Reads from http, https and file URLs. */
export interface ModelFetch {
  /**
   * @param from bytes that are not needed. Not every server can leave them out: see {@link Fetched}.
   * @throws Error when there is nothing to be had; the message says what the place answered.
   */
  open(url: string, from: number, signal: AbortSignal): Promise<Fetched>;
}

/** A file that is being read. */
export interface Fetched {
  /** Where `body` begins: `from`, or 0. */
  readonly from: number;
  /** Bytes of the whole file, where the place says it. */
  readonly size: number | undefined;
  /** Throws when it breaks off. */
  readonly body: AsyncIterable<Uint8Array>;
  /** Ends it early; nothing happens after its end. */
  close(): void;
}
