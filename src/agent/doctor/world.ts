import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, stat, statfs } from "node:fs/promises";
import { lookup } from "node:dns/promises";
import { connect } from "node:net";
import { connect as connectTls } from "node:tls";
import type { Clock } from "../../lib/clock.ts";
import type { Files, Http, Transport } from "../ports.ts";

/** What the doctor looks at, so that tests can show it any machine. */
export interface DoctorWorld {
  readonly files: Files;
  readonly http: Http;
  readonly transport: Transport;
  readonly clock: Clock;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Permission bits and kind of a file; undefined if there is none or it cannot be seen. */
  stat(path: string): Promise<{ readonly mode: number; readonly folder: boolean } | undefined>;
  mayWrite(path: string): Promise<boolean>;
  /** Space of the file system of a path, for those who are not root; undefined when it cannot be told. */
  space(path: string): Promise<{ readonly free: number; readonly total: number } | undefined>;
  /** Addresses of a host. @throws Error when the name does not resolve. */
  lookup(host: string): Promise<readonly string[]>;
  /** @throws Error when no TCP connection comes to be in 5 s. */
  connect(host: string, port: number): Promise<void>;
  /** End of the certificate's life, wall time in ms. @throws Error when it is not trusted. */
  tls(host: string, port: number): Promise<number>;
  /** Runs a program for 10 s at most; undefined when it is not installed. */
  run(
    command: string,
    args: readonly string[],
  ): Promise<{ readonly ok: boolean; readonly text: string } | undefined>;
}

const connectTimeoutMs = 5_000;

/** The part of the world that is not ports of the agent: this machine. */
export const thisMachine: Omit<DoctorWorld, "files" | "http" | "transport" | "clock" | "env"> = {
  async stat(path) {
    try {
      const found = await stat(path);
      return { mode: found.mode & 0o7777, folder: found.isDirectory() };
    } catch {
      return undefined;
    }
  },

  async mayWrite(path) {
    try {
      await access(path, constants.W_OK);
      return true;
    } catch {
      return false;
    }
  },

  async space(path) {
    try {
      const { bavail, blocks, bsize } = await statfs(path);
      return { free: bavail * bsize, total: blocks * bsize };
    } catch {
      return undefined;
    }
  },

  async lookup(host) {
    return (await lookup(host, { all: true })).map(({ address }) => address);
  },

  connect: (host, port) =>
    new Promise((resolve, reject) => {
      const socket = connect({ host, port, timeout: connectTimeoutMs });
      socket.once("connect", () => {
        socket.destroy();
        resolve();
      });
      socket.once("timeout", () => socket.destroy(new Error(`no connection within ${connectTimeoutMs} ms`)));
      socket.once("error", reject);
    }),

  tls: (host, port) =>
    new Promise((resolve, reject) => {
      const socket = connectTls({ host, port, servername: host, timeout: connectTimeoutMs });
      socket.once("secureConnect", () => {
        const expires = Date.parse(socket.getPeerCertificate().valid_to);
        socket.destroy();
        resolve(expires);
      });
      socket.once("timeout", () => socket.destroy(new Error(`no handshake within ${connectTimeoutMs} ms`)));
      socket.once("error", reject);
    }),

  run: (command, args) =>
    new Promise((resolve) => {
      execFile(command, [...args], { timeout: 10_000, maxBuffer: 1024 * 1024 }, (error, stdout, stderr) => {
        if (error && "code" in error && error.code === "ENOENT") resolve(undefined);
        else resolve({ ok: error === null, text: `${stdout}${error ? stderr : ""}`.trim() });
      });
    }),
};
