/**
 * Reads what `strace -f -ttt -yy -o` writes: which system call of which thread had returned before which other one began.
 * strace holds a thread at the entry and at the exit of each traced call and tells of them in the order in which it lets
 * them go on. So a call whose end stands before another's beginning has returned to its program before the other was
 * carried out, whatever their times say.
 */

/** One system call. */
export interface Call {
  /** Kernel's id of the thread. */
  readonly thread: number;
  readonly name: string;
  /** Wall time of its beginning, s. */
  readonly at: number;
  /** What its first argument's file descriptor is open on, as `-yy` tells: a path, or `TCP:[from->to]`. "" = none. */
  readonly file: string;
  /** Its arguments as strace prints them. */
  readonly args: string;
  /** What it returned; undefined = it has not returned, or not with a number. */
  readonly result: number | undefined;
  /** Line on which it begins and on which it has returned; Infinity = it has not. */
  readonly begun: number;
  readonly ended: number;
}

/** Arguments for strace before the command to run. The program keeps its process id and stays the caller's child. */
export function straceArgs(output: string): readonly string[] {
  const calls = "fsync,fdatasync,write,writev,pwrite64,pwritev,sendto,sendmsg,rename,renameat,renameat2";
  // Strings whole: the bytes are what the proof is about.
  return ["-D", "-f", "--seccomp-bpf", "-ttt", "-yy", "-s", "16777216", "-e", `trace=${calls}`, "-o", output];
}

const line = /^(\d+) +(\d+\.\d+) (.*)$/s;
const resumed = /^<\.\.\. (\w+) resumed>(.*)$/s;
const call = /^(\w+)\((.*)$/s;
const unfinished = / <(?:unfinished|detached) \.\.\.>$/;

interface Begun {
  readonly thread: number;
  readonly name: string;
  readonly at: number;
  readonly text: string;
  readonly begun: number;
}

/**
 * The calls of a trace, in the order in which they began. A last line without its newline is not there yet. Signals, exits
 * and what else is no call are left out.
 *
 * @throws Error for a line that is not strace's, or that resumes a call which never began
 */
export function parseTrace(text: string): readonly Call[] {
  const calls: Call[] = [];
  const open = new Map<number, Begun>();
  const done = (begun: Begun, rest: string, ended: number) => calls.push(callOf(begun, rest, ended));
  for (const [number, row] of text.split("\n").slice(0, -1).entries()) {
    const [, thread, at, what = ""] = line.exec(row) ?? [];
    if (thread === undefined)
      throw new Error(`trace, line ${number + 1}: not a line of strace: ${row.slice(0, 80)}`);
    if (what.startsWith("+++") || what.startsWith("---")) continue;
    const id = Number(thread);
    const again = resumed.exec(what);
    if (again) {
      const begun = open.get(id);
      if (!begun || begun.name !== again[1])
        throw new Error(
          `trace, line ${number + 1}: resumes ${String(again[1])}, which thread ${id} has not begun`,
        );
      open.delete(id);
      done(begun, again[2] ?? "", number);
      continue;
    }
    const [, name = "", args] = call.exec(what) ?? [];
    if (args === undefined)
      throw new Error(`trace, line ${number + 1}: no system call: ${what.slice(0, 80)}`);
    const cut = unfinished.test(args);
    const begun = { thread: id, name, at: Number(at), text: args.replace(unfinished, ""), begun: number };
    if (cut) open.set(id, begun);
    else done(begun, "", number);
  }
  for (const begun of open.values()) done(begun, "", Infinity);
  return calls.sort((a, b) => a.begun - b.begun);
}

function callOf({ thread, name, at, text, begun }: Begun, rest: string, ended: number): Call {
  const whole = text + rest;
  // The result stands after the last ` = ` behind the closing parenthesis; strings may have the same signs in them.
  const close = ended === Infinity ? -1 : whole.lastIndexOf(") ");
  const [, result] = /^\) += (-?\d+)/.exec(whole.slice(close)) ?? [];
  const args = close < 0 ? whole : whole.slice(0, close);
  const [, file = ""] = /^\d+<((?:->|[^>"])*)>/.exec(args) ?? [];
  return {
    thread,
    name,
    at,
    file,
    args,
    result: result === undefined ? undefined : Number(result),
    begun,
    ended,
  };
}

const quoted = /"((?:[^"\\]|\\.)*)"(\.\.\.)?/gs;
const escape = /\\(?:([0-7]{1,3})|x([0-9a-f]{2})|(.))/gs;
const named: Readonly<Record<string, number>> = { n: 10, t: 9, r: 13, v: 11, f: 12, '"': 34, "\\": 92 };

/** Strings among the arguments of a call, as bytes. @throws Error when strace has cut one short (`-s`) */
export function stringsOf({ args, name }: Pick<Call, "args" | "name">): readonly Buffer[] {
  return [...args.matchAll(quoted)].map(([, text = "", cut]) => {
    if (cut !== undefined)
      throw new Error(`trace: a string of ${name} is cut short: run strace with a larger -s`);
    const plain = text.replaceAll(escape, (_, octal?: string, hex?: string, letter?: string) => {
      if (octal !== undefined) return String.fromCodePoint(parseInt(octal, 8));
      if (hex !== undefined) return String.fromCodePoint(parseInt(hex, 16));
      return String.fromCodePoint(named[letter ?? ""] ?? 0);
    });
    return Buffer.from(plain, "latin1");
  });
}

const writing = new Set(["write", "writev", "pwrite64", "pwritev", "sendto", "sendmsg"]);
const syncing = new Set(["fsync", "fdatasync"]);

/** Bytes that a call has written; empty where it failed or is none that writes. */
export function writtenBy(one: Call): Buffer {
  if (!writing.has(one.name) || one.result === undefined || one.result <= 0) return Buffer.alloc(0);
  return Buffer.concat(stringsOf(one)).subarray(0, one.result);
}

/** Where a `pwrite64` wrote; undefined for other calls. */
export function offsetOf({ name, args }: Call): number | undefined {
  const [, offset] = name === "pwrite64" ? (/, (\d+)$/.exec(args) ?? []) : [];
  return offset === undefined ? undefined : Number(offset);
}

/** The sync of `file` that began after `earlier` had returned and succeeded; of several, that which returned first. */
export function syncAfter(calls: readonly Call[], file: string, earlier: Call): Call | undefined {
  let first: Call | undefined;
  for (const one of calls) {
    if (!syncing.has(one.name) || one.file !== file || one.begun <= earlier.ended || one.result !== 0)
      continue;
    if (!first || one.ended < first.ended) first = one;
  }
  return first;
}

/** Whether `earlier` had returned before `later` was carried out. */
export const precedes = (earlier: Call, later: Call): boolean => earlier.ended < later.begun;

/** Number of syncs that have returned, of files whose path passes `which`. */
export function countSyncs(calls: readonly Call[], which: (file: string) => boolean): number {
  return calls.filter((one) => syncing.has(one.name) && one.result === 0 && which(one.file)).length;
}
