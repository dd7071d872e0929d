import { type ClientHttp2Session, connect, constants } from "node:http2";
import type { Clock, Timer } from "../lib/clock.ts";
import type { ApiConnection } from "./config.ts";
import { KubeError } from "./errors.ts";

/** Waits of a session, in milliseconds. */
export interface SessionTiming {
  /** Until TCP, TLS and HTTP/2 settings are done. */
  readonly connectTimeout: number;
  /** Between an answered ping and the next. */
  readonly pingInterval: number;
  /** Until a ping counts as unanswered and the connection as dead. */
  readonly pingTimeout: number;
}

/** A dead peer is noticed within `pingInterval + pingTimeout` = 20 s, under the 30 s that FAULTS F08 asks for. */
export const defaultTiming: SessionTiming = {
  connectTimeout: 10_000,
  pingInterval: 10_000,
  pingTimeout: 10_000,
};

const streamWindow = 1 << 20;
const connectionWindow = 16 << 20;

/**
 * Opens one HTTP/2 connection and watches over it with pings until it closes: silence alone is no sign, since an idle
 * watch is silent for a minute between bookmarks. A dead connection is destroyed, which ends every stream on it.
 */
export async function openSession(
  connection: ApiConnection,
  clock: Clock,
  timing: SessionTiming,
): Promise<ClientHttp2Session> {
  const tls = await connection.tls();
  const session = connect(connection.server.origin, {
    ...tls,
    settings: { enablePush: false, initialWindowSize: streamWindow },
  });
  await new Promise<void>((resolve, reject) => {
    const timer = clock.setTimer(() => {
      session.destroy();
      reject(unavailable(connection, `no connection after ${timing.connectTimeout / 1000} s`));
    }, timing.connectTimeout);
    session.once("connect", () => {
      timer.cancel();
      resolve();
    });
    session.once("error", (error) => {
      timer.cancel();
      reject(unavailable(connection, "cannot connect", error));
    });
    session.once("close", () => {
      timer.cancel();
      reject(unavailable(connection, "closed before it was open"));
    });
  });
  // Streams report what befalls their connection; without a listener Node would end the process.
  session.on("error", () => undefined);
  session.setLocalWindowSize(connectionWindow);
  keepAlive(session, clock, timing);
  return session;
}

function keepAlive(session: ClientHttp2Session, clock: Clock, timing: SessionTiming): void {
  let timer: Timer | undefined;
  const heard = () => (session.destroyed ? 0 : session.socket.bytesRead);
  /** The answer comes behind what is on its way: megabytes, when everything is read. As long as that arrives the connection lives. */
  const awaitAnswer = (before: number) => {
    timer = clock.setTimer(() => {
      const now = heard();
      if (now > before) {
        awaitAnswer(now);
        return;
      }
      const dead = new Error(`the API server did not answer a ping for ${timing.pingTimeout / 1000} s`);
      session.destroy(dead, constants.NGHTTP2_CANCEL);
    }, timing.pingTimeout);
  };
  const ping = () => {
    if (session.destroyed) return;
    awaitAnswer(heard());
    session.ping((error) => {
      timer?.cancel();
      if (!error && !session.destroyed) timer = clock.setTimer(ping, timing.pingInterval);
    });
  };
  timer = clock.setTimer(ping, timing.pingInterval);
  session.once("close", () => timer?.cancel());
}

function unavailable(connection: ApiConnection, what: string, cause?: unknown): KubeError {
  return new KubeError("Unavailable", `API server ${connection.server.host}: ${what}`, { cause });
}
