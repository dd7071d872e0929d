/**
 * The connection under one session: an ordered way to send and hear text messages until it closes. The real one is a
 * WebSocket (`upgrade.ts`); a simulation has its own.
 */
export interface Wire {
  /** Who hears it, from now on. Called once, in the turn in which the wire is handed over. */
  hear(listener: WireListener): void;
  /** Nothing happens once it is closed. */
  send(text: string): void;
  /** Begins the closing handshake. */
  close(code: number, reason: string): void;
  /** Drops the connection at once, without a closing handshake. */
  terminate(): void;
  /** Bytes that `send` has taken and the network has not. */
  readonly buffered: number;
}

/** In the order of events; `closed` exactly once, last. */
export interface WireListener {
  /** A text message, each byte as one character (what is not ASCII is no frame); a binary one is `undefined`. */
  message(text: string | undefined): void;
  /** `code` 1006 when the connection broke. */
  closed(code: number): void;
}
