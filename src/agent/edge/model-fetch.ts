import { createReadStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { Agent as HttpAgent, type IncomingMessage, request as httpRequest } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { sep } from "node:path";
import { fileURLToPath } from "node:url";
import type { Fetched, ModelFetch } from "../models/world.ts";
import type { ProxyEnv } from "./transport.ts";

const maxRedirects = 5;
/** A place that says nothing for this long is given up; the part stays. */
const silenceMs = 60_000;

/**
 * Reads weights from where they lie.
 *
 * @param sourceDirs folders that `file:` sources may be in, links followed; none: no such source is read.
 */
export function modelFetch(proxyEnv: ProxyEnv, sourceDirs: readonly string[]): ModelFetch {
  const agents = {
    "http:": new HttpAgent({ keepAlive: true, maxFreeSockets: 4, timeout: silenceMs, proxyEnv }),
    "https:": new HttpsAgent({ keepAlive: true, maxFreeSockets: 4, timeout: silenceMs, proxyEnv }),
  };

  /** Head of the answer to one request. */
  const ask = (url: URL, from: number, signal: AbortSignal): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const secure = url.protocol === "https:";
      const sent = (secure ? httpsRequest : httpRequest)(url, {
        agent: secure ? agents["https:"] : agents["http:"],
        signal,
        headers: {
          // A compressed answer has other bytes, and no ranges that could be gone on with.
          "accept-encoding": "identity",
          "user-agent": "resultity-agent",
          ...(from > 0 && { range: `bytes=${from}-` }),
        },
      });
      sent.setTimeout(silenceMs, () => sent.destroy(new Error(`nothing came for ${silenceMs / 1000} s`)));
      sent.on("error", reject);
      sent.on("response", resolve);
      sent.end();
    });

  const overHttp = async (url: string, from: number, signal: AbortSignal): Promise<Fetched> => {
    let at = new URL(url);
    for (let hop = 0; hop <= maxRedirects; hop++) {
      const answer = await ask(at, from, signal);
      const next = redirectOf(answer, at);
      if (!next) return fetchedOf(answer, at, from);
      answer.destroy();
      at = next;
    }
    throw new Error(`${shown(url)} redirects more than ${maxRedirects} times`);
  };

  return {
    open: (url, from, signal) =>
      url.startsWith("file:") ? overFile(url, from, sourceDirs, signal) : overHttp(url, from, signal),
  };
}

const shown = (url: string | URL): string => {
  // A redirect's query may carry a signature.
  const { origin, pathname } = new URL(url);
  return `${origin}${pathname}`.slice(0, 200);
};

function redirectOf(answer: IncomingMessage, at: URL): URL | undefined {
  const { statusCode = 0, headers } = answer;
  if (![301, 302, 303, 307, 308].includes(statusCode)) return undefined;
  const to = headers.location === undefined ? undefined : URL.parse(headers.location, at.href);
  if (to && (to.protocol === "https:" || (to.protocol === "http:" && at.protocol === "http:"))) return to;
  answer.destroy();
  throw new Error(`${shown(at)} redirects to nowhere that may be asked (HTTP ${statusCode})`);
}

function fetchedOf(answer: IncomingMessage, at: URL, from: number): Fetched {
  const { statusCode = 0, headers } = answer;
  const encoding = headers["content-encoding"] ?? "identity";
  if (statusCode === 200 && encoding === "identity")
    return { from: 0, size: sizeIn(headers["content-length"]), body: answer, close: () => answer.destroy() };
  if (statusCode === 206 && encoding === "identity") {
    const [, start, size] =
      /^bytes (\d{1,15})-\d{1,15}\/(\d{1,15}|\*)$/.exec(headers["content-range"] ?? "") ?? [];
    if (Number(start) === from)
      return { from, size: sizeIn(size), body: answer, close: () => answer.destroy() };
  }
  answer.destroy();
  throw new Error(`${shown(at)} answered HTTP ${statusCode}`);
}

const sizeIn = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;

async function overFile(
  url: string,
  from: number,
  sourceDirs: readonly string[],
  signal: AbortSignal,
): Promise<Fetched> {
  const path = await realpath(fileURLToPath(url));
  const allowed = await Promise.all(sourceDirs.map((dir) => realpath(dir).catch(() => undefined)));
  if (!allowed.some((dir) => dir !== undefined && path.startsWith(dir.endsWith(sep) ? dir : `${dir}${sep}`)))
    throw new Error(`${path} is in no folder that file sources may be in (--models-source-dir)`);
  const seen = await stat(path);
  if (!seen.isFile()) throw new Error(`${path} is no file`);
  const body = createReadStream(path, { start: from, signal, highWaterMark: 1024 * 1024 });
  return { from, size: seen.size, body, close: () => body.destroy() };
}
