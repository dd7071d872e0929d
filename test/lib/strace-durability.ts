/**
 * What a trace must show of a process that acknowledges nothing before it would survive a power loss. Each function looks
 * for a kind of acknowledgement, says how many it has found, and what is wrong with those that came too early.
 */
import { dirname } from "node:path";
import { type Call, precedes, stringsOf, syncAfter, writtenBy } from "./strace.ts";
import { type Transaction, transactionsOf } from "./strace-sqlite.ts";
import { messageOf, type SentFrame, sentFrames } from "./strace-ws.ts";

/** How many acknowledgements were looked at, and what is wrong with some. */
export interface Proof {
  readonly checked: number;
  readonly problems: readonly string[];
}

/**
 * Why a call that tells of something may tell what a power loss undoes: the first transaction that has its `bytes` was not
 * synced before. Undefined = it was.
 */
function tooEarly(transactions: readonly Transaction[], bytes: string, told: Call): string | undefined {
  const commit = transactions.find(({ pages }) => pages.includes(bytes));
  if (!commit) return "is told of, and is in no transaction of the database";
  if (!commit.sync) return "is told of, and its transaction was never synced";
  if (precedes(commit.sync, told)) return undefined;
  const after = ((commit.sync.at - told.at) * 1000).toFixed(1);
  return `is told of before the sync of its transaction has returned (which began ${after} ms later)`;
}

/** Acknowledgements of committed results that the service has sent to nodes; each holds the receipt that was written. */
export function ackProof(calls: readonly Call[], db: string): Proof {
  const transactions = transactionsOf(calls, db);
  const problems: string[] = [];
  let checked = 0;
  for (const { kind, payload, write } of sentFrames(calls)) {
    const results: unknown = kind === "ack" ? payload["results"] : kind === "verdict" ? payload["jobs"] : [];
    for (const result of Array.isArray(results) ? (results as Readonly<Record<string, unknown>>[]) : []) {
      const receipt = result["receipt"];
      if (typeof receipt !== "string") continue;
      checked++;
      // The signature, which nothing else has in it.
      const problem = tooEarly(transactions, receipt.slice(receipt.lastIndexOf(".") + 1), write);
      if (problem !== undefined) problems.push(`${kind}: the receipt of ${String(result["job"])} ${problem}`);
    }
  }
  return { checked, problems };
}

/** Offers of asynchronous jobs: the attempt with its token, which a restarted service must know again, before the offer. */
export function offerProof(calls: readonly Call[], db: string): Proof {
  const offers = sentFrames(calls).filter(
    ({ kind, payload }) => kind === "offer" && payload["durable"] === true,
  );
  const transactions = transactionsOf(calls, db);
  const problems = offers.flatMap(({ payload, write }) => {
    const problem = tooEarly(transactions, String(payload["token"]), write);
    return problem === undefined ? [] : [`offer: the attempt at ${String(payload["job"])} ${problem}`];
  });
  return { checked: offers.length, problems };
}

/** `ready` frames of a node's sessions: each after a transaction with the node's row, later than the session's challenge. */
export function readyProof(calls: readonly Call[], db: string, nodeId: string): Proof {
  const transactions = transactionsOf(calls, db);
  const problems: string[] = [];
  let checked = 0;
  const begun = new Map<string, SentFrame>();
  for (const frame of sentFrames(calls)) {
    const { kind, payload, write } = frame;
    if (kind === "challenge") begun.set(write.file, frame);
    const challenge = begun.get(write.file)?.write;
    if (kind !== "ready" || !challenge) continue;
    checked++;
    const since = transactions.filter(({ end }) => end.begun > challenge.ended);
    const problem = tooEarly(since, nodeId, write);
    if (problem !== undefined) problems.push(`ready: epoch ${String(payload["epoch"])} ${problem}`);
  }
  return { checked, problems };
}

/** An HTTP/1.1 answer whose head and body came with one write. */
export interface SentAnswer {
  readonly status: number;
  readonly body: string;
  readonly write: Call;
}

/** What the traced process has answered over HTTP. */
export function sentAnswers(calls: readonly Call[]): readonly SentAnswer[] {
  return calls
    .filter(({ file }) => file.startsWith("TCP"))
    .flatMap((write) => {
      const [, status, body = ""] =
        /^HTTP\/1\.1 (\d{3}) .*?\r\n\r\n(.*)$/s.exec(writtenBy(write).toString("latin1")) ?? [];
      return status === undefined ? [] : [{ status: Number(status), body, write }];
    });
}

/** HTTP answers that tell of something: each only after the first transaction that has it. `what` finds its bytes; undefined = another answer. */
export function answerProof(
  calls: readonly Call[],
  db: string,
  what: (answer: SentAnswer) => string | undefined,
): Proof {
  const told = sentAnswers(calls).flatMap((answer) => {
    const bytes = what(answer);
    return bytes === undefined ? [] : [{ bytes, answer }];
  });
  const transactions = transactionsOf(calls, db);
  const problems = told.flatMap(({ bytes, answer: { status, write } }) => {
    const problem = tooEarly(transactions, bytes, write);
    return problem === undefined ? [] : [`answer ${status}: ${bytes} ${problem}`];
  });
  return { checked: told.length, problems };
}

/**
 * Signed answers to a node's numbered requests, which came one after another: each only after a transaction with the node's
 * row that is later than the answer before, so that no number is ever taken twice.
 */
export function numberProof(calls: readonly Call[], db: string, nodeId: string): Proof {
  const transactions = transactionsOf(calls, db);
  const problems: string[] = [];
  let checked = 0;
  let before = -1;
  for (const { status, body, write } of sentAnswers(calls)) {
    const { kind, payload } = messageOf(body);
    if (status !== 200 || kind !== "http-answer" || payload["node_id"] !== nodeId) continue;
    checked++;
    const since = transactions.filter(({ end }) => end.begun > before);
    const problem = tooEarly(since, nodeId, write);
    if (problem !== undefined) problems.push(`answer: seq ${String(payload["http_seq"])} ${problem}`);
    before = write.ended;
  }
  return { checked, problems };
}

/** The move of a finished file to its name, if it has come back. */
interface Move {
  readonly from: string;
  readonly to: string;
  readonly call: Call;
  /** Sync of the folder that makes the new name last. */
  readonly lasting: Call | undefined;
}

function movesOf(calls: readonly Call[]): readonly Move[] {
  return calls
    .filter(({ name, result }) => name.startsWith("rename") && result === 0)
    .map((call) => {
      const [from = "", to = ""] = stringsOf(call).map((path) => path.toString("utf8"));
      return { from, to, call, lasting: syncAfter(calls, dirname(to), call) };
    });
}

/** Why a file under its final name may be empty or half after a power loss; undefined = it may not. */
function notWhole(calls: readonly Call[], { from, call }: Move): string | undefined {
  const last = calls.findLast(
    (one) => one.file === from && writtenBy(one).length > 0 && one.begun < call.begun,
  );
  if (!last) return "is moved to its name, and nobody has seen it written";
  const sync = syncAfter(calls, from, last);
  if (!sync) return "is moved to its name, and was never synced";
  return precedes(sync, call) ? undefined : "is moved to its name before it is synced";
}

/** Files that were written aside and then moved to their names, which begin with `path`: synced before, and the folder after. */
export function moveProof(calls: readonly Call[], path: string): Proof {
  const moves = movesOf(calls).filter(({ to }) => to.startsWith(path));
  const problems = moves.flatMap((move) => {
    const problem =
      notWhole(calls, move) ?? (move.lasting ? undefined : "has its name, and the folder was never synced");
    return problem === undefined ? [] : [`${move.to} ${problem}`];
  });
  return { checked: moves.length, problems };
}

/** `result` frames of the named jobs that an agent has sent: each only once the result's file lasts, name and content. */
export function resultProof(calls: readonly Call[], folder: string, jobs: ReadonlySet<string>): Proof {
  const problems: string[] = [];
  let checked = 0;
  const moves = movesOf(calls);
  for (const { kind, payload, write } of sentFrames(calls)) {
    const job = String(payload["job"]);
    if (kind !== "result" || !jobs.has(job)) continue;
    checked++;
    const move = moves.find(({ to }) => to === `${folder}/${job}.${String(payload["attempt"])}`);
    const problem = move ? notWhole(calls, move) : "is told of, and has no file";
    if (problem !== undefined) problems.push(`result: that of ${job} ${problem}`);
    else if (!move?.lasting || !precedes(move.lasting, write))
      problems.push(`result: that of ${job} is told of before the folder with its name is synced`);
  }
  return { checked, problems };
}
