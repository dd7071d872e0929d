import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { messageOf } from "../../lib/errors.ts";
import { Database } from "./database.ts";
import type { BodyPurpose, Change, JobFilter } from "./port.ts";
import type { JobId } from "../../protocol/fields.ts";

/** What the main thread asks of the store's thread. One answer each, in order. */
export type StoreRequest =
  | { readonly ask: "commit"; readonly writes: readonly (readonly Change[])[] }
  | { readonly ask: "load" }
  | { readonly ask: "cancelUnfinished"; readonly now: number; readonly error: string }
  | { readonly ask: "jobs"; readonly filter: JobFilter }
  | { readonly ask: "job"; readonly id: JobId }
  | { readonly ask: "submitted"; readonly consumer: string; readonly idempotency: string }
  | { readonly ask: "body"; readonly job: JobId; readonly purpose: BodyPurpose }
  | { readonly ask: "receipts"; readonly account: string; readonly from: number; readonly limit: number }
  | { readonly ask: "prune"; readonly before: number; readonly limit: number }
  | { readonly ask: "close" };

/** `value` of a commit: one error text or null for each write. */
export type StoreAnswer =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly error: string };

/** `workerData` that tells a thread of the service's bundle to be the store. */
export interface StoreThread {
  readonly thread: "store";
  readonly path: string;
}

/** The path of the database if this thread was started to be the store. */
export function storeThreadPath(): string | undefined {
  const data: unknown = workerData;
  if (typeof data !== "object" || data === null || !("thread" in data) || data.thread !== "store")
    return undefined;
  return "path" in data && typeof data.path === "string" ? data.path : undefined;
}

/** Serves the database to the main thread until it says `close`. */
export function serveStore(path: string, port: MessagePort): void {
  let db: Database | undefined;
  port.on("message", (request: StoreRequest) => {
    let answer: StoreAnswer;
    try {
      if (request.ask === "close") {
        db?.close();
        answer = { ok: true, value: undefined };
      } else {
        db ??= new Database(path);
        answer = { ok: true, value: answerTo(db, request) };
      }
    } catch (error) {
      answer = { ok: false, error: messageOf(error) };
    }
    port.postMessage(answer);
    if (request.ask === "close") port.close();
  });
}

function answerTo(db: Database, request: Exclude<StoreRequest, { ask: "close" }>): unknown {
  switch (request.ask) {
    case "commit":
      return db.commit(request.writes);
    case "load":
      return db.load();
    case "cancelUnfinished":
      return db.cancelUnfinished(request.now, request.error);
    case "jobs":
      return db.jobs(request.filter);
    case "job":
      return db.job(request.id);
    case "submitted":
      return db.submitted(request.consumer, request.idempotency);
    case "body":
      return db.body(request.job, request.purpose);
    case "receipts":
      return db.receipts(request.account, request.from, request.limit);
    case "prune":
      return db.prune(request.before, request.limit);
    default:
      return request satisfies never;
  }
}

const path = storeThreadPath();
if (path !== undefined && parentPort) serveStore(path, parentPort);
